//! EndpointSlices as the endpointslice controller writes them, made from pods.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::Pod;

/// The namespace of everything that does not say otherwise.
pub(super) const NAMESPACE: &str = "lab";

/// An endpoint of a slice. A new one is ready, on node `node-1` in zone `zone-a`.
#[derive(Clone, Debug)]
pub struct SlicePod {
    name: String,
    uid: Option<String>,
    address: IpAddr,
    conditions: [Option<bool>; 3],
    node: Option<String>,
    zone: Option<String>,
    hints: Vec<String>,
}

impl SlicePod {
    /// A ready pod; its uid is made from its name.
    pub fn new(name: &str, address: IpAddr) -> SlicePod {
        SlicePod {
            name: name.to_owned(),
            uid: Some(format!("uid-{name}")),
            address,
            conditions: [Some(true), Some(true), Some(false)],
            node: Some("node-1".to_owned()),
            zone: Some("zone-a".to_owned()),
            hints: Vec::new(),
        }
    }

    /// A scripted pod, ready.
    pub fn of(pod: &Pod) -> SlicePod {
        SlicePod::new(pod.name(), pod.address().ip())
    }

    /// With these conditions: ready, serving, terminating; `None` is not said.
    pub fn conditions(mut self, conditions: [Option<bool>; 3]) -> SlicePod {
        self.conditions = conditions;
        self
    }

    /// Neither ready nor serving, not terminating: `---`.
    pub fn unready(self) -> SlicePod {
        self.conditions([Some(false), Some(false), Some(false)])
    }

    /// Terminating and still serving: `-ST`, as a deleted pod with grace.
    pub fn terminating(self) -> SlicePod {
        self.conditions([Some(false), Some(true), Some(true)])
    }

    /// Terminating and no longer serving: `--T`.
    pub fn ending(self) -> SlicePod {
        self.conditions([Some(false), Some(false), Some(true)])
    }

    /// With another uid: a pod that came back under its name.
    pub fn uid(mut self, uid: &str) -> SlicePod {
        self.uid = Some(uid.to_owned());
        self
    }

    /// Without `targetRef`, as in a slice that a person wrote.
    pub fn without_target(mut self) -> SlicePod {
        self.uid = None;
        self
    }

    /// On this node in this zone.
    pub fn on(mut self, node: &str, zone: &str) -> SlicePod {
        (self.node, self.zone) = (Some(node.to_owned()), Some(zone.to_owned()));
        self
    }

    /// With a hint for these zones.
    pub fn hinted(mut self, zones: &[&str]) -> SlicePod {
        self.hints = zones.iter().map(|zone| (*zone).to_owned()).collect();
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn target_uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    fn value(&self, namespace: &str) -> Value {
        let mut endpoint =
            json!({"addresses": [self.address.to_string()], "conditions": self.condition_map()});
        let mut put = |key: &str, value: Value| {
            endpoint.as_object_mut().expect("an object").insert(key.to_owned(), value);
        };
        if let Some(uid) = &self.uid {
            let target = json!({"kind": "Pod", "namespace": namespace, "name": self.name, "uid": uid});
            put("targetRef", target);
        }
        if let Some(node) = &self.node {
            put("nodeName", json!(node));
        }
        if let Some(zone) = &self.zone {
            put("zone", json!(zone));
        }
        if !self.hints.is_empty() {
            let zones: Vec<_> = self.hints.iter().map(|zone| json!({"name": zone})).collect();
            put("hints", json!({"forZones": zones}));
        }
        endpoint
    }

    fn condition_map(&self) -> Value {
        let names = ["ready", "serving", "terminating"];
        let said = names.iter().zip(self.conditions);
        let map: Map<_, _> =
            said.filter_map(|(name, value)| Some(((*name).to_owned(), json!(value?)))).collect();
        Value::Object(map)
    }
}

/// An EndpointSlice in the making: IPv4, one port named `http`, in the namespace `lab`, named after its service.
#[derive(Clone, Debug)]
pub struct Slice {
    namespace: String,
    name: String,
    service: String,
    address_type: &'static str,
    ports: Vec<(String, u16)>,
    pods: Vec<SlicePod>,
}

impl Slice {
    /// A slice of `service` without endpoints.
    pub fn of(service: &str, port: u16) -> Slice {
        Slice {
            namespace: NAMESPACE.to_owned(),
            name: format!("{service}-1"),
            service: service.to_owned(),
            address_type: "IPv4",
            ports: vec![("http".to_owned(), port)],
            pods: Vec::new(),
        }
    }

    /// In another namespace.
    pub fn namespace(mut self, namespace: &str) -> Slice {
        self.namespace = namespace.to_owned();
        self
    }

    /// With another name: services have several slices.
    pub fn name(mut self, name: &str) -> Slice {
        self.name = name.to_owned();
        self
    }

    /// For IPv6 addresses.
    pub fn ipv6(mut self) -> Slice {
        self.address_type = "IPv6";
        self
    }

    /// With these ports instead.
    pub fn ports(mut self, ports: &[(&str, u16)]) -> Slice {
        self.ports = ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
        self
    }

    /// With one more endpoint.
    pub fn pod(mut self, pod: SlicePod) -> Slice {
        self.pods.push(pod);
        self
    }

    /// With these endpoints, too.
    pub fn pods(mut self, pods: impl IntoIterator<Item = SlicePod>) -> Slice {
        self.pods.extend(pods);
        self
    }

    /// The object, without a version. Like the controller's, one without endpoints says `"endpoints":null`.
    pub fn value(&self) -> Value {
        let endpoints: Vec<_> = self.pods.iter().map(|pod| pod.value(&self.namespace)).collect();
        let port = |(name, port): &(String, u16)| json!({"name": name, "port": port, "protocol": "TCP"});
        let ports: Vec<_> = self.ports.iter().map(port).collect();
        json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {
                "name": self.name, "generateName": format!("{}-", self.service), "namespace": self.namespace,
                "uid": format!("uid-slice-{}-{}", self.namespace, self.name),
                "creationTimestamp": "2026-11-22T13:47:19Z", "generation": 1,
                "labels": {
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    "kubernetes.io/service-name": self.service,
                },
            },
            "addressType": self.address_type,
            "endpoints": if endpoints.is_empty() { Value::Null } else { Value::Array(endpoints) },
            "ports": if ports.is_empty() { Value::Null } else { Value::Array(ports) },
        })
    }

    pub(super) fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}
