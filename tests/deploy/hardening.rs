//! Rights, privileges, and rollouts that take nothing away before its successor is there.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::bundle::{self, Bundle};
use crate::workload::workloads;

/// Deployments of one pod whose state is not shared: a second beside it would be another truth.
const ALONE: [&str; 1] = ["redis"];

fn deployments() -> Vec<(String, DeploymentSpec)> {
    let all = bundle::all().iter().flat_map(Bundle::of::<Deployment>).collect::<Vec<_>>();
    all.into_iter().map(|one| (one.metadata.name.unwrap(), one.spec.unwrap())).collect()
}

fn pods() -> Vec<(String, PodSpec)> {
    bundle::all().iter().flat_map(pods_of).collect()
}

fn pods_of(bundle: &Bundle) -> Vec<(String, PodSpec)> {
    workloads(bundle).into_iter().map(|one| (one.name, one.template.spec.unwrap())).collect()
}

fn reads(group: &str, resource: &str) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: ["list", "watch"].map(str::to_owned).to_vec(),
        ..PolicyRule::default()
    }
}

fn rules(bundle: &Bundle) -> Vec<PolicyRule> {
    bundle.of::<Role>().into_iter().flat_map(|role| role.rules.unwrap()).collect()
}

#[test]
fn podpin_may_read_endpoint_slices_and_nothing_else() {
    for directory in ["base", "example"] {
        assert_eq!(rules(&bundle::of(directory)), [reads("discovery.k8s.io", "endpointslices")]);
    }
}

#[test]
fn the_pods_overlay_adds_reading_pods_and_nothing_else() {
    let bundle = bundle::of("overlays/pods-read");
    assert_eq!(rules(&bundle), [reads("discovery.k8s.io", "endpointslices"), reads("", "pods")]);
}

#[test]
fn only_who_talks_to_the_api_server_has_a_token() {
    for (name, pod) in pods() {
        assert_eq!(pod.automount_service_account_token, Some(name == "podpin"), "{name}");
    }
    for account in bundle::all().iter().flat_map(Bundle::of::<ServiceAccount>) {
        assert_eq!(account.automount_service_account_token, Some(false));
    }
}

#[test]
fn every_pod_meets_the_restricted_pod_security_standard() {
    let bundles = bundle::all();
    let with_place = bundles
        .iter()
        .flat_map(|bundle| pods_of(bundle).into_iter().map(|(name, pod)| (&bundle.name, name, pod)));
    for (place, name, pod) in with_place {
        let security = pod.security_context.unwrap_or_default();
        assert_eq!(security.run_as_non_root, Some(true), "{name}");
        // `nonroot` of distroless, which owns nothing; OpenShift chooses one itself.
        let user = if place.ends_with("overlays/openshift") { None } else { Some(65532) };
        assert_eq!(security.run_as_user, user, "{place}: {name}");
        assert!(
            user.is_some() || (security.fs_group, security.run_as_group) == (None, None),
            "{place}: {name}"
        );
        assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault", "{name}");
        assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none(), "{name}");
        assert!(pod.volumes.iter().flatten().all(|volume| volume.host_path.is_none()), "{name}");
        for container in pod.containers {
            let security = container.security_context.unwrap_or_default();
            assert_eq!(security.allow_privilege_escalation, Some(false), "{name}");
            assert_eq!(security.read_only_root_filesystem, Some(true), "{name}");
            let capabilities = security.capabilities.unwrap_or_default();
            assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]), "{name}");
            assert_eq!(capabilities.add, None, "{name}");
        }
    }
}

#[test]
fn every_container_asks_for_cpu_and_memory_and_is_bounded_in_memory() {
    for (name, pod) in pods() {
        for container in pod.containers {
            let resources = container.resources.unwrap_or_default();
            let (requests, limits) = (resources.requests.unwrap(), resources.limits.unwrap());
            assert!(requests.contains_key("cpu") && requests.contains_key("memory"), "{name}");
            assert!(limits.contains_key("memory"), "{name}");
        }
    }
}

#[test]
fn no_pod_goes_before_its_successor_is_ready() {
    for (name, spec) in deployments() {
        let strategy = spec.strategy.unwrap();
        if ALONE.contains(&name.as_str()) {
            assert_eq!(strategy.type_.as_deref(), Some("Recreate"), "{name}");
            continue;
        }
        let rolling = strategy.rolling_update.unwrap();
        assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(0)), "{name}");
        assert_eq!(rolling.max_surge, Some(IntOrString::Int(1)), "{name}");
        let containers = spec.template.spec.unwrap().containers;
        assert!(containers.iter().all(|one| one.readiness_probe.is_some()), "{name}");
    }
}

#[test]
fn a_deployment_has_a_number_of_replicas_or_an_autoscaler_that_holds_two() {
    for bundle in bundle::all() {
        let scalers = bundle.of::<HorizontalPodAutoscaler>();
        for deployment in bundle.of::<Deployment>() {
            let name = deployment.metadata.name.unwrap();
            let replicas = deployment.spec.unwrap().replicas;
            let mut specs = scalers.iter().filter_map(|one| one.spec.as_ref());
            let scaler = specs.find(|one| one.scale_target_ref.name == name);
            let by_keda = bundle.objects.iter().find(|one| one.text("/kind") == "ScaledObject");
            let least = match scaler {
                None if by_keda.is_some_and(|one| one.text("/spec/scaleTargetRef/name") == name) => {
                    assert_eq!(replicas, None, "{name}: every apply would undo KEDA's autoscaler");
                    let least = by_keda.and_then(|one| one.value["spec"]["minReplicaCount"].as_i64());
                    least.and_then(|least| i32::try_from(least).ok())
                }
                Some(scaler) => {
                    assert_eq!(replicas, None, "{name}: every apply would undo the autoscaler");
                    scaler.min_replicas
                }
                None => replicas,
            };
            if ALONE.contains(&name.as_str()) {
                assert_eq!(least, Some(1), "{name}");
            } else {
                assert!(least >= Some(2), "{name}");
            }
        }
    }
}

#[test]
fn the_images_are_those_of_this_version() {
    let dockerfile = crate::documents::repository().join("Dockerfile");
    let dockerfile = std::fs::read_to_string(dockerfile).unwrap();
    for container in pods().into_iter().flat_map(|(_, pod)| pod.containers) {
        let image = container.image.unwrap();
        let (name, tag) = image.split_once(':').expect("a tag");
        if ALONE.contains(&name) {
            continue;
        }
        assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{image}");
        let entry = format!("ENTRYPOINT [\"/usr/local/bin/{name}\"]");
        assert!(dockerfile.contains(&entry), "the Dockerfile makes no {name}");
    }
}
