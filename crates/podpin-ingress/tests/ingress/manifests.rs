//! Manifests after public patterns, each with what has to come out of it in its first lines.
//!
//! `outcome:`, `class: SETTING CLASS`, `has:` and `lacks:` a part of podpin.yaml, `file: NAME PART`, `withheld:`, `skipped:` and
//! `note:` a part of the report, `allow:` a loss.

use std::fs;
use std::path::Path;

use podpin_ingress::{Class, Import, Options, Outcome};

use crate::{file, imported};

fn directives(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    lines.filter_map(|line| line.strip_prefix("# ")?.split_once(": ")).collect()
}

/// Returns whether a directive holds.
fn holds(import: &Import, kind: &str, wanted: &str) -> Option<bool> {
    let report = &import.report;
    let config = file(import, "podpin.yaml");
    let is_in = |lines: &[String]| lines.iter().any(|line| line.contains(wanted));
    Some(match kind {
        "outcome" => {
            let word = match report.outcome() {
                Outcome::Exact => "exact",
                Outcome::Approximate => "approximate",
                Outcome::Lost => "lost",
            };
            word == wanted
        }
        "class" => {
            let (setting, class) = wanted.split_once(' ').unwrap();
            let class = Class::ALL.into_iter().find(|one| one.words() == class).unwrap();
            report.findings.iter().any(|finding| finding.setting == setting && finding.class == class)
        }
        "has" => config.contains(wanted),
        "lacks" => !config.contains(wanted),
        "file" => {
            let (name, part) = wanted.split_once(' ').unwrap();
            file(import, name).contains(part)
        }
        "withheld" => is_in(&report.withheld),
        "skipped" => is_in(&report.skipped),
        "note" => report.findings.iter().any(|finding| finding.note.contains(wanted)),
        _ => return None,
    })
}

#[test]
fn every_manifest_becomes_what_it_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ingress/manifests");
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut problems = Vec::new();
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let directives = directives(&text);
        let mut options = Options::default();
        options.allowed_losses.extend(
            directives.iter().filter(|(kind, _)| *kind == "allow").map(|(_, name)| (*name).to_owned()),
        );
        let import = imported(&text, &options);
        let mut checked = 0;
        for (kind, wanted) in &directives {
            match holds(&import, kind, wanted) {
                Some(true) => checked += 1,
                Some(false) => problems.push(format!("{name}: {kind}: {wanted}")),
                None => {}
            }
        }
        if checked == 0 {
            problems.push(format!("{name}: nothing is checked"));
        }
        let last = problems.last().is_some_and(|problem| problem.starts_with(&format!("{name}:")));
        if last {
            problems.push(format!("{}\n{}", file(&import, "podpin.yaml"), import.report.text()));
        }
    }
    assert!(files.len() >= 40, "{} manifests", files.len());
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
