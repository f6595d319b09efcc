//! Workloads of pods, whatever their kind: a Deployment, or a DaemonSet of an overlay.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::bundle::Bundle;

/// The pods of a Deployment or a DaemonSet.
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) selector: LabelSelector,
    pub(crate) template: PodTemplateSpec,
    /// Whether there is one pod on every node.
    pub(crate) is_on_every_node: bool,
    /// How many pods it asks for; `None` if it does not say.
    pub(crate) replicas: Option<i32>,
}

/// All workloads of a bundle.
pub(crate) fn workloads(bundle: &Bundle) -> Vec<Workload> {
    let deployments = bundle.of::<Deployment>().into_iter().map(|one| {
        let (name, spec) = (one.metadata.name.unwrap(), one.spec.unwrap());
        let (selector, template) = (spec.selector, spec.template);
        Workload { name, selector, template, is_on_every_node: false, replicas: spec.replicas }
    });
    let daemons = bundle.of::<DaemonSet>().into_iter().map(|one| {
        let (name, spec) = (one.metadata.name.unwrap(), one.spec.unwrap());
        let (selector, template) = (spec.selector, spec.template);
        Workload { name, selector, template, is_on_every_node: true, replicas: None }
    });
    deployments.chain(daemons).collect()
}
