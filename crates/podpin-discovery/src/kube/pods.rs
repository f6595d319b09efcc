//! The deadlines of Pods: the times at which they will be killed.
//!
//! `metadata.deletionTimestamp` is the time of the request to delete plus the grace period: a deadline already. It may
//! move: a second, shorter deletion brings it nearer, and when the last container has ended, the kubelet sets it to now
//! with a grace of 0. It is asked for as metadata only; specs and statuses never come over the wire.
//!
//! Nothing depends on it: without the right to read Pods, or while they cannot be read, deadlines stay as they are or
//! unknown, and the endpoints are followed as ever.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::kube::KubeEvent;
use crate::kube::failure::Failure;
use crate::kube::pace::BACKOFF_MAX;
use crate::kube::reflector::{Emit, Index, Notice};
use crate::kube::resource::{Extent, Resource};
use crate::kube::store::{Store, locked};
use crate::kube::wire::{Deleted, Nameless, Object, Parts};

/// A right that is missing is not granted within seconds, and nothing waits for it; then again, an API server that has
/// just started refuses for a moment, which the first and shorter waits are for.
const FORBIDDEN_BACKOFF_MAX: Duration = Duration::from_secs(30);

const PODS: Resource =
    Resource { kind: "Pod", plural: "pods", group: "", root: "api/v1", extent: Extent::Metadata };

/// A pod as far as it is needed: of the rest nothing is kept, not even while it is read.
#[derive(Debug, Deserialize)]
pub(crate) struct Pod {
    #[serde(default, rename = "kind")]
    _kind: Option<Kind>,
    metadata: Metadata,
}

/// The items of a list name no kind.
#[derive(Debug, Deserialize)]
enum Kind {
    Pod,
    PartialObjectMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
}

impl Pod {
    fn uid(&self) -> Result<&str, Nameless> {
        self.metadata.uid.as_deref().filter(|uid| !uid.is_empty()).ok_or(Nameless)
    }

    /// Returns the time at which the pod will be killed; `None` if it is not being deleted.
    fn deletion(&self) -> Option<SystemTime> {
        let at = self.metadata.deletion_timestamp.as_ref()?;
        // Whole seconds, in this century; before 1970 is as good as 1970.
        let millis = u64::try_from(at.0.as_millisecond()).unwrap_or_default();
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    }
}

impl Object for Pod {
    const RESOURCE: &'static Resource = &PODS;

    fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

/// The pods of a namespace, kept as deadlines in its store.
pub(crate) struct Pods<'l> {
    store: &'l Mutex<Store>,
}

impl<'l> Pods<'l> {
    /// Returns an index that writes into `store`, and emits for the services with pods.
    pub(crate) fn of(store: &'l Mutex<Store>) -> Pods<'l> {
        Pods { store }
    }
}

impl Index for Pods<'_> {
    type Object = Pod;
    /// Pods that are being deleted, and pods whose deletion was known before.
    type Pending = Vec<(Arc<str>, Option<SystemTime>)>;

