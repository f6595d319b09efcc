//! Families of time series: one metric each, by the labels that its type names.
//!
//! A family takes its labels as types, so that a call site can neither misspell one nor swap two. Counting by a family looks
//! the series up; what counts often holds a handle on it ([`PerService`]).

use std::marker::PhantomData;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::telemetry::labels::{EndpointState, Label, MethodLabel, ReloadResult, StreamState, TlsFailure};

/// The description of a metric.
pub struct Metric {
    /// The name without the prefix `podpin_`.
    pub name: &'static str,
    /// The help text.
    pub help: &'static str,
    /// The first label, whose values are open: `service`, `listener`; empty if the metric has none.
    pub owner: &'static str,
}

impl Metric {
    fn options(&self) -> Opts {
        Opts::new(self.full_name(), self.help)
    }

    pub(super) fn full_name(&self) -> String {
        format!("podpin_{}", self.name)
    }
}

/// A kind of metric that can be registered.
pub trait Family: Sized {
    /// Makes the metric and registers it.
    ///
    /// # Errors
    /// If another metric has its name, which is a bug.
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<Self>;
}

/// A family whose first label is a service.
pub trait PerService: Family {
    /// A handle on the series of one service.
    type Handle;

    /// Returns the handle on the series of `service`; they show as 0 from then on.
    fn resolve(&self, service: &str) -> Self::Handle;
}

/// Registers a collector and returns it.
pub(super) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let collector = made?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Registers counters with these labels.
fn counters(registry: &Registry, metric: &Metric, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    registered(registry, IntCounterVec::new(metric.options(), labels))
}

/// Registers gauges with these labels.
pub(super) fn gauges(
    registry: &Registry,
    metric: &Metric,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    registered(registry, IntGaugeVec::new(metric.options(), labels))
}

/// Counters, one for each owner.
pub struct Counters(IntCounterVec);

impl Counters {
    /// Adds one to the counter of `owner`.
    pub fn inc(&self, owner: &str) {
        self.0.with_label_values(&[owner]).inc();
    }
}

impl Family for Counters {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<Counters> {
        counters(registry, metric, &[metric.owner]).map(Counters)
    }
}

impl PerService for Counters {
    type Handle = IntCounter;

    fn resolve(&self, service: &str) -> IntCounter {
        self.0.with_label_values(&[service])
    }
}

/// Counters, one for each owner and value of a label.
pub struct CountersBy<L>(IntCounterVec, PhantomData<L>);

impl<L: Label> CountersBy<L> {
    /// Adds one to the counter of `owner` with this label.
    pub fn inc(&self, owner: &str, label: L) {
        self.0.with_label_values(&[owner, label.label()]).inc();
    }
}

impl<L: Label> Family for CountersBy<L> {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<CountersBy<L>> {
        Ok(CountersBy(counters(registry, metric, &[metric.owner, L::NAME])?, PhantomData))
    }
}

impl<L: Label> PerService for CountersBy<L> {
    type Handle = Labelled<L>;

    fn resolve(&self, service: &str) -> Labelled<L> {
        let resolve = |label: &L| self.0.with_label_values(&[service, label.label()]);
        Labelled { counters: L::ALL.iter().map(resolve).collect(), label: PhantomData }
    }
}

/// The counters of one service by a label, one for each of its values.
pub struct Labelled<L> {
    /// In the order of [`Label::ALL`].
    counters: Box<[IntCounter]>,
    label: PhantomData<L>,
}

impl<L: Label> Labelled<L> {
    /// Adds one under this label.
    pub fn inc(&self, label: L) {
        let counters = L::ALL.iter().zip(&self.counters);
        counters.filter(|(one, _)| **one == label).for_each(|(_, counter)| counter.inc());
    }
}

/// Counters, one for each service and pair of labels.
pub struct CountersByPair<L, M>(IntCounterVec, PhantomData<(L, M)>);

impl<L: Label, M: Label> CountersByPair<L, M> {
    /// Adds one to the counter of `owner` with these labels.
    pub fn inc(&self, owner: &str, first: L, second: M) {
        self.0.with_label_values(&[owner, first.label(), second.label()]).inc();
    }
}

