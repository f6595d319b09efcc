//! The direction of the crates and the shape of the files, as ARCHITECTURE.md says them.
//!
//! A failure here names the rule and what to do; the rules are not negotiated in this file.

#![expect(clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod dependencies;
mod documents;
mod imports;
mod layers;
mod prose;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// Crates that read no clock, no socket, no environment.
const PURE: [&str; 10] = [
    "podpin-affinity",
    "podpin-config",
    "podpin-drain",
    "podpin-endpoints",
    "podpin-h2",
    "podpin-ingress",
    "podpin-sse",
    "podpin-time",
    "podpin-wire",
    "podpin-ws",
];

/// Packages that a pure crate must not have, not even through others.
const FORBIDDEN_IN_PURE: [&str; 6] = ["tokio", "pingora", "kube", "k8s-openapi", "tracing", "prometheus"];

/// A file past this many lines before its tests is split by concept.
const LINES_MAX: usize = 500;

fn metadata() -> Metadata {
    metadata_with(CargoOpt::AllFeatures)
}

fn metadata_with(features: CargoOpt) -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    // What was built is there without a network; crates for other platforms are not.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let options = ["--offline", "--filter-platform", &platform].map(str::to_owned);
    let mut command = MetadataCommand::new();
    command.manifest_path(manifest).features(features).other_options(options);
    command.exec().expect("cargo metadata")
}

fn is_family(name: &str, family: &str) -> bool {
    name == family || name.strip_prefix(family).is_some_and(|rest| rest.starts_with(['-', '_']))
}

fn members(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}

/// The names of everything that `package` is built with, itself left out; development and build are not followed.
fn built_with(metadata: &Metadata, package: &PackageId) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let nodes: HashMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let names: HashMap<_, _> = metadata.packages.iter().map(|one| (&one.id, one.name.to_string())).collect();
    let mut seen = BTreeSet::new();
    let mut waiting = vec![package];
    while let Some(id) = waiting.pop() {
        for dependency in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
            let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if normal && seen.insert(&dependency.pkg) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    seen.into_iter().filter_map(|id| names.get(id).cloned()).collect()
}

/// Direct dependencies of these kinds.
fn direct<'a>(package: &'a Package, kinds: &[DependencyKind]) -> Vec<&'a str> {
    let wanted = package.dependencies.iter().filter(|one| kinds.contains(&one.kind));
    wanted.map(|dependency| dependency.name.as_str()).collect()
}

fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let skipped = path.file_name().is_some_and(|name| name == "target" || name == ".git");
        if path.is_dir() && !skipped {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    // Without the parent directory's name: whether a path is one of tests is asked of its parts.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    for directory in ["crates", "tests", "fuzz"] {
        let directory = root.join(directory);
        if directory.is_dir() {
            sources(&directory, &mut files);
        }
    }
    files
}