    fn kept(&self) -> &'static str {
        "endpoints are followed as before, when their pods will be killed is not known"
    }

    fn backoff_max(failure: &Failure) -> Duration {
        match failure {
            Failure::Refused { code: 403, .. } => FORBIDDEN_BACKOFF_MAX,
            _ => BACKOFF_MAX,
        }
    }

    fn stage(&self, pending: &mut Self::Pending, pod: &Pod, _emit: Emit<'_>) -> Result<(), Nameless> {
        let (uid, deletion) = (pod.uid()?, pod.deletion());
        if deletion.is_some() || locked(self.store).knows_pod(uid) {
            pending.push((uid.into(), deletion));
        }
        Ok(())
    }

    /// Does nothing: a pod that a list leaves out stays as long as a slice lists it.
    fn unreadable(&self, _pending: &mut Self::Pending, _parts: &Parts) {}

    fn replace(&self, pending: Self::Pending, emit: Emit<'_>) -> bool {
        locked(self.store).pods(&pending, &mut |event| emit(event));
        true
    }

    fn put(&self, pod: &Pod, emit: Emit<'_>) -> Result<(), Nameless> {
        locked(self.store).pod(pod.uid()?, pod.deletion(), &mut |event| emit(event));
        Ok(())
    }

    fn remove(&self, deleted: &Deleted, _emit: Emit<'_>) {
        if let Some(uid) = &deleted.parts.uid {
            locked(self.store).pod_gone(uid);
        }
    }

    fn notify(&self, notice: Notice<'_>, emit: Emit<'_>) {
        match notice {
            Notice::Failed { .. } | Notice::Malformed(_) => {
                let wanting = locked(self.store).numbers_with_pods();
                wanting.into_iter().for_each(|service| emit(KubeEvent::PodsFailed { service }));
            }
            // The state of the connection is reported for the slices.
            Notice::Connected | Notice::Listed(_) | Notice::Bookmark => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::wire::{Said, read_line, read_object};

    fn read(json: &str) -> Option<u64> {
        let pod: Box<Pod> = read_object(json).unwrap();
        let at = pod.deletion()?;
        Some(at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn the_deadline_of_a_pod_is_its_deletion_timestamp_to_which_no_grace_is_added() {
        let meta = r#""uid":"u","resourceVersion":"7","deletionTimestamp":"2026-11-22T13:48:26Z""#;
        let whole = format!(
            r#"{{"kind":"Pod","metadata":{{{meta},"deletionGracePeriodSeconds":30}},"spec":{{"a":[1]}}}}"#
        );
        let partial = format!(r#"{{"kind":"PartialObjectMetadata","metadata":{{{meta}}}}}"#);
        for json in [whole, partial, format!(r#"{{"metadata":{{{meta}}}}}"#)] {
            assert_eq!(read(&json), Some(1_795_355_306), "{json}");
        }
        assert_eq!(read(r#"{"metadata":{"uid":"u","deletionTimestamp":null}}"#), None);
        assert_eq!(read(r#"{"metadata":{"uid":"u"}}"#), None);
        assert_eq!(read(r#"{"metadata":{"deletionTimestamp":"1960-01-01T00:00:00Z"}}"#), Some(0));
    }

    #[test]
    fn what_is_no_pod_is_not_taken_for_one() {
        for object in [
            r#"{"kind":"EndpointSlice","metadata":{"uid":"u","name":"n"}}"#,
            r#"{"metadata":{"uid":"u","name":"n","deletionTimestamp":"tomorrow"}}"#,
            r#"{"metadata":{"uid":7,"name":"n"}}"#,
        ] {
            let line = format!(r#"{{"type":"ADDED","object":{object}}}"#);
            let Said::Malformed(suspect) = read_line::<Pod>(line.as_bytes()) else { panic!("{object}") };
            assert_eq!(suspect.parts.name.as_deref(), Some("n"), "{object}");
        }
        let nameless: Box<Pod> = read_object(r#"{"metadata":{"uid":""}}"#).unwrap();
        assert_eq!(nameless.uid(), Err(Nameless));
        let deleted = |kind: &str| {
            let object = format!(r#"{{"kind":"{kind}","metadata":{{"name":"n","uid":"u"}}}}"#);
            let line = format!(r#"{{"type":"DELETED","object":{object}}}"#);
            matches!(read_line::<Pod>(line.as_bytes()), Said::Deleted(one) if one.parts.uid.as_deref() == Some("u"))
        };
        assert!(deleted("Pod") && deleted("PartialObjectMetadata") && !deleted("EndpointSlice"));
    }

    #[test]
    fn a_right_that_is_missing_is_asked_for_ever_more_seldom_and_an_outage_is_over_soon() {
        let refused = |code| Failure::of_status(code, "", "list", &PODS);
        assert_eq!(Pods::backoff_max(&refused(403)), FORBIDDEN_BACKOFF_MAX);
        for failure in [refused(401), refused(503), Failure::Unreachable(String::new()), Failure::Expired] {
            assert_eq!(Pods::backoff_max(&failure), BACKOFF_MAX, "{failure}");
        }
    }
}
