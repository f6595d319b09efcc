//! EndpointSlices as a reflector reads them: into the ledger, and on to the services that they belong to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::kube::KubeEvent;
use crate::kube::failure::Failure;
use crate::kube::ledger::{Draft, Ledger, locked};
use crate::kube::reflector::{BACKOFF_MAX, Book, News, Tell};
use crate::kube::resource::{Extent, Resource, SERVICE_LABEL};
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
    ledger: &'l Mutex<Ledger>,
}

impl<'l> Slices<'l> {
    /// Written into `ledger`.
    pub(crate) fn of(ledger: &'l Mutex<Ledger>) -> Slices<'l> {
        Slices { ledger }
    }

    /// Returns the label selector of those Services' slices. `None` if it would be too long.
    pub(crate) fn selector(&self) -> Option<String> {
        let ledger = locked(self.ledger);
        let names = ledger.names();
        let selector = match names.as_slice() {
            [one] => format!("{SERVICE_LABEL}={one}"),
            several => format!("{SERVICE_LABEL} in ({})", several.join(",")),
        };
        // A comma takes three bytes in a URL.
        let encoded = selector.len() + 2 * names.len();
        Some(selector).filter(|_| encoded <= SELECTOR_BYTES_MAX)
    }

    /// Tells `event` to those who follow the Service; to all, when it is not known whose the news are.
    fn each(&self, service: Option<&str>, tell: Tell<'_>, event: impl Fn(usize) -> KubeEvent) {
        let concerned = locked(self.ledger).concerned(service);
        concerned.into_iter().for_each(|service| tell(event(service)));
    }
}

impl Book for Slices<'_> {
    type Object = EndpointSlice;
    type Draft = Draft;

    fn kept(&self) -> &'static str {
        if locked(self.ledger).is_listed() {
            "the last known endpoints are kept"
        } else {
            "no endpoints are known yet"
        }
    }

    fn backoff_max(_failure: &Failure) -> Duration {
        BACKOFF_MAX
    }

    fn draft(&self, draft: &mut Draft, slice: &EndpointSlice, tell: Tell<'_>) -> Result<(), Nameless> {
        locked(self.ledger).draft(draft, slice, &mut |event| tell(event))
    }

    fn unreadable(&self, draft: &mut Draft, parts: &Parts) {
        draft.unreadable(parts.name.as_deref());
    }

    fn replace(&self, draft: Draft, tell: Tell<'_>) -> bool {
        locked(self.ledger).replace(draft, &mut |event| tell(event))
    }

    fn put(&self, slice: &EndpointSlice, tell: Tell<'_>) -> Result<(), Nameless> {
        locked(self.ledger).put(slice, &mut |event| tell(event))?;
        self.each(Ledger::service_of(slice), tell, |service| KubeEvent::Heard { service });
        Ok(())
    }

    fn remove(&self, deleted: &Deleted, tell: Tell<'_>) {
        locked(self.ledger).remove(&deleted.name, &mut |event| tell(event));
        self.each(deleted.parts.service.as_deref(), tell, |service| KubeEvent::Heard { service });
    }

    fn hear(&self, news: News<'_>, tell: Tell<'_>) {
        match news {
            News::Connected => {
                self.each(None, tell, |service| KubeEvent::Connected { service, connected: true });
            }
            News::Failed { first, new } => {
                if first {
                    self.each(None, tell, |service| KubeEvent::Connected { service, connected: false });
                }
                if let Some(failure) = new {
                    let reason: Arc<str> = failure.to_string().into();
                    let event = |service| KubeEvent::Failed { service, reason: Arc::clone(&reason) };
                    self.each(None, tell, event);
                }
            }
            News::Listed(reason) => {
                self.each(None, tell, |service| KubeEvent::Relist { service, reason });
                self.each(None, tell, |service| KubeEvent::Heard { service });
            }
            News::Bookmark => self.each(None, tell, |service| KubeEvent::Heard { service }),
            News::Malformed(parts) => {
                let event = |service| KubeEvent::Malformed { service };
                self.each(parts.service.as_deref(), tell, event);
            }
        }
    }
}