impl<L: Label, M: Label> Family for CountersByPair<L, M> {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<CountersByPair<L, M>> {
        Ok(CountersByPair(counters(registry, metric, &[metric.owner, L::NAME, M::NAME])?, PhantomData))
    }
}

impl<L: Label, M: Label> PerService for CountersByPair<L, M> {
    type Handle = LabelledPair<L, M>;

    fn resolve(&self, service: &str) -> LabelledPair<L, M> {
        let row = |first: &L| {
            let resolve = |second: &M| self.0.with_label_values(&[service, first.label(), second.label()]);
            Labelled { counters: M::ALL.iter().map(resolve).collect(), label: PhantomData }
        };
        LabelledPair { rows: L::ALL.iter().map(row).collect(), label: PhantomData }
    }
}

/// The counters of one service by two labels, one for each pair of their values.
pub struct LabelledPair<L, M> {
    /// In the order of [`Label::ALL`].
    rows: Box<[Labelled<M>]>,
    label: PhantomData<L>,
}

impl<L: Label, M: Label> LabelledPair<L, M> {
    /// Adds one under this pair of labels.
    pub fn inc(&self, first: L, second: M) {
        let rows = L::ALL.iter().zip(&self.rows);
        rows.filter(|(one, _)| **one == first).for_each(|(_, row)| row.inc(second));
    }
}

/// Counters of handshakes that failed, one for each reason and listener or service.
pub struct TlsFailures(IntCounterVec);

impl TlsFailures {
    /// Adds one to the counter of a listener.
    pub fn inc_listener(&self, listener: &str, reason: TlsFailure) {
        self.0.with_label_values(&["", listener, reason.label()]).inc();
    }
}

impl Family for TlsFailures {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<TlsFailures> {
        counters(registry, metric, &[metric.owner, "listener", TlsFailure::NAME]).map(TlsFailures)
    }
}

impl PerService for TlsFailures {
    type Handle = TlsFailuresOfService;

    fn resolve(&self, service: &str) -> TlsFailuresOfService {
        TlsFailuresOfService { counters: self.0.clone(), service: service.into() }
    }
}

/// The counters of one service, which appear with the first failure: few services have TLS.
pub struct TlsFailuresOfService {
    counters: IntCounterVec,
    service: Box<str>,
}

impl TlsFailuresOfService {
    /// Adds one under this reason.
    pub fn inc(&self, reason: TlsFailure) {
        self.counters.with_label_values(&[&*self.service, "", reason.label()]).inc();
    }
}

/// Counters, one for each owner and HTTP status code.
pub struct CountersByCode(IntCounterVec);

impl CountersByCode {
    /// Adds one to the counter of `owner` with this status code; 0 stands for no answer.
    pub fn inc(&self, owner: &str, code: u16) {
        self.0.with_label_values(&[owner, code_label(code).as_str()]).inc();
    }
}

impl Family for CountersByCode {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<CountersByCode> {
        counters(registry, metric, &[metric.owner, "code"]).map(CountersByCode)
    }
}

/// Counters, one for each service, route, method and HTTP status code.
pub struct RequestCounters(IntCounterVec);

impl RequestCounters {
    /// Adds one; `service` and `route` are empty if no route matched, and the code 0 stands for no answer.
    pub fn inc(&self, service: &str, route: &str, method: MethodLabel, code: u16) {
        let code = code_label(code);
        self.0.with_label_values(&[service, route, method.label(), code.as_str()]).inc();
    }
}

impl Family for RequestCounters {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<RequestCounters> {
        let labels = [metric.owner, "route", MethodLabel::NAME, "code"];
        counters(registry, metric, &labels).map(RequestCounters)
    }
}

/// A status code as a label.
enum CodeLabel {
    Status(http::StatusCode),
    /// No answer.
    Absent,
}

impl CodeLabel {
    fn as_str(&self) -> &str {
        match self {
            CodeLabel::Status(status) => status.as_str(),
            CodeLabel::Absent => "0",
        }
    }
}

fn code_label(code: u16) -> CodeLabel {
    http::StatusCode::from_u16(code).map_or(CodeLabel::Absent, CodeLabel::Status)
}

/// Counters, one for each result of a reload.
pub struct ReloadCounters(IntCounterVec);

