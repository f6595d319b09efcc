//! The layers of modules in each crate that ships, and the direction of the imports among them.
//!
//! Read a table from top to bottom: a module may import from modules on lower lines of its crate, never from its own line
//! or from above. The same holds inside a directory among the files of it, without a table: they must not form a circle. A
//! failure names the two files; move what both need below both, or pass it as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::fail_if_any;
use crate::imports::{Module, Modules};

/// The layers of a crate, the top one first, its modules separated by spaces.
type Layers = &'static [&'static str];

/// The crates and their layers. `lib.rs` or `main.rs` is the roof of each and stands in none of them.
const CRATES: [(&str, Layers); 15] = [
    ("podpin-time", &[]),
    (
        "podpin-affinity",
        // Signing and verifying; the forms that a token takes; the token.
        &["keyring", "bound choice cookie", "split token"],
    ),
    (
        "podpin-config",
        // Manifests with files in them; the file as a whole; its sections, larger ones first; values and names; the YAML tree;
        // texts without a place.
        &[
            "manifest",
            "parse",
            "route",
            "admin listener service",
            "affinity filters host keys kubernetes scalar shutdown sse tls",
            "access_log name section",
            "node",
            "error file path schema suggest unit",
        ],
    ),
    (
        "podpin-ingress",
        // The import; files; routes and services; certificates; hosts and paths; annotations; settings and their defaults;
        // tables, paths, ports, the report; objects and what is written; texts and classes.
        &[
            "import",
            "output",
            "plan",
            "certificates",
            "controller location",
            "translate",
            "defaults foreign selection settings",
            "backend known options path report",
            "object tree words",
            "class document",
        ],
    ),
    (
        "podpin-endpoints",
        // Writing and choosing; the snapshot between them; an endpoint; the words that describe it.
        &[
            "pick table",
            "snapshot",
            "heirs usage weighted_set",
            "successors",
            "leaver",
            "endpoint",
            "generation tombstones update",
            "id phase streams",
        ],
    ),
    (
        "podpin-sse",
        // Two endpoints of one stream; the framer; the rules that it or the relay applies.
        &["overlap", "frame", "cursor insert line session"],
    ),
    (
        "podpin-drain",
        // The controller; the groups that leave and the streams in them; inputs, handles and facts; policies and sums.
        &[
            "controller",
            "rebalance",
            "group registry",
            "member",
            "inbox",
            "claim hung moved_pins",
            "fact handle herd reconnects",
            "policy report",
            "pacer rebalance_plan wake",
        ],
    ),
    (
        "podpin-wire",
        // Rules over header and trailer fields; the client and the list that a message is made of; the bytes.
        &[
            "forwarding trailers",
            "headers via",
            "client compact_head grpc header_list proxy_protocol",
            "forwarded http1",
            "distinguished_name fields",
        ],
    ),
    (
        "podpin-h2",
        // The connection; what it receives and sends; its streams and their turns; frames, windows, heads; HPACK, budgets.
        &[
            "connection",
            "receive",
            "body",
            "message respond",
            "state",
            "block event schedule streams",
            "stream",
            "deadline flow frame head",
            "settings",
            "error",
            "hpack",
            "budget work",
        ],
    ),
    (
        "podpin-proxy",
        // The floors of the data plane, as ARCHITECTURE.md lists them: accept loops; connections; ordinary requests; event
        // streams and upgrades; the endpoint side; the request; shared state; selection and the registry of streams;
        // routes; services and the client side; filters and sockets; metrics and log; phase of the process; clock, limits.
        &[
            "worker",
            "connection",
            "request",
            "stream upgrade",
            "upstream",
            "request_context",
            "shared",
            "affinity stream_registry",
            "routing",
            "balance downstream",
            "http net",
            "telemetry",
            "lifecycle",
            "clock limits",
        ],
    ),
    (
        "podpin-discovery",
        // The sources; the formats that they read.
        &["dns file kube", "endpoints_file listed slice watch"],
    ),
    (
        "podpin-control",
        // The threads; what runs on the control thread; the preparation of a configuration; its parts; errors and the system.
        &[
            "start",
            "admin reload",
            "readiness shutdown watchers",
            "prepare",
            "build",
            "certificates cluster drain health_checks keys sockets sources",
            "error rlimit upstream_tls_files",
        ],
    ),
    (
        "podpin-example",
        // The server; its routes and streams; the state of a pod; the log and what is deployed with it.
        &["server", "routes", "stream", "pod", "session", "control interval log pre_stop"],
    ),
    (
        "podpin",
        // The commands.
        &["run", "reload", "check", "demo exit_code import_ingress keygen telemetry"],
    ),
    (
        "podpin-bench",
        // A run; the measurements; the programs that are measured; the roles that the binary plays; words for reports.
        &[
            "run",
            "measure",
            "peer",
            "pods",
            "leash plan pod process relay",
            "cli client peer_config report",
            "certificate peer_kind",
            "accounting clock protocol",
        ],
    ),
];

