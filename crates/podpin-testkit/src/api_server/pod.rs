//! Pods as objects of the API: born, deleted with a grace period, gone.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::slice::{NAMESPACE, SlicePod};

/// A Pod in the namespace `lab`, running; its uid is made from its name, as that of a [`SlicePod`].
#[derive(Clone, Debug)]
pub struct PodObject {
    namespace: String,
    name: String,
    uid: String,
}

impl PodObject {
    /// A running pod.
    pub fn new(name: &str) -> PodObject {
        PodObject { namespace: NAMESPACE.to_owned(), name: name.to_owned(), uid: format!("uid-{name}") }
    }

    /// The pod behind an endpoint.
    pub fn of(endpoint: &SlicePod) -> PodObject {
        PodObject::new(endpoint.name()).uid(endpoint.target_uid().expect("an endpoint that is a pod"))
    }

    /// With another uid: a pod that came back under its name.
    pub fn uid(mut self, uid: &str) -> PodObject {
        uid.clone_into(&mut self.uid);
        self
    }

    /// In another namespace.
    pub fn namespace(mut self, namespace: &str) -> PodObject {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Returns the object, without a version. About as long as a small real one: most of it is noise for the reader
    /// under test.
    pub fn value(&self) -> Value {
        let (name, image) = (&self.name, "registry.example.com/chat:1.2.3");
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-22T13:47:35Z"});
        let conditions: Vec<_> =
            ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
                .map(condition)
                .into();
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": name, "namespace": self.namespace, "uid": self.uid, "generateName": "chat-845d9c5dc6-",
                "creationTimestamp": "2026-11-22T13:47:34Z", "generation": 1,
                "labels": {"app": "chat", "pod-template-hash": "845d9c5dc6"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat-845d9c5dc6",
                    "uid": "852f9997-0f8d-4141-9ec4-fa1a12155a7f", "controller": true, "blockOwnerDeletion": true}],
                "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                    "time": "2026-11-22T13:47:34Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata":
                    {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}, "f:pod-template-hash": {}}}}}],
            },
            "spec": {
                "containers": [{"name": "chat", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}, "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                "serviceAccountName": "default", "nodeName": "node-1", "schedulerName": "default-scheduler",
                "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "enableServiceLinks": true,
            },
            "status": {
                "phase": "Running", "conditions": conditions, "hostIP": "10.0.0.1", "podIP": "10.1.0.1",
                "containerStatuses": [{"name": "chat", "image": image, "ready": true, "started": true,
                    "restartCount": 0, "state": {"running": {"startedAt": "2026-11-22T13:47:35Z"}}}],
                "qosClass": "Burstable",
            },
        })
    }
}

/// Deletes a pod with this grace as the API does it: the timestamp is the time of the request plus
/// the grace, in whole seconds, and a second deletion can only bring it nearer.
pub(super) fn delete(pod: &mut Value, grace: Duration, now: SystemTime) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).expect("a clock that is set");
    let at = since.as_secs() + grace.as_secs();
    let metadata = pod.get_mut("metadata").and_then(Value::as_object_mut).expect("metadata");
    let before = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_u64);
    if before.is_some_and(|before| before <= grace.as_secs()) {
        return;
    }
    metadata.insert("deletionTimestamp".to_owned(), json!(rfc3339(at)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace.as_secs()));
}

/// Returns the time at which the object says that it will be killed; `None` if it is not being deleted.
pub(super) fn deadline(pod: &Value) -> Option<&str> {
    pod.pointer("/metadata/deletionTimestamp")?.as_str()
}

/// A time in seconds since 1970 as the API writes it (RFC 3339, UTC), by Howard Hinnant's `civil_from_days`.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_api_writes_them() {
        // From `date -u -d @N +%FT%TZ`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_355_306, "2026-11-22T13:48:26Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn a_second_deletion_only_brings_the_deadline_nearer() {
        let mut pod = PodObject::new("a").value();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(deadline(&pod), None);
        let mut deleted = |now, grace| {
            delete(&mut pod, Duration::from_secs(grace), at(now));
            deadline(&pod).unwrap().to_owned()
        };
        assert_eq!(deleted(100, 30), rfc3339(130));
        assert_eq!(deleted(101, 60), rfc3339(130));
        assert_eq!(deleted(102, 5), rfc3339(107));
        assert_eq!(deleted(103, 0), rfc3339(103));
    }
}
