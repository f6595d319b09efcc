//! The commit that the binary is built from, for `podpin --version`.
//!
//! Three sources, the first that has it: the environment (`PODPIN_COMMIT`, `PODPIN_COMMIT_DATE`: a build without the repository, such
//! as an image's), the file `commit.txt`, which `git archive` fills in, and git. Without any of them the version says `unknown`;
//! no build fails for it.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=PODPIN_COMMIT");
    println!("cargo::rerun-if-env-changed=PODPIN_COMMIT_DATE");
    println!("cargo::rerun-if-changed=commit.txt");
    println!("cargo::rerun-if-changed=build.rs");
    let found = from_environment().or_else(from_archive).or_else(from_git);
    let built_from = found.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PODPIN_BUILT_FROM={built_from}");
}

fn from_environment() -> Option<String> {
    let value = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let commit = value("PODPIN_COMMIT")?;
    let date = value("PODPIN_COMMIT_DATE").map(|date| format!(" {date}")).unwrap_or_default();
    let short: String = commit.trim().chars().take(12).collect();
    Some(format!("{short}{date}"))
}

/// Returns what `git archive` wrote; `None` if the file is as it lies in the repository.
fn from_archive() -> Option<String> {
    let text = std::fs::read_to_string("commit.txt").ok()?;
    let line = text.trim();
    (!line.contains('$') && !line.is_empty()).then(|| line.to_owned())
}

fn from_git() -> Option<String> {
    let head = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&head).exists() {
        println!("cargo::rerun-if-changed={head}");
    }
    git(&["log", "-1", "--abbrev=12", "--format=%h %cs"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