/// Directories whose files still import each other in a circle: a crate and a module.
const OPEN_CIRCLES: [(&str, &str); 0] = [];

fn modules_of(name: &str) -> Modules {
    Modules::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").join(name).join("src"))
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "the root".to_owned() } else { module.join("::") }
}

/// Returns each top module's line in the table, counted from the top.
fn lines_of(layers: Layers) -> BTreeMap<&'static str, usize> {
    let lines = layers.iter().enumerate();
    lines.flat_map(|(line, modules)| modules.split(' ').map(move |module| (module, line))).collect()
}

#[test]
fn imports_point_down_the_table_of_layers() {
    let mut problems = Vec::new();
    for (name, layers) in CRATES {
        let lines = lines_of(layers);
        for (from, to) in modules_of(name).imports() {
            let (Some(above), below) = (from.first(), to.first()) else { continue };
            if below == Some(above) {
                continue;
            }
            let line = |module: &String| lines.get(module.as_str());
            let goes_down = below.is_some_and(|below| line(above) < line(below));
            if !goes_down {
                problems.push(format!(
                    "{name}: {} imports from {}, which is not below it in tests/architecture/layers.rs.",
                    shown(&from),
                    shown(&to)
                ));
            }
        }
    }
    fail_if_any(&problems);
}

#[test]
fn the_table_of_layers_has_every_module_once() {
    let mut problems = Vec::new();
    for (name, layers) in CRATES {
        let mut listed: Vec<&str> = layers.iter().flat_map(|line| line.split(' ')).collect();
        listed.sort_unstable();
        let modules = modules_of(name);
        let there: BTreeSet<&str> =
            modules.names().filter_map(|module| module.first()).map(String::as_str).collect();
        if !listed.iter().copied().eq(there.iter().copied()) {
            problems.push(format!("{name} has {there:?}, the table of layers {listed:?}."));
        }
    }
    fail_if_any(&problems);
}

/// Returns the imports among the children of each module, the parent's own left out.
fn among_siblings(modules: &Modules) -> BTreeMap<Module, BTreeSet<(String, String)>> {
    let mut among: BTreeMap<Module, BTreeSet<(String, String)>> = BTreeMap::new();
    for (from, to) in modules.imports() {
        let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        if let (Some(a), Some(b)) = (from.get(shared), to.get(shared)) {
            among.entry(from[..shared].to_vec()).or_default().insert((a.clone(), b.clone()));
        }
    }
    among
}

/// Returns the modules that import each other in a circle, or lead to such.
fn circle(imports: &BTreeSet<(String, String)>) -> BTreeSet<String> {
    let mut left = imports.clone();
    loop {
        let importers: BTreeSet<String> = left.iter().map(|(from, _)| from.clone()).collect();
        let before = left.len();
        // What imports nothing that is left closes no circle.
        left.retain(|(_, to)| importers.contains(to));
        if left.len() == before {
            return importers;
        }
    }
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let mut problems = Vec::new();
    for (name, _) in CRATES {
        for (parent, imports) in among_siblings(&modules_of(name)) {
            let circle = circle(&imports);
            let is_open = OPEN_CIRCLES.contains(&(name, &parent.join("::")));
            if is_open && circle.is_empty() {
                problems.push(format!("{name}: {} has no circle any more: close it.", shown(&parent)));
            }
            if !circle.is_empty() && !is_open {
                problems.push(format!(
                    "{name}: in {} these import each other in a circle, or from one: {circle:?}",
                    shown(&parent)
                ));
            }
        }
    }
    fail_if_any(&problems);
}
