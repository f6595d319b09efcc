//! The example's own arrangements: its preStop hook and its Redis, whose parts have to reach each other and fit in time
//! and memory.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodSpec, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::bundle::{self, Bundle};
use crate::documents;

/// The longest time that podpin-example takes after SIGTERM and `--linger` (`END_PATIENCE`).
const END: Duration = Duration::from_secs(5);

/// The longest text that `/publish` takes, and what Redis adds to an entry, generously.
const ENTRY_BYTES_MAX: u64 = (16 << 10) + 256;

fn deployment(bundle: &Bundle, name: &str) -> (PodSpec, BTreeMap<String, String>) {
    let all = bundle.of::<Deployment>();
    let found = all.into_iter().find(|one| one.metadata.name.as_deref() == Some(name));
    let template = found.unwrap_or_else(|| panic!("no Deployment {name}")).spec.unwrap().template;
    (template.spec.unwrap(), template.metadata.unwrap().labels.unwrap())
}

/// The only container of the Deployment, its pod and its labels.
fn container(bundle: &Bundle, name: &str) -> (Container, PodSpec, BTreeMap<String, String>) {
    let (mut pod, labels) = deployment(bundle, name);
    assert_eq!(pod.containers.len(), 1, "{name}");
    (pod.containers.remove(0), pod, labels)
}

/// The value behind a flag.
fn value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == flag)?;
    arguments.get(at + 1).map(String::as_str)
}

/// Intervals here are whole seconds.
fn seconds(arguments: &[String], flag: &str) -> Duration {
    let text = value(arguments, flag).unwrap_or_else(|| panic!("no {flag}"));
    let number = text.strip_suffix('s').and_then(|number| number.parse().ok());
    Duration::from_secs(number.unwrap_or_else(|| panic!("{flag} {text}: whole seconds")))
}

fn chat_hook(chat: &Container) -> Vec<String> {
    let hook = chat.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()).expect("a preStop");
    hook.exec.as_ref().expect("an exec").command.clone().unwrap()
}