impl ReloadCounters {
    /// Adds one under this result.
    pub fn inc(&self, result: ReloadResult) {
        self.0.with_label_values(&[result.label()]).inc();
    }

    /// Shows all results as 0, before any is counted.
    pub(super) fn show_zeros(&self) {
        ReloadResult::ALL.iter().for_each(|result| drop(self.0.with_label_values(&[result.label()])));
    }
}

impl Family for ReloadCounters {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<ReloadCounters> {
        counters(registry, metric, &[ReloadResult::NAME]).map(ReloadCounters)
    }
}

/// Gauges, one for each owner.
pub struct Gauges(IntGaugeVec);

impl Gauges {
    /// Returns the gauge of `owner`, for a guard that gives back what it counted.
    #[must_use]
    pub fn of(&self, owner: &str) -> IntGauge {
        self.0.with_label_values(&[owner])
    }

    /// Sets the gauge of `owner`.
    pub fn set(&self, owner: &str, value: i64) {
        self.0.with_label_values(&[owner]).set(value);
    }

    /// Removes the gauge of `owner`, if there is one.
    pub fn remove(&self, owner: &str) {
        if let Err(error) = self.0.remove_label_values(&[owner]) {
            tracing::debug!(owner, %error, "no gauge to remove");
        }
    }
}

impl Family for Gauges {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<Gauges> {
        gauges(registry, metric, &[metric.owner]).map(Gauges)
    }
}

impl PerService for Gauges {
    type Handle = IntGauge;

    fn resolve(&self, service: &str) -> IntGauge {
        self.0.with_label_values(&[service])
    }
}

/// Gauges of a time in Unix seconds, one for each owner.
pub struct TimeGauges(GaugeVec);

impl TimeGauges {
    /// Removes the gauge of `owner`, if there is one.
    pub(super) fn remove(&self, owner: &str) {
        if let Err(error) = self.0.remove_label_values(&[owner]) {
            tracing::debug!(owner, %error, "no gauge to remove");
        }
    }
}

impl Family for TimeGauges {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<TimeGauges> {
        registered(registry, GaugeVec::new(metric.options(), &[metric.owner])).map(TimeGauges)
    }
}

impl PerService for TimeGauges {
    type Handle = Gauge;

    fn resolve(&self, service: &str) -> Gauge {
        self.0.with_label_values(&[service])
    }
}

/// Gauges, one for each service and state of an endpoint.
pub struct EndpointGauges(IntGaugeVec);

impl EndpointGauges {
    /// Adds `count` to the endpoints of `service` in a state; 0 makes the gauge show.
    pub fn add(&self, service: &str, state: EndpointState, count: i64) {
        self.0.with_label_values(&[service, state.label()]).add(count);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.reset();
    }
}

impl Family for EndpointGauges {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<EndpointGauges> {
        gauges(registry, metric, &[metric.owner, EndpointState::NAME]).map(EndpointGauges)
    }
}

/// Gauges, one for each endpoint of each service.
pub struct GaugesByEndpoint(IntGaugeVec);

impl GaugesByEndpoint {
    /// Adds `count` to the gauge of an endpoint; 0 makes it show.
    pub fn add(&self, service: &str, endpoint: &str, count: i64) {
        self.0.with_label_values(&[service, endpoint]).add(count);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.reset();
    }
}

impl Family for GaugesByEndpoint {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<GaugesByEndpoint> {
        gauges(registry, metric, &[metric.owner, "endpoint"]).map(GaugesByEndpoint)
    }
}

/// Gauges, one for each endpoint of each service and state of its streams.
pub struct StreamGauges(IntGaugeVec);

impl StreamGauges {
    /// Adds `count` to the gauge of an endpoint's streams in a state; 0 makes it show.
    pub fn add(&self, service: &str, endpoint: &str, state: StreamState, count: i64) {
        self.0.with_label_values(&[service, endpoint, state.label()]).add(count);
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.0.reset();
    }
}

impl Family for StreamGauges {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<StreamGauges> {
        gauges(registry, metric, &[metric.owner, "endpoint", StreamState::NAME]).map(StreamGauges)
    }
}