fn fail_if_any(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn pure_crates_have_no_io_not_even_through_others() {
    let metadata = metadata();
    let mut problems = Vec::new();
    for name in PURE {
        let package = members(&metadata).into_iter().find(|package| package.name == name);
        let package = package
            .unwrap_or_else(|| panic!("the pure crate {name} is gone: change PURE and ARCHITECTURE.md"));
        for dependency in built_with(&metadata, &package.id) {
            if FORBIDDEN_IN_PURE.iter().any(|family| is_family(&dependency, family)) {
                problems.push(format!(
                    "{name} is built with {dependency}: pure crates decide, IO crates act. Take the fact as an \
                     argument, or move the code to podpin-proxy or podpin-discovery."
                ));
            }
        }
    }
    fail_if_any(&problems);
}

#[test]
fn pingora_and_kube_are_named_where_they_live_and_nowhere_else() {
    let metadata = metadata();
    let homes: [(&str, &[&str]); 2] =
        [("pingora", &["podpin", "podpin-control", "podpin-proxy"]), ("kube", &["podpin-discovery"])];
    let mut problems = Vec::new();
    for package in members(&metadata) {
        let kinds = [DependencyKind::Normal, DependencyKind::Build, DependencyKind::Development];
        for dependency in direct(package, &kinds) {
            for (family, home) in homes {
                if is_family(dependency, family) && !home.contains(&package.name.as_str()) {
                    problems.push(format!(
                        "{} depends on {dependency}: {family} is named only in {}. Ask that crate for what you need.",
                        package.name,
                        home.join(" and ")
                    ));
                }
            }
        }
    }
    fail_if_any(&problems);
}

/// Files and folders that may name Pingora, with the work that Pingora does there.
const PINGORA_PLACES: [&str; 7] = [
    // Active health checks.
    "podpin-control/src/health_checks.rs",
    // The ketama ring.
    "podpin-proxy/src/balance/ring.rs",
    // TCP_INFO, for which the system's interface is unsafe.
    "podpin-proxy/src/net/peer.rs",
    // TLS settings of Pingora's peers.
    "podpin-proxy/src/net/tls/upstream.rs",
    // Connections and streams of HTTP/2 to endpoints.
    "podpin-proxy/src/upstream/http2.rs",
    // The plain proxy that the demo compares with.
    "podpin/src/demo/plain.rs",
    // The filter of its log.
    "podpin/src/telemetry.rs",
];

#[test]
fn pingora_is_named_only_where_it_has_work() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut files = Vec::new();
    sources(&crates, &mut files);
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        if !code.clone().any(|line| line.contains("pingora")) {
            continue;
        }
        let inside = path.strip_prefix(&crates).expect("a file of the crates").with_extension("");
        let place =
            PINGORA_PLACES.iter().find(|place| inside.starts_with(Path::new(place).with_extension("")));
        match place {
            Some(place) => drop(used.insert(*place)),
            None => problems.push(format!(
                "{} names pingora: it has its places, see PINGORA_PLACES in tests/architecture/main.rs. Ask one of \
                 them for what you need.",
                path.display()
            )),
        }
    }
    let unused = PINGORA_PLACES.iter().filter(|place| !used.contains(*place));
    problems
        .extend(unused.map(|place| format!("{place} does not name pingora any more: take it off the list.")));
    fail_if_any(&problems);
}

#[test]
fn the_testkit_is_for_tests_only() {
    let metadata = metadata();
    let mut problems = Vec::new();
    for package in members(&metadata) {
        for dependency in direct(package, &[DependencyKind::Normal, DependencyKind::Build]) {
            if dependency == "podpin-testkit" {
                problems.push(format!(
                    "{} is built with podpin-testkit: move it to [dev-dependencies], its panics have no place in \
                     what we ship.",
                    package.name
                ));
            }
        }
    }
    fail_if_any(&problems);
}

#[test]
fn the_proxy_of_the_image_has_no_demo_in_it() {
    let metadata = metadata_with(CargoOpt::NoDefaultFeatures);
    let package = members(&metadata).into_iter().find(|package| package.name == "podpin").expect("podpin");
    let linked = built_with(&metadata, &package.id);
    let demo: Vec<_> =
        ["podpin-example", "redis"].into_iter().filter(|name| linked.contains(*name)).collect();
    assert!(
        demo.is_empty(),
        "podpin without default features, as the Dockerfile builds it, links {}: only the feature `demo` may.",
        demo.join(" and ")
    );
}

