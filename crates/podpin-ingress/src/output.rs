//! The files of an import: the configuration, the overlay that mounts what it needs, and a script that compares both sides.

pub(crate) mod overlay;
mod verify;

use std::collections::BTreeSet;

use crate::certificates::Certificates;
use crate::defaults::Defaults;
use crate::object::ObjectName;
use crate::plan::{Part, Plan};
use crate::translate::{ClientCertificates, mount_path};
use crate::tree::{Map, Tree, plain_line, write_item};

/// The first line of every file, by which a later import knows its own.
pub const MARK: &str = "Written by podpin import-ingress";

/// A file of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// The name, without a directory.
    pub name: &'static str,
    /// The whole text.
    pub text: String,
    /// Whether it is a program.
    pub is_executable: bool,
}

/// Everything that files are made from.
pub(crate) struct Result<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) defaults: &'a Defaults,
    pub(crate) certificates: &'a Certificates,
    pub(crate) client_certificates: Option<&'a ClientCertificates>,
    /// Secrets that are mounted, those of the listeners included.
    pub(crate) secrets: BTreeSet<ObjectName>,
    /// The namespace of podpin, and the kustomization of its own objects.
    pub(crate) own_namespace: &'a str,
    pub(crate) base: &'a str,
}

/// Returns the files but for the report.
pub(crate) fn files(result: &Result<'_>) -> Vec<OutputFile> {
    let mut files =
        vec![OutputFile { name: "podpin.yaml", text: configuration(result), is_executable: false }];
    files.extend(overlay::files(result));
    files.push(OutputFile { name: "verify.sh", text: verify::script(result.plan), is_executable: true });
    files
}

/// Returns the text of `podpin.yaml`.
fn configuration(result: &Result<'_>) -> String {
    let mut out = format!(
        "# {MARK}: change the Ingresses and import again, or take this file over and delete this line.\n\
         # docs/configuration.md has every key; REPORT.md says what became of each annotation.\n"
    );
    let mut head = Map::default();
    head.set(&["listeners"], Tree::List(listeners(result)));
    head.set(&["admin", "address"], Tree::text("0.0.0.0:9901"));
    if !result.defaults.trusted.is_empty() {
        let ranges = Tree::texts(result.defaults.trusted.iter().map(String::as_str));
        head.set_from(&["trustedProxies"], ranges, "proxy-real-ip-cidr");
    }
    head.set(&["limits"], Tree::Map(result.defaults.limits.clone()));
    let key = Map::of([("id", Tree::text("k1")), ("file", Tree::text("/etc/podpin-keys/k1"))]);
    head.set(&["affinityKeys"], Tree::List(vec![Tree::Map(key)]));
    head.set(&["shutdown"], Tree::Map(shutdown(result.defaults)));
    head.write(0, &mut out);
    out.push_str("\nroutes:\n");
    for route in &result.plan.routes {
        comments(route, 2, &mut out);
        write_item(&Tree::Map(route.settings.clone()), 2, &mut out);
    }
    out.push_str("\nservices:\n");
    for service in &result.plan.services {
        comments(service, 2, &mut out);
        let mut named = Map::default();
        named.set(&[&service.name], Tree::Map(service.settings.clone()));
        named.write(2, &mut out);
    }
    out
}

/// Returns the times of podpin's own end: those of its deployment where the controller says nothing.
pub(crate) fn shutdown(defaults: &Defaults) -> Map {
    if defaults.shutdown.is_empty() {
        return Map::of([
            ("announce", Tree::word("10s")),
            ("spread", Tree::word("20s")),
            ("timeout", Tree::word("40s")),
        ]);
    }
    defaults.shutdown.clone()
}

fn comments(part: &Part, indent: usize, out: &mut String) {
    for comment in &part.comments {
        out.push_str(&format!("{}# {}\n", " ".repeat(indent), plain_line(comment)));
    }
}

fn listeners(result: &Result<'_>) -> Vec<Tree> {
    let mut http = Map::of([("name", Tree::text("http")), ("address", Tree::text("0.0.0.0:8080"))]);
    let proxy_protocol = |map: &mut Map| {
        if result.defaults.proxy_protocol {
            map.set_from(&["proxyProtocol"], Tree::text("required"), "use-proxy-protocol");
        }
    };
    proxy_protocol(&mut http);
    let mut listeners = vec![Tree::Map(http)];
    if !result.certificates.is_empty() {
        let mut https = Map::of([("name", Tree::text("https")), ("address", Tree::text("0.0.0.0:8443"))]);
        proxy_protocol(&mut https);
        https.set(&["tls"], Tree::Map(tls(result)));
        listeners.push(Tree::Map(https));
    }
    listeners
}

fn tls(result: &Result<'_>) -> Map {
    let mut tls = Map::default();
    if let Some(version) = result.defaults.min_tls {
        tls.set_from(&["minVersion"], Tree::text(version), "ssl-protocols");
    }
    let pair = |secret: &ObjectName| {
        let directory = mount_path(secret);
        let file = |name| Tree::text(format!("{directory}/{name}"));
        Tree::Map(Map::of([("certFile", file("tls.crt")), ("keyFile", file("tls.key"))]))
    };
    tls.set(&["certificates"], Tree::List(result.certificates.secrets.keys().map(pair).collect()));
    if let Some(asked) = result.client_certificates {
        let ca = Tree::text(format!("{}/ca.crt", mount_path(&asked.secret)));
        tls.set_from(&["clientAuth", "caFile"], ca, "auth-tls-secret");
        let mode = Tree::text(if asked.is_required { "required" } else { "optional" });
        tls.set_from(&["clientAuth", "mode"], mode, "auth-tls-verify-client");
    }
    tls
}
