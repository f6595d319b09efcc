//! The version, the same in all places; a licence, and a bill of materials that names what is linked.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::documents::{self, repository};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn read(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn the_newest_dated_section_of_the_changelog_is_this_version() {
    let text = read("CHANGELOG.md");
    let titles: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(titles[0], "[Unreleased]");
    let date = titles[1].strip_prefix(&format!("[{VERSION}] - ")).expect("this version, with its date");
    let parts: Vec<_> = date.split('-').map(str::len).collect();
    assert_eq!(parts, [4, 2, 2], "{date}");
}

#[test]
fn the_chart_is_of_this_version() {
    let chart = documents::split(&read("charts/podpin/Chart.yaml"), "Chart.yaml").remove(0);
    assert_eq!((chart.text("/version"), chart.text("/appVersion")), (VERSION, VERSION));
}

#[test]
fn the_licence_is_the_one_that_the_packages_name() {
    let text = read("LICENSE");
    assert!(text.contains("Apache License") && text.contains("Version 2.0, January 2004"));
    assert!(read("Cargo.toml").contains("license = \"Apache-2.0\""));
}

#[test]
fn a_tarball_without_a_repository_learns_its_commit_from_git_archive() {
    assert!(read(".gitattributes").contains("crates/podpin/commit.txt export-subst"));
    assert_eq!(read("crates/podpin/commit.txt").trim(), "$Format:%h %cs$");
}

#[test]
fn the_bill_of_materials_has_every_linked_package_once_with_its_licence() {
    let output = Command::new("python3").arg(repository().join("scripts/sbom.py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bill: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(bill["metadata"]["component"]["version"], VERSION);
    let components = bill["components"].as_array().unwrap();
    let references: BTreeSet<&str> = components.iter().filter_map(|one| one["bom-ref"].as_str()).collect();
    assert_eq!(references.len(), components.len());
    for component in components {
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        let is_ours = component["name"].as_str().unwrap().starts_with("podpin-");
        assert!(is_ours || component["hashes"][0]["content"].is_string(), "{component}");
    }
    let has = |name: &str| components.iter().any(|one| one["name"] == name);
    assert!(has("tokio") && has("pingora-core") && has("podpin-proxy") && has("rustls"));
    assert!(
        !has("redis") && !has("proptest") && !has("podpin-testkit"),
        "the demo or tests are not in the image"
    );
    let refs =
        bill["dependencies"].as_array().unwrap().iter().flat_map(|one| one["dependsOn"].as_array().unwrap());
    assert!(
        refs.map(|one| one.as_str().unwrap()).all(|one| references.contains(one)),
        "a dependency without a component"
    );
}
