//! The Helm chart, rendered by Helm's own engine, which PyPI's `helm-python-sdk` carries (`scripts/setup.sh test` installs it).
//!
//! What it makes of ordinary values goes through the tests of all kustomizations, as one more of them: see [`bundles`].

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use podpin_affinity::Key;
use podpin_config::Config;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::documents::repository;

/// The result of rendering.
#[derive(Deserialize)]
struct Rendered {
    objects: Vec<String>,
    error: Option<String>,
    lint: Vec<String>,
}

/// Python with the SDK, beside the target directory's profile.
fn python() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let python = test.ancestors().nth(3).unwrap().join("helm/bin/python");
    assert!(python.exists(), "{} is missing: run `scripts/setup.sh test` first", python.display());
    python
}

fn render_all(requests: &Value) -> Vec<Rendered> {
    let mut command = Command::new(python());
    command
        .arg("-B")
        .arg(repository().join("tests/deploy/render_chart.py"))
        .arg(repository().join("charts/podpin"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(requests.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn render(values: &Value) -> Rendered {
    render_all(&json!([{"values": values}])).remove(0)
}

impl Rendered {
    fn bundle(self, name: &str) -> Bundle {
        assert_eq!(self.error, None, "{name}");
        assert!(self.lint.is_empty(), "{name}: {:?}", self.lint);
        Bundle::rendered(&format!("charts/podpin {name}"), &self.objects.join("\n---\n"))
    }
}

/// The chart with ordinary values; each is one more bundle for the tests of the kustomizations.
pub(crate) fn bundles() -> Vec<Bundle> {
    let keys = json!({"existingSecret": "podpin-affinity-keys"});
    let variants = [
        ("defaults", json!({"affinityKeys": keys})),
        (
            "TLS",
            json!({
                "affinityKeys": keys, "adminTokenSecret": "podpin-admin-token", "proxyProtocol": "required",
                "config": {"trustedProxies": ["10.0.0.0/8"]},
                "tls": [{"secretName": "app", "certManager": {"issuerRef": {"name": "x", "kind": "ClusterIssuer"}, "dnsNames": ["a.example"]}},
                        {"secretName": "other"}],
                "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
            }),
        ),
        (
            "monitoring and KEDA",
            json!({
                "affinityKeys": keys, "keda": {"enabled": true}, "rbac": {"pods": true},
                "metrics": {"podMonitor": {"enabled": true}, "serviceMonitor": {"enabled": true},
                            "prometheusRule": {"enabled": true, "labels": {"release": "prometheus"}}, "dashboard": {"enabled": true}},
            }),
        ),
        ("daemons", json!({"affinityKeys": keys, "kind": "DaemonSet", "hostPorts": {"http": 80}})),
        (
            "fixed",
            json!({"affinityKeys": keys, "autoscaling": {"enabled": false}, "replicas": 3,
                   "shutdown": {"announce": "10s", "spread": "30s", "timeout": "1m30s"}}),
        ),
    ];
    let requests: Vec<Value> = variants.iter().map(|(_, values)| json!({"values": values})).collect();
    let rendered = render_all(&json!(requests));
    rendered.into_iter().zip(variants).map(|(one, (name, _))| one.bundle(name)).collect()
}

#[test]
fn a_value_that_does_not_exist_or_has_no_sense_is_refused() {
    let refused = [
        (json!({"imge": {}}), "imge"),
        (json!({"autoscaling": {"minReplica": 1}}), "minReplica"),
        (json!({"kind": "StatefulSet"}), "kind"),
        (json!({"shutdown": {"timeout": "40"}}), "timeout"),
        (json!({"tls": [{"secret": "a"}]}), "secret"),
        (json!({"terminationGracePeriodSeconds": 40}), "not longer than shutdown.timeout"),
        (
            json!({"config": {"listeners": [{"name": "extra", "address": "0.0.0.0:8081"}]}}),
            "service.ports.extra",
        ),
    ];
    let requests: Vec<Value> = refused.iter().map(|(values, _)| json!({"values": values})).collect();
    for (rendered, (values, expected)) in render_all(&json!(requests)).into_iter().zip(refused) {
        let error = rendered.error.unwrap_or_else(|| panic!("{values} is accepted"));
        assert!(error.contains(expected), "{values}: {error}");
    }
}

#[test]
fn the_grace_period_follows_from_the_shutdown() {
    let seconds = |shutdown: &str, values: Value| {
        let mut values = values;
        values["shutdown"] = json!({"timeout": shutdown});
        let deployment = render(&values).bundle("grace").of::<Deployment>().remove(0);
        deployment.spec.unwrap().template.spec.unwrap().termination_grace_period_seconds.unwrap()
    };
    assert_eq!(seconds("40s", json!({})), 50);
    assert_eq!(seconds("1m30s", json!({})), 100);
    assert_eq!(seconds("40500ms", json!({})), 51);
    assert_eq!(seconds("40s", json!({"terminationGracePeriodSeconds": 45})), 45);
    assert_eq!(seconds("40s", json!({"config": {"shutdown": {"timeout": "2m"}}})), 130);
}

#[test]
fn keys_are_made_at_the_installation_and_never_again() {
    let requests = json!([{"values": {}}, {"values": {}}, {"values": {}, "upgrade": true}, {"values": {"affinityKeys": {"existingSecret": "a"}}}]);
    let mut made = Vec::new();
    for (index, rendered) in render_all(&requests).into_iter().enumerate() {
        let secrets = rendered.bundle("keys").of::<Secret>();
        assert_eq!(secrets.len(), usize::from(index < 2), "{index}");
        for secret in secrets {
            let annotations: BTreeMap<String, String> = secret.metadata.annotations.unwrap();
            assert_eq!(annotations["helm.sh/hook"], "pre-install", "an upgrade would make other keys");
            assert_eq!(annotations["helm.sh/resource-policy"], "keep");
            assert!(!annotations["helm.sh/hook-delete-policy"].contains("before-hook-creation"));
            let material = secret.string_data.unwrap()["k1"].clone();
            Key::new("k1", material.as_bytes()).unwrap();
            made.push(material);
        }
    }
    assert_ne!(made[0], made[1]);
}

#[test]
fn podpin_may_read_the_namespaces_of_its_services_and_reach_their_pods() {
    let values = json!({
        "services": {"a": {"discovery": {"kubernetes": {"namespace": "other", "service": "a", "port": "http"}}}},
        "rbac": {"namespaces": ["third"]},
    });
    let bundle = render(&values).bundle("namespaces");
    let places = |namespace: Option<String>| namespace.unwrap();
    let roles: Vec<String> =
        bundle.of::<Role>().into_iter().map(|one| places(one.metadata.namespace)).collect();
    assert_eq!(roles, ["other", "podpin", "third"]);
    for binding in bundle.of::<RoleBinding>() {
        assert_eq!(binding.subjects.unwrap()[0].namespace.as_deref(), Some("podpin"));
    }
    let policy =
        serde_json::to_string(&bundle.of::<NetworkPolicy>()[0].spec.as_ref().unwrap().egress).unwrap();
    assert!(policy.contains("\"kubernetes.io/metadata.name\":\"other\""), "{policy}");
}

#[test]
fn the_admin_port_is_that_of_the_configuration_wherever_it_is_named() {
    let values =
        json!({"affinityKeys": {"existingSecret": "k"}, "config": {"admin": {"address": "0.0.0.0:9902"}}});
    let rendered = render(&values);
    assert_eq!(rendered.error, None);
    let text = rendered.objects.join("\n");
    assert!(text.contains("prometheus.io/port: \"9902\"") && !text.contains("9901"), "{text}");
}

#[test]
fn only_what_needs_a_restart_replaces_the_pods_and_the_configuration_is_podpins_own() {
    let checksum = |values: Value| {
        let bundle = render(&values).bundle("checksum");
        let map = bundle.of::<ConfigMap>().remove(0).data.unwrap().remove("podpin.yaml").unwrap();
        Config::parse(&map, "podpin.yaml", "/etc/podpin".as_ref())
            .unwrap_or_else(|error| panic!("{error}\n{map}"));
        let template = bundle.of::<Deployment>().remove(0).spec.unwrap().template;
        template.metadata.unwrap().annotations.unwrap()["checksum/restart"].clone()
    };
    let before = checksum(json!({}));
    let service = json!({"x": {"discovery": {"kubernetes": {"service": "x", "port": 8080}}, "drain": {"spread": "1m"}}});
    assert_eq!(checksum(json!({"services": service, "config": {"accessLog": "off"}})), before);
    assert_ne!(checksum(json!({"workers": 3})), before);
    let listener =
        |address: &str| json!({"config": {"listeners": [{"name": "http", "address": address, "h2c": true}]}});
    assert_eq!(checksum(listener("0.0.0.0:8080")), before);
    assert_ne!(checksum(listener("0.0.0.0:8081")), before);
}

/// Every path of values with a description, from the schema.
fn described(schema: &Value, path: &str, found: &mut BTreeMap<String, String>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    for (key, value) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        found.insert(path.clone(), value["description"].as_str().unwrap_or_default().to_owned());
        described(value, &path, found);
    }
}

#[test]
fn every_value_is_described_in_the_schema_and_in_the_readme() {
    let read = |name: &str| std::fs::read_to_string(repository().join("charts/podpin").join(name)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut known = BTreeMap::new();
    described(&schema, "", &mut known);
    let (values, readme) =
        (crate::documents::split(&read("values.yaml"), "values.yaml").remove(0).value, read("README.md"));
    let mut paths: Vec<(String, Value)> = vec![(String::new(), values)];
    let mut seen = 0;
    while let Some((path, value)) = paths.pop() {
        if !path.is_empty() {
            let text = known.get(&path).unwrap_or_else(|| panic!("{path} is not in the schema"));
            assert!(!text.is_empty(), "{path} has no description");
            seen += 1;
        }
        let is_section = path.is_empty()
            || known.keys().any(|key| key.starts_with(&format!("{path}.")) && !key.contains("[]"));
        match value {
            Value::Object(map) if is_section => {
                let below =
                    |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                paths.extend(map.into_iter().map(|(key, value)| (below(&key), value)));
            }
            _ => assert!(readme.contains(&format!("| `{path}` |")), "{path} is not in the README"),
        }
    }
    assert!(seen > 90, "only {seen}");
}

#[test]
fn alerts_and_dashboard_are_those_of_the_component() {
    let chart =
        |name: &str| std::fs::read_to_string(repository().join("charts/podpin/files").join(name)).unwrap();
    let component = |name: &str| {
        crate::documents::read(&repository().join("deploy/overlays/monitoring").join(name)).remove(0)
    };
    let alerts = crate::documents::split(&chart("alerts.yaml"), "alerts.yaml").remove(0);
    assert_eq!(alerts.value, component("prometheusrule.yaml").value["spec"]);
    assert_eq!(chart("dashboard.json").trim(), component("dashboard.yaml").text("/data/podpin.json").trim());
}
