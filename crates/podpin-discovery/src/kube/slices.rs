//! EndpointSlices as a reflector reads them: into the store, and on to the services that they belong to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::time::Instant;

use crate::kube::KubeEvent;
use crate::kube::failure::Failure;
use crate::kube::pace::BACKOFF_MAX;
use crate::kube::reflector::{Emit, Index, Notice};
use crate::kube::reports::Reports;
use crate::kube::resource::{Extent, Resource, SERVICE_LABEL};
use crate::kube::store::{Pending, Store, locked};
use crate::kube::wire::{Deleted, Nameless, Object, Parts};

/// Longest list of names in a URL, encoded: half of the 8 KiB that proxies in between let pass. A longer one is left
/// out, and the whole namespace is read.
const SELECTOR_BYTES_MAX: usize = 4_096;

/// As the API has them.
pub(crate) const SLICES: Resource = Resource {
    kind: "EndpointSlice",
    plural: "endpointslices",
    group: "discovery.k8s.io",
    root: "apis/discovery.k8s.io/v1",
    extent: Extent::Whole,
};

impl Object for EndpointSlice {
    const RESOURCE: &'static Resource = &SLICES;

    fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

/// The slices of the Services that are followed in a namespace.
pub(crate) struct Slices<'l> {
    store: &'l Mutex<Store>,
    reports: Mutex<Reports>,
}

impl<'l> Slices<'l> {
    /// Returns an index that writes into `store`.
    pub(crate) fn of(store: &'l Mutex<Store>) -> Slices<'l> {
        Slices { store, reports: Mutex::default() }
    }

    /// Returns the label selector of those Services' slices. `None` if it would be too long.
    pub(crate) fn selector(&self) -> Option<String> {
        let store = locked(self.store);
        let names = store.names();
        let selector = match names.as_slice() {
            [one] => format!("{SERVICE_LABEL}={one}"),
            several => format!("{SERVICE_LABEL} in ({})", several.join(",")),
        };
        // A comma takes three bytes in a URL.
        let encoded = selector.len() + 2 * names.len();
        Some(selector).filter(|_| encoded <= SELECTOR_BYTES_MAX)
    }

    /// Logs what is wrong in the slices that were read, each once.
    fn report(&self) {
        let faults = locked(self.store).take_faults();
        if faults.is_empty() {
            return;
        }
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        for (slice, fault) in faults {
            if reports.is_new(&slice, fault.as_str(), Instant::now()) {
                tracing::warn!(%slice, "a part of an EndpointSlice is left out: {}", fault.as_str());
            }
        }
    }

    /// Emits `event` for each follower of the Service; for all followers if the Service is not known.
    fn each(&self, service: Option<&str>, emit: Emit<'_>, event: impl Fn(usize) -> KubeEvent) {
        let concerned = locked(self.store).concerned(service);
        concerned.into_iter().for_each(|service| emit(event(service)));
    }
}

impl Index for Slices<'_> {
    type Object = EndpointSlice;
    type Pending = Pending;

    fn kept(&self) -> &'static str {
        if locked(self.store).is_listed() {
            "the last known endpoints are kept"
        } else {
            "no endpoints are known yet"
        }
    }

    fn backoff_max(_failure: &Failure) -> Duration {
        BACKOFF_MAX
    }

    fn stage(&self, pending: &mut Pending, slice: &EndpointSlice, emit: Emit<'_>) -> Result<(), Nameless> {
        let staged = locked(self.store).stage(pending, slice, &mut |event| emit(event));
        self.report();
        staged
    }

    fn unreadable(&self, pending: &mut Pending, parts: &Parts) {
        pending.unreadable(parts.name.as_deref());
    }

    fn replace(&self, pending: Pending, emit: Emit<'_>) -> bool {
        locked(self.store).replace(pending, &mut |event| emit(event))
    }

    fn put(&self, slice: &EndpointSlice, emit: Emit<'_>) -> Result<(), Nameless> {
        let put = locked(self.store).put(slice, &mut |event| emit(event));
        self.report();
        put?;
        self.each(Store::service_of(slice), emit, |service| KubeEvent::Heard { service });
        Ok(())
    }

    fn remove(&self, deleted: &Deleted, emit: Emit<'_>) {
        locked(self.store).remove(&deleted.name, &mut |event| emit(event));
        self.each(deleted.parts.service.as_deref(), emit, |service| KubeEvent::Heard { service });
    }

    fn notify(&self, notice: Notice<'_>, emit: Emit<'_>) {
        match notice {
            Notice::Connected => {
                self.each(None, emit, |service| KubeEvent::Connected { service, connected: true });
            }
            Notice::Failed { first, failure, words } => {
                if first {
                    self.each(None, emit, |service| KubeEvent::Connected { service, connected: false });
                }
                let (kind, words) = (failure.kind(), words.map(Arc::<str>::from));
                self.each(None, emit, |service| KubeEvent::Failed { service, kind, words: words.clone() });
            }
            Notice::Listed(reason) => {
                self.each(None, emit, |service| KubeEvent::Relist { service, reason });
                self.each(None, emit, |service| KubeEvent::Heard { service });
            }
            Notice::Bookmark => self.each(None, emit, |service| KubeEvent::Heard { service }),
            Notice::Malformed(parts) => {
                let event = |service| KubeEvent::Malformed { service };
                self.each(parts.service.as_deref(), emit, event);
            }
        }
    }
}
