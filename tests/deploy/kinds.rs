//! `apiVersion` and `kind` to the k8s-openapi type, and through it without a loss.

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::custom;
use crate::documents::Document;

/// Everything of the document that its type does not know, or why it is not of the type.
pub(crate) fn problems(document: &Document) -> Vec<String> {
    let checks = [
        check::<ConfigMap>,
        check::<DaemonSet>,
        check::<Deployment>,
        check::<HorizontalPodAutoscaler>,
        check::<Ingress>,
        check::<NetworkPolicy>,
        check::<Pod>,
        check::<PodDisruptionBudget>,
        check::<Role>,
        check::<RoleBinding>,
        check::<Secret>,
        check::<Service>,
        check::<ServiceAccount>,
    ];
    let found = checks.iter().find_map(|check| check(document)).or_else(|| custom::problems(document));
    let unknown = || {
        let (version, kind) = (document.text("/apiVersion"), document.text("/kind"));
        vec![format!("{}: unknown apiVersion {version:?} or kind {kind:?}", document.place)]
    };
    found.unwrap_or_else(unknown)
}

/// Whether the document is of this type.
pub(crate) fn is<K: Resource>(document: &Document) -> bool {
    document.text("/apiVersion") == K::API_VERSION && document.text("/kind") == K::KIND
}

fn check<K: Resource + DeserializeOwned + Serialize>(document: &Document) -> Option<Vec<String>> {
    if !is::<K>(document) {
        return None;
    }
    let mut problems = Vec::new();
    match serde_json::from_value::<K>(document.value.clone()) {
        Ok(typed) => {
            let back = serde_json::to_value(&typed).unwrap();
            lost(&document.value, &back, &document.place, &mut problems);
        }
        Err(error) => problems.push(format!("{}: {error}", document.place)),
    }
    Some(problems)
}

/// Collects the parts of `before` that are not in `after`. Types may add (`null`s they leave out, defaults they write),
/// never drop.
fn lost(before: &Value, after: &Value, at: &str, problems: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let at = format!("{at}.{key}");
                match after.get(key) {
                    Some(kept) => lost(value, kept, &at, problems),
                    None => problems.push(format!("{at}: unknown field")),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (value, kept)) in before.iter().zip(after).enumerate() {
                lost(value, kept, &format!("{at}[{index}]"), problems);
            }
        }
        _ if before == after => {}
        _ => problems.push(format!("{at}: {before} became {after}")),
    }
}
