//! Objects of other projects' resources, as far as `deploy/` uses them: their types are in no crate here.
//!
//! The fields are those of cert-manager.io/v1, monitoring.coreos.com/v1 and keda.sh/v1alpha1; a field that is not among them is
//! refused, as a cluster with their schemas would.

#![expect(dead_code, reason = "the fields are there to be read, and not to be used")]

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::documents::Document;

/// An object with the parts that each has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Object<S> {
    api_version: String,
    kind: String,
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: S,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Certificate {
    secret_name: String,
    issuer_ref: IssuerRef,
    dns_names: Vec<String>,
    private_key: Option<PrivateKey>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IssuerRef {
    name: String,
    kind: Option<String>,
    group: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PrivateKey {
    algorithm: String,
    size: u32,
    rotation_policy: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PodMonitor {
    selector: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    pod_metrics_endpoints: Vec<MetricsEndpoint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ServiceMonitor {
    selector: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    endpoints: Vec<MetricsEndpoint>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MetricsEndpoint {
    port: String,
    path: String,
    interval: String,
    honor_labels: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PrometheusRule {
    groups: Vec<RuleGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleGroup {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    alert: String,
    expr: String,
    r#for: String,
    labels: std::collections::BTreeMap<String, String>,
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ScaledObject {
    scale_target_ref: ScaleTarget,
    min_replica_count: u32,
    max_replica_count: u32,
    advanced: Option<Advanced>,
    triggers: Vec<Trigger>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleTarget {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Advanced {
    horizontal_pod_autoscaler_config: AutoscalerConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AutoscalerConfig {
    behavior: k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Trigger {
    r#type: String,
    metric_type: Option<String>,
    metadata: std::collections::BTreeMap<String, String>,
}

/// Returns what is wrong with an object; `None` if it is of no kind that is known here.
pub(crate) fn problems(document: &Document) -> Option<Vec<String>> {
    let read = match (document.text("/apiVersion"), document.text("/kind")) {
        ("cert-manager.io/v1", "Certificate") => read::<Certificate>,
        ("monitoring.coreos.com/v1", "PodMonitor") => read::<PodMonitor>,
        ("monitoring.coreos.com/v1", "ServiceMonitor") => read::<ServiceMonitor>,
        ("monitoring.coreos.com/v1", "PrometheusRule") => read::<PrometheusRule>,
        ("keda.sh/v1alpha1", "ScaledObject") => read::<ScaledObject>,
        _ => return None,
    };
    Some(
        read(&document.value).err().map(|error| format!("{}: {error}", document.place)).into_iter().collect(),
    )
}

fn read<S: DeserializeOwned>(value: &Value) -> Result<(), serde_json::Error> {
    serde_json::from_value::<Object<S>>(value.clone()).map(drop)
}
