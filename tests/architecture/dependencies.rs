//! The packages that podpin is built with, by the rules of `deny.toml`: licences, bans and sources.
//!
//! cargo-deny reads the same file and knows more (advisories, licence texts), but takes minutes to install; this
//! needs nothing that a build does not. Advisories are left to `scripts/check-dependencies.sh`.

use std::path::Path;

use cargo_metadata::Package;
use serde::Deserialize;
use spdx::{Expression, LicenseReq, ParseMode};

use crate::{fail_if_any, metadata};

/// The parts of `deny.toml` that are checked here; cargo-deny refuses fields that it does not know.
#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

fn rules() -> Rules {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml");
    toml::from_str(&std::fs::read_to_string(path).expect("deny.toml")).expect("the rules of deny.toml")
}

/// `Err` with the reason if the licence of `package` asks for more than `allowed` gives.
fn check_licence(package: &Package, allowed: &[LicenseReq]) -> Result<(), String> {
    let text = package.license.as_deref().ok_or("names no licence")?;
    // Old manifests write `MIT/Apache-2.0`.
    let expression = Expression::parse_mode(text, ParseMode::LAX).map_err(|error| error.to_string())?;
    let is_met = expression.evaluate(|wanted| allowed.contains(wanted));
    if is_met { Ok(()) } else { Err(format!("has the licence {text}")) }
}

#[test]
fn every_package_has_a_licence_that_is_allowed() {
    let allow = rules().licenses.allow;
    let parsed = allow.iter().map(|text| Expression::parse(text).expect("an SPDX licence"));
    let allowed: Vec<LicenseReq> = parsed
        .flat_map(|one| one.requirements().map(|wanted| wanted.req.clone()).collect::<Vec<_>>())
        .collect();
    let mut problems = Vec::new();
    for package in &metadata().packages {
        if let Err(reason) = check_licence(package, &allowed) {
            problems.push(format!(
                "{} {} {reason}, which `licenses.allow` of deny.toml does not have: use another package, or \
                 allow it there if the image may be shipped with it.",
                package.name, package.version
            ));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn no_package_is_banned() {
    let bans = rules().bans.deny;
    let mut problems = Vec::new();
    for package in &metadata().packages {
        for ban in bans.iter().filter(|ban| *package.name == ban.name) {
            problems.push(format!("{} is banned in deny.toml: {}.", package.name, ban.reason));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn every_package_comes_from_a_registry_that_is_allowed() {
    let allowed = rules().sources.allow_registry;
    let mut problems = Vec::new();
    for package in &metadata().packages {
        let Some(source) = &package.source else { continue };
        if !allowed.iter().any(|registry| source.repr == format!("registry+{registry}")) {
            problems.push(format!(
                "{} comes from {}, which `sources.allow-registry` of deny.toml does not have.",
                package.name, source.repr
            ));
        }
    }
    fail_if_any(&problems);
}
