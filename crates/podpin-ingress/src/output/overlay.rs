//! The kustomize overlay: the configuration, volumes with Secrets, ports, and rights in the namespaces of the Services.

use std::collections::BTreeSet;

use super::{MARK, OutputFile, Result, shutdown};
use crate::object::ObjectName;
use crate::translate::mount_path;
use crate::tree::{Map, Tree};

/// Returns the files of the overlay.
pub(super) fn files(result: &Result<'_>) -> Vec<OutputFile> {
    let file = |name, text| OutputFile { name, text, is_executable: false };
    let elsewhere: Vec<&String> =
        result.plan.namespaces.iter().filter(|namespace| *namespace != result.own_namespace).collect();
    let mut files = vec![
        file("deployment.yaml", deployment(result)),
        file("networkpolicy.yaml", network_policy(result, &elsewhere)),
        file("service.yaml", service(result)),
    ];
    if !elsewhere.is_empty() {
        files.push(file("rights.yaml", rights(result, &elsewhere)));
    }
    let certificates = certificates(result);
    if !certificates.is_empty() {
        files.push(file("certificates.yaml", documents(&certificates)));
    }
    files.push(file("kustomization.yaml", kustomization(result, &files)));
    files
}

/// Returns the name that a Secret has in podpin's namespace: a Pod mounts none of another.
pub(crate) fn local_name(secret: &ObjectName, own_namespace: &str) -> String {
    if secret.namespace == own_namespace {
        secret.name.clone()
    } else {
        format!("{}-{}", secret.namespace, secret.name)
    }
}

fn object(api: &str, kind: &str, name: &str) -> Map {
    let mut map = Map::of([("apiVersion", Tree::text(api)), ("kind", Tree::text(kind))]);
    map.set(&["metadata", "name"], Tree::text(name));
    map
}

fn documents(objects: &[Map]) -> String {
    let mut out = format!("# {MARK}.\n");
    for (number, object) in objects.iter().enumerate() {
        if number > 0 {
            out.push_str("---\n");
        }
        object.write(0, &mut out);
    }
    out
}

fn kustomization(result: &Result<'_>, files: &[OutputFile]) -> String {
    let mut map = Map::of([
        ("apiVersion", Tree::text("kustomize.config.k8s.io/v1beta1")),
        ("kind", Tree::text("Kustomization")),
    ]);
    let is_resource = |name: &str| name == "rights.yaml" || name == "certificates.yaml";
    let (resources, patches): (Vec<_>, Vec<_>) =
        files.iter().map(|file| file.name).partition(|name| is_resource(name));
    let resources: Vec<&str> = std::iter::once(result.base).chain(resources).collect();
    map.set(&["resources"], Tree::texts(resources));
    let generator = Map::of([
        ("name", Tree::text("podpin")),
        ("namespace", Tree::text(result.own_namespace)),
        ("behavior", Tree::text("replace")),
        ("files", Tree::texts(["podpin.yaml"])),
        // A changed ConfigMap is taken up by itself: another name would restart podpin.
        ("options", Tree::Map(Map::of([("disableNameSuffixHash", Tree::word("true"))]))),
    ]);
    map.set(&["configMapGenerator"], Tree::List(vec![Tree::Map(generator)]));
    let patch = |name: &&str| Tree::Map(Map::of([("path", Tree::text(*name))]));
    map.set(&["patches"], Tree::List(patches.iter().map(patch).collect()));
    let mut out = format!("# {MARK}. The first resource is podpin's own kustomization, deploy/base.\n");
    map.write(0, &mut out);
    out
}

fn deployment(result: &Result<'_>) -> String {
    let mut map = object("apps/v1", "Deployment", "podpin");
    let mut container = Map::of([("name", Tree::text("podpin"))]);
    if !result.certificates.is_empty() {
        let port = Map::of([("name", Tree::text("https")), ("containerPort", Tree::word(8_443))]);
        container.set(&["ports"], Tree::List(vec![Tree::Map(port)]));
    }
    let number = |at: usize| format!("secret-{at}");
    let mount = |(at, secret): (usize, &ObjectName)| {
        Tree::Map(Map::of([
            ("name", Tree::text(number(at))),
            ("mountPath", Tree::text(mount_path(secret))),
            ("readOnly", Tree::word("true")),
        ]))
    };
    let volume = |(at, secret): (usize, &ObjectName)| {
        let source = Map::of([
            ("secretName", Tree::text(local_name(secret, result.own_namespace))),
            ("defaultMode", Tree::word(288)),
        ]);
        Tree::Map(Map::of([("name", Tree::text(number(at))), ("secret", Tree::Map(source))]))
    };
    let spec = ["spec", "template", "spec"];
    let path = |last| [spec[0], spec[1], spec[2], last];
    if let Some(Tree::Text(timeout)) | Some(Tree::Word(timeout)) = shutdown(result.defaults).get(&["timeout"])
        && let Ok(timeout) = podpin_config::parse_duration(timeout)
    {
        let grace = timeout.as_secs() + 10;
        map.set(&path("terminationGracePeriodSeconds"), Tree::word(grace));
    }
    if !result.secrets.is_empty() {
        container.set(&["volumeMounts"], Tree::List(result.secrets.iter().enumerate().map(mount).collect()));
        map.set(&path("volumes"), Tree::List(result.secrets.iter().enumerate().map(volume).collect()));
    }
    map.set(&path("containers"), Tree::List(vec![Tree::Map(container)]));
    documents(&[map])
}

