//! Names that one object gives to another, and selectors.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::bundle::{self, Bundle};
use crate::workload::workloads;

type Labels = BTreeMap<String, String>;

/// A workload's name and its pods.
fn templates(bundle: &Bundle) -> Vec<(String, PodTemplateSpec)> {
    workloads(bundle).into_iter().map(|one| (one.name, one.template)).collect()
}

fn labels(template: &PodTemplateSpec) -> Labels {
    template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default()
}

/// The Deployments whose pods have these labels.
fn found_by(bundle: &Bundle, wanted: &Labels) -> Vec<String> {
    let matching = |template: &PodTemplateSpec| {
        let labels = labels(template);
        wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let found = templates(bundle).into_iter().filter(|(_, template)| matching(template));
    found.map(|(name, _)| name).collect()
}

fn exact(selector: &LabelSelector) -> Labels {
    assert!(selector.match_expressions.is_none(), "the test does not know expressions");
    selector.match_labels.clone().unwrap_or_default()
}

#[test]
fn every_selector_finds_the_pods_of_one_deployment() {
    for bundle in bundle::all() {
        let mut selectors: Vec<(String, Labels)> = Vec::new();
        for one in bundle.of::<Service>() {
            let name = one.metadata.name.unwrap();
            selectors.push((format!("Service {name}"), one.spec.unwrap().selector.unwrap()));
        }
        for one in bundle.of::<PodDisruptionBudget>() {
            let name = one.metadata.name.unwrap();
            selectors.push((format!("PDB {name}"), exact(&one.spec.unwrap().selector.unwrap())));
        }
        for one in bundle.of::<NetworkPolicy>() {
            let selector = one.spec.unwrap().pod_selector.unwrap();
            selectors.push(("NetworkPolicy".to_owned(), exact(&selector)));
        }
        assert!(selectors.len() >= 3, "{}: {selectors:?}", bundle.name);
        for (who, wanted) in selectors {
            assert!(!wanted.is_empty(), "{}: {who} selects everything", bundle.name);
            assert_eq!(found_by(&bundle, &wanted).len(), 1, "{}: {who} {wanted:?}", bundle.name);
        }
    }
}

#[test]
fn every_deployment_selects_and_spreads_its_own_pods() {
    for bundle in bundle::all() {
        for workload in workloads(&bundle) {
            let name = workload.name;
            let selected = exact(&workload.selector);
            assert_eq!(found_by(&bundle, &selected), [name.as_str()]);
            let pod = workload.template.spec.unwrap();
            let spread = pod.topology_spread_constraints.unwrap_or_default();
            let is_one = workload.replicas == Some(1) || workload.is_on_every_node;
            assert!(is_one || !spread.is_empty(), "{name} is not spread");
            for constraint in spread {
                assert_eq!(exact(&constraint.label_selector.unwrap()), selected, "{name}");
            }
        }
    }
}

#[test]
fn every_service_leads_to_a_port_of_its_pods() {
    for bundle in bundle::all() {
        for service in bundle.of::<Service>() {
            let name = service.metadata.name.unwrap();
            let spec = service.spec.unwrap();
            let deployment = found_by(&bundle, &spec.selector.unwrap()).remove(0);
            let (_, template) = templates(&bundle).into_iter().find(|(name, _)| *name == deployment).unwrap();
            let containers = template.spec.unwrap().containers;
            let names: Vec<_> =
                containers.iter().flat_map(|one| one.ports.iter().flatten()).map(|one| &one.name).collect();
            for port in spec.ports.unwrap() {
                let Some(IntOrString::String(target)) = port.target_port else { panic!("{name}: by name") };
                assert!(names.contains(&&Some(target.clone())), "{name}: no port {target} in {names:?}");
            }
        }
    }
}

#[test]
fn every_service_account_role_and_scale_target_that_is_named_exists() {
    for bundle in bundle::all() {
        for (name, template) in templates(&bundle) {
            if let Some(account) = template.spec.unwrap().service_account_name {
                assert!(bundle.has::<ServiceAccount>(&account), "{name}: {account}");
            }
        }
        for binding in bundle.of::<RoleBinding>() {
            assert_eq!(binding.role_ref.kind, "Role");
            assert!(bundle.has::<Role>(&binding.role_ref.name), "{}", binding.role_ref.name);
            for subject in binding.subjects.unwrap() {
                assert_eq!(subject.kind, "ServiceAccount");
                assert!(bundle.has::<ServiceAccount>(&subject.name), "{}", subject.name);
                // kustomize writes it, and does not change what is written: an overlay for another namespace would
                // give the rights to no account. Helm writes what it is told.
                let is_chart = bundle.name.starts_with("charts/");
                assert_eq!(subject.namespace.is_some(), is_chart, "{}", bundle.name);
            }
        }
        for scaler in bundle.of::<HorizontalPodAutoscaler>() {
            let target = scaler.spec.unwrap().scale_target_ref;
            assert_eq!(target.kind, "Deployment");
            assert!(bundle.has::<Deployment>(&target.name), "{}", target.name);
        }
    }
}
