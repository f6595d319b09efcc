//! Gauges that show which of several states holds: one for each value of a label, of which at most one is 1.

use std::marker::PhantomData;

use prometheus::{IntGauge, IntGaugeVec, Registry};

use crate::telemetry::labels::Label;
use crate::telemetry::metrics::family::{Family, Metric, PerService, gauges};

/// Gauges, one for each owner and value of a label, of which at most one is 1.
pub struct GaugesBy<L>(IntGaugeVec, PhantomData<L>);

impl<L: Label> GaugesBy<L> {
    /// Removes the gauges of `owner`, if there are any.
    pub(super) fn remove(&self, owner: &str) {
        for label in L::ALL {
            if let Err(error) = self.0.remove_label_values(&[owner, label.label()]) {
                tracing::debug!(owner, %error, "no gauge to remove");
            }
        }
    }
}

impl<L: Label> Family for GaugesBy<L> {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<GaugesBy<L>> {
        Ok(GaugesBy(gauges(registry, metric, &[metric.owner, L::NAME])?, PhantomData))
    }
}

impl<L: Label> PerService for GaugesBy<L> {
    type Handle = Choice<L>;

    fn resolve(&self, service: &str) -> Choice<L> {
        let resolve = |label: &L| self.0.with_label_values(&[service, label.label()]);
        Choice { gauges: L::ALL.iter().map(resolve).collect(), label: PhantomData }
    }
}

/// The gauges of one service by a label, of which at most one is 1.
pub struct Choice<L> {
    /// In the order of [`Label::ALL`].
    gauges: Box<[IntGauge]>,
    label: PhantomData<L>,
}

impl<L: Label> Choice<L> {
    /// Sets the gauge under this label to 1 and all others to 0; all to 0 if it is `None`.
    pub fn set(&self, label: Option<L>) {
        for (one, gauge) in L::ALL.iter().zip(&self.gauges) {
            gauge.set(i64::from(label == Some(*one)));
        }
    }
}