/// Upper bounds of the buckets of a histogram, in seconds.
pub trait Buckets {
    /// The bounds, in ascending order.
    const SECONDS: &'static [f64];
}

/// Latencies: from half a millisecond to half a minute.
pub enum Latency {}

impl Buckets for Latency {
    const SECONDS: &'static [f64] =
        &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
}

/// Lifetimes of event streams: from a second to a day.
pub enum StreamLifetime {}

impl Buckets for StreamLifetime {
    const SECONDS: &'static [f64] =
        &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];
}

/// Absences of clients, which wait for their `retry:`, by default 1 to 10 s.
pub enum ReconnectGap {}

impl Buckets for ReconnectGap {
    const SECONDS: &'static [f64] = &[0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0];
}

/// Histograms, one for each service.
pub struct Histograms<B>(HistogramVec, PhantomData<B>);

impl<B: Buckets> Family for Histograms<B> {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<Histograms<B>> {
        let options = HistogramOpts::new(metric.full_name(), metric.help).buckets(B::SECONDS.to_vec());
        Ok(Histograms(registered(registry, HistogramVec::new(options, &[metric.owner]))?, PhantomData))
    }
}

impl<B: Buckets> PerService for Histograms<B> {
    type Handle = Histogram;

    fn resolve(&self, service: &str) -> Histogram {
        self.0.with_label_values(&[service])
    }
}

impl Family for IntCounter {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<IntCounter> {
        registered(registry, IntCounter::with_opts(metric.options()))
    }
}

impl Family for IntGauge {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<IntGauge> {
        registered(registry, IntGauge::with_opts(metric.options()))
    }
}

impl Family for Gauge {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<Gauge> {
        registered(registry, Gauge::with_opts(metric.options()))
    }
}

#[cfg(test)]
mod tests {
    use podpin_endpoints::MoveReason;
    use podpin_sse::session::{HandoverCause as Cause, Outcome};

    use super::*;
    use crate::telemetry::labels::{CloseReason, UpstreamErrorKind};

    fn family<F: Family>(registry: &Registry, name: &'static str) -> F {
        F::register(registry, &Metric { name, help: "A test.", owner: "service" }).unwrap()
    }

    /// Returns the value of each label's counter, after one was counted under each of them in turn.
    fn counted<L: Label>() -> Vec<u64> {
        let family: CountersBy<L> = family(&Registry::new(), "test_total");
        let handle = family.resolve("chat");
        L::ALL.iter().for_each(|label| handle.inc(*label));
        L::ALL.iter().map(|label| family.0.with_label_values(&["chat", label.label()]).get()).collect()
    }

    #[test]
    fn every_label_has_a_counter_of_its_own() {
        for values in [counted::<CloseReason>(), counted::<MoveReason>(), counted::<UpstreamErrorKind>()] {
            assert!(!values.is_empty() && values.iter().all(|value| *value == 1), "{values:?}");
        }
    }

    #[test]
    fn a_pair_of_labels_counts_that_pair_only() {
        let family: CountersByPair<Cause, Outcome> = family(&Registry::new(), "test_total");
        let handle = family.resolve("chat");
        handle.inc(Cause::Crash, Outcome::NoId);
        let value = |cause: Cause, outcome: Outcome| {
            family.0.with_label_values(&["chat", cause.label(), outcome.label()]).get()
        };
        assert_eq!(value(Cause::Crash, Outcome::NoId), 1);
        assert_eq!(value(Cause::Planned, Outcome::NoId) + value(Cause::Crash, Outcome::Ok), 0);
    }

    #[test]
    fn a_code_that_is_none_is_counted_as_no_answer() {
        let codes: CountersByCode = family(&Registry::new(), "test_total");
        [0, 99, 404].iter().for_each(|code| codes.inc("chat", *code));
        let value = |code: &str| codes.0.with_label_values(&["chat", code]).get();
        assert_eq!((value("0"), value("404")), (2, 1));
    }

    #[test]
    fn a_name_is_registered_once() {
        let registry = Registry::new();
        let _first: Counters = family(&registry, "test_total");
        let metric = Metric { name: "test_total", help: "A test.", owner: "service" };
        assert!(Counters::register(&registry, &metric).is_err());
    }
}