/// The pod labels that a Service of this name selects, and the number of its pods' port behind `port`.
fn behind(bundle: &Bundle, name: &str, port: i32) -> (BTreeMap<String, String>, i32) {
    let services = bundle.of::<Service>();
    let service = services.into_iter().find(|one| one.metadata.name.as_deref() == Some(name));
    let spec = service.unwrap_or_else(|| panic!("no Service {name}")).spec.unwrap();
    let port = spec.ports.unwrap().into_iter().find(|one| one.port == port).expect("that port");
    let selector = spec.selector.unwrap();
    let Some(IntOrString::String(target)) = port.target_port else { panic!("{name}: by name") };
    let pods = bundle.of::<Deployment>().into_iter().map(|one| one.spec.unwrap().template);
    let is_selected = |labels: &BTreeMap<String, String>| {
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let mut selected =
        pods.filter(|pod| is_selected(pod.metadata.as_ref().unwrap().labels.as_ref().unwrap()));
    let pod = selected.next().expect("pods behind the Service").spec.unwrap();
    let mut ports = pod.containers.into_iter().flat_map(|one| one.ports.unwrap_or_default());
    let port = ports.find(|one| one.name.as_ref() == Some(&target)).expect("a port of that name");
    (selector, port.container_port)
}

/// Whether the policies of the bundle let pods with these labels come in to others on a port.
fn may_reach(
    bundle: &Bundle,
    from: &BTreeMap<String, String>,
    to: &BTreeMap<String, String>,
    port: i32,
) -> bool {
    let matches = |selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>| {
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let policies = bundle.of::<NetworkPolicy>().into_iter().map(|one| one.spec.unwrap());
    let of_target = policies
        .filter(|policy| matches(policy.pod_selector.as_ref().unwrap().match_labels.as_ref().unwrap(), to));
    let mut rules = of_target.flat_map(|policy| policy.ingress.unwrap_or_default());
    rules.any(|rule| {
        let ports = rule.ports.unwrap_or_default();
        let is_port = ports.is_empty() || ports.iter().any(|one| one.port == Some(IntOrString::Int(port)));
        let peers = rule.from.unwrap_or_default();
        let is_peer = peers.is_empty()
            || peers.iter().filter(|peer| peer.namespace_selector.is_none()).any(|peer| {
                let selector = peer.pod_selector.as_ref().and_then(|one| one.match_labels.clone());
                matches(&selector.unwrap_or_default(), from)
            });
        is_port && is_peer
    })
}

#[test]
fn the_pre_stop_hook_and_the_end_of_the_service_fit_into_the_grace_period() {
    let (chat, pod, _) = container(&bundle::of("example"), "chat");
    let (hook, arguments) = (chat_hook(&chat), chat.args.unwrap());
    let grace = Duration::from_secs(pod.termination_grace_period_seconds.unwrap().unsigned_abs());
    let needed = seconds(&hook, "--timeout") + seconds(&arguments, "--linger") + END;
    assert!(needed < grace, "preStop and the end take {needed:?} of {grace:?}");
    assert!(seconds(&hook, "--fallback") <= seconds(&hook, "--timeout"));
}

#[test]
fn the_pre_stop_hook_is_in_the_image_and_knows_its_pod() {
    let (chat, _, _) = container(&bundle::of("example"), "chat");
    let hook = chat_hook(&chat);
    let dockerfile = std::fs::read_to_string(documents::repository().join("Dockerfile")).unwrap();
    assert!(dockerfile.contains(&format!("ENTRYPOINT [\"{}\"]", hook[0])), "{}", hook[0]);
    assert_eq!(hook[1], "pre-stop");
    let name = chat.env.unwrap().into_iter().find(|one| one.name == "POD_NAME").expect("POD_NAME");
    assert_eq!(name.value_from.unwrap().field_ref.unwrap().field_path, "metadata.name");
}

#[test]
fn the_pre_stop_hook_finds_and_reaches_the_admin_port_of_every_podpin() {
    let bundle = bundle::of("example");
    let (chat, _, labels) = container(&bundle, "chat");
    let hook = chat_hook(&chat);
    let (host, port) = value(&hook, "--admin").unwrap().split_once(':').unwrap();
    let services = bundle.of::<Service>();
    let service = services.iter().find(|one| one.metadata.name.as_deref() == Some(host)).expect(host);
    let spec = service.spec.as_ref().unwrap();
    assert_eq!(spec.cluster_ip.as_deref(), Some("None"), "{host} gives one address of many");
    assert_eq!(spec.publish_not_ready_addresses, Some(true), "a replica that leaves has streams too");
    let (podpin, admin) = behind(&bundle, host, port.parse().unwrap());
    // No load balancer in between translates: the port that is asked is the pod's own.
    assert_eq!(port, admin.to_string());
    assert!(may_reach(&bundle, &labels, &podpin, admin), "the policies keep the chat pods out");
    assert!(!may_reach(&bundle, &BTreeMap::new(), &podpin, admin), "and others in");
}

#[test]
fn the_chat_pods_and_nobody_else_reach_their_redis() {
    let bundle = bundle::of("example");
    let (chat, _, labels) = container(&bundle, "chat");
    let url = chat.env.unwrap().into_iter().find(|one| one.name == "REDIS_URL").expect("REDIS_URL");
    let url = url.value.unwrap();
    let (host, port) = url.strip_prefix("redis://").unwrap().split_once(':').unwrap();
    let (redis, port) = behind(&bundle, host, port.parse().unwrap());
    assert!(may_reach(&bundle, &labels, &redis, port), "the policies keep the chat pods out");
    assert!(!may_reach(&bundle, &BTreeMap::new(), &redis, port), "and others in");
}

#[test]
fn the_history_fits_into_redis_and_redis_into_its_limit() {
    let bundle = bundle::of("example");
    let (chat, ..) = container(&bundle, "chat");
    let (redis, ..) = container(&bundle, "redis");
    let arguments = redis.args.unwrap();
    let bytes_max = value(&arguments, "--maxmemory").and_then(|text| text.strip_suffix("mb")).unwrap();
    let bytes_max = bytes_max.parse::<u64>().unwrap() << 20;
    let history: u64 = value(&chat.args.unwrap(), "--history").unwrap().parse().unwrap();
    // Redis keeps up to a node of 100 more. What is left is for sessions.
    assert!((history + 100) * ENTRY_BYTES_MAX < bytes_max * 6 / 10, "{history} events of the longest texts");
    assert_eq!(value(&arguments, "--maxmemory-policy"), Some("noeviction"));
    assert_eq!((value(&arguments, "--save"), value(&arguments, "--appendonly")), (Some(""), Some("no")));
    let limit = redis.resources.unwrap().limits.unwrap()["memory"].0.clone();
    let limit = limit.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() << 20;
    assert!(bytes_max * 3 / 2 <= limit, "buffers and fragmentation come on top");
}