fn service(result: &Result<'_>) -> String {
    let mut map = object("v1", "Service", "podpin");
    let port = |name: &str, number: u16| {
        Tree::Map(Map::of([
            ("name", Tree::text(name)),
            ("port", Tree::word(number)),
            ("targetPort", Tree::text(name)),
        ]))
    };
    let mut ports = vec![port("http", 80)];
    if !result.certificates.is_empty() {
        ports.push(port("https", 443));
    }
    map.set(&["spec", "ports"], Tree::List(ports));
    documents(&[map])
}

/// A patch that replaces lists: what the base allows stands here again.
fn network_policy(result: &Result<'_>, elsewhere: &[&String]) -> String {
    let tcp = |port: u16| Tree::Map(Map::of([("port", Tree::word(port)), ("protocol", Tree::text("TCP"))]));
    let labels = |namespace: &str| {
        let mut map = Map::default();
        map.set(&["namespaceSelector", "matchLabels", "kubernetes.io/metadata.name"], Tree::text(namespace));
        Tree::Map(map)
    };
    let mut clients = vec![tcp(8_080)];
    if !result.certificates.is_empty() {
        clients.push(tcp(8_443));
    }
    let clients = Map::of([("ports", Tree::List(clients))]);
    let metrics =
        Map::of([("from", Tree::List(vec![labels("monitoring")])), ("ports", Tree::List(vec![tcp(9_901)]))]);
    let mut to = vec![Tree::Map(Map::of([("podSelector", Tree::Map(Map::default()))]))];
    to.extend(elsewhere.iter().map(|namespace| labels(namespace)));
    let pods = Map::of([("to", Tree::List(to))]);
    let udp = Map::of([("port", Tree::word(53)), ("protocol", Tree::text("UDP"))]);
    let names = Map::of([
        ("to", Tree::List(vec![labels("kube-system")])),
        ("ports", Tree::List(vec![Tree::Map(udp), tcp(53)])),
    ]);
    let api = Map::of([("ports", Tree::List(vec![tcp(443), tcp(6_443)]))]);
    let mut map = object("networking.k8s.io/v1", "NetworkPolicy", "podpin");
    map.set(&["spec", "ingress"], Tree::List(vec![Tree::Map(clients), Tree::Map(metrics)]));
    map.set(&["spec", "egress"], Tree::List(vec![Tree::Map(pods), Tree::Map(names), Tree::Map(api)]));
    documents(&[map])
}

/// A Role and its binding in each namespace: no ClusterRole.
fn rights(result: &Result<'_>, namespaces: &[&String]) -> String {
    let mut objects = Vec::new();
    for namespace in namespaces {
        let api = "rbac.authorization.k8s.io/v1";
        let mut role = object(api, "Role", "podpin");
        role.set(&["metadata", "namespace"], Tree::text(namespace.as_str()));
        let rule = Map::of([
            ("apiGroups", Tree::texts(["discovery.k8s.io"])),
            ("resources", Tree::texts(["endpointslices"])),
            ("verbs", Tree::texts(["get", "list", "watch"])),
        ]);
        role.set(&["rules"], Tree::List(vec![Tree::Map(rule)]));
        let mut binding = object(api, "RoleBinding", "podpin");
        binding.set(&["metadata", "namespace"], Tree::text(namespace.as_str()));
        let reference = Map::of([
            ("apiGroup", Tree::text("rbac.authorization.k8s.io")),
            ("kind", Tree::text("Role")),
            ("name", Tree::text("podpin")),
        ]);
        binding.set(&["roleRef"], Tree::Map(reference));
        let subject = Map::of([
            ("kind", Tree::text("ServiceAccount")),
            ("name", Tree::text("podpin")),
            ("namespace", Tree::text(result.own_namespace)),
        ]);
        binding.set(&["subjects"], Tree::List(vec![Tree::Map(subject)]));
        objects.extend([role, binding]);
    }
    documents(&objects)
}

/// A Certificate for each Secret that cert-manager's ingress-shim kept.
fn certificates(result: &Result<'_>) -> Vec<Map> {
    let issued = result.certificates.secrets.iter().filter_map(|(secret, (hosts, issuer))| {
        let issuer = issuer.as_ref()?;
        let hosts: BTreeSet<&str> = hosts.iter().map(String::as_str).collect();
        let name = local_name(secret, result.own_namespace);
        let mut map = object("cert-manager.io/v1", "Certificate", &name);
        map.set(&["metadata", "namespace"], Tree::text(result.own_namespace));
        map.set(&["spec", "secretName"], Tree::text(name));
        map.set(&["spec", "dnsNames"], Tree::texts(hosts));
        let reference =
            Map::of([("kind", Tree::text(issuer.kind)), ("name", Tree::text(issuer.name.clone()))]);
        map.set(&["spec", "issuerRef"], Tree::Map(reference));
        Some(map)
    });
    issued.collect()
}