/// Crates of this repository that each of them may depend on.
const DEPENDENCIES: [(&str, &[&str]); 14] = [
    ("podpin-time", &[]),
    ("podpin-affinity", &[]),
    ("podpin-config", &[]),
    ("podpin-ingress", &["podpin-config"]),
    ("podpin-sse", &["podpin-time"]),
    ("podpin-endpoints", &["podpin-time"]),
    ("podpin-wire", &["podpin-config", "podpin-time"]),
    ("podpin-h2", &["podpin-time"]),
    ("podpin-ws", &["podpin-time"]),
    ("podpin-drain", &["podpin-config", "podpin-endpoints", "podpin-time"]),
    ("podpin-discovery", &["podpin-config", "podpin-endpoints", "podpin-time"]),
    (
        "podpin-proxy",
        &[
            "podpin-affinity",
            "podpin-config",
            "podpin-drain",
            "podpin-endpoints",
            "podpin-h2",
            "podpin-sse",
            "podpin-time",
            "podpin-wire",
            "podpin-ws",
        ],
    ),
    (
        "podpin-control",
        &[
            "podpin-affinity",
            "podpin-config",
            "podpin-discovery",
            "podpin-drain",
            "podpin-endpoints",
            "podpin-proxy",
            "podpin-sse",
            "podpin-time",
            "podpin-wire",
        ],
    ),
    ("podpin", &["podpin-config", "podpin-control", "podpin-discovery", "podpin-example", "podpin-ingress"]),
];

#[test]
fn dependencies_point_in_one_direction() {
    let metadata = metadata();
    let mut problems = Vec::new();
    for package in members(&metadata) {
        let Some((_, may)) = DEPENDENCIES.iter().find(|(name, _)| package.name == *name) else { continue };
        for dependency in direct(package, &[DependencyKind::Normal]) {
            if dependency.starts_with("podpin") && !may.contains(&dependency) {
                problems.push(format!(
                    "{} depends on {dependency}: cluster -> discovery -> endpoints -> proxy, operator -> config -> \
                     control -> proxy, nothing back. It may use: {}.",
                    package.name,
                    if may.is_empty() { "none of our crates".to_owned() } else { may.join(", ") }
                ));
            }
        }
    }
    fail_if_any(&problems);
}

#[test]
fn every_crate_inherits_the_lints_of_the_workspace() {
    let metadata = metadata();
    let mut problems = Vec::new();
    for package in members(&metadata) {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("a manifest");
        let lints = manifest.split("[lints]").nth(1).unwrap_or_default().trim_start();
        if !lints.starts_with("workspace = true") {
            problems.push(format!(
                "{}: add\n[lints]\nworkspace = true\nso that one table in the top-level Cargo.toml rules all crates.",
                package.manifest_path
            ));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn every_file_says_first_what_it_is() {
    let mut problems = Vec::new();
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).expect("a source file");
        if !text.starts_with("//!") {
            problems.push(format!(
                "{}: begin with `//!`: what the file is in one sentence, why it is so, what it leaves to others.",
                path.display()
            ));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn no_file_outgrows_its_reader() {
    let mut problems = Vec::new();
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let before_tests = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        // Files of tests are lists of cases: they are read one case at a time.
        let is_test = path.ends_with("tests.rs")
            || path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches");
        if before_tests > LINES_MAX && !is_test {
            problems.push(format!(
                "{}: {before_tests} lines before its tests; past {LINES_MAX} a file is split by concept.",
                path.display()
            ));
        }
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            problems.push(format!("{}: name it after its module (`foo.rs` beside `foo/`).", path.display()));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn no_name_says_nothing() {
    const EMPTY: [&str; 7] = ["util", "utils", "helper", "helpers", "common", "misc", "manager"];
    let mut problems = Vec::new();
    for path in all_sources() {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if EMPTY.contains(&stem) {
            problems.push(format!("{}: name it after what is in it, a noun of the domain.", path.display()));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(top.join("docs/security.md")).expect("the security page");
    let mut named = 0;
    let mut problems = Vec::new();
    for words in page.split('`').skip(1).step_by(2) {
        let Some((file, test)) = words.split_once("::") else { continue };
        named += 1;
        let text = std::fs::read_to_string(top.join(format!("tests/e2e/{file}.rs"))).unwrap_or_default();
        if !text.contains(&format!("fn {test}()")) {
            problems.push(format!(
                "docs/security.md: there is no test {words}; name the one that bounds the attack."
            ));
        }
    }
    assert!(named > 0, "the page names no test");
    fail_if_any(&problems);
}
