//! Every input that is kept in `fuzz/corpus` holds what it has to hold, and every target is there for the fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use podpin_fuzz::TARGETS;

/// Few enough to be read; a find is added by hand, as small as it gets.
const FILES_MAX: usize = 200;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_kept_input_holds_the_laws() {
    let mut files = 0;
    for (name, target) in TARGETS {
        let kept = entries(&fuzz().join("corpus").join(name));
        assert!(kept.len() >= 3, "{name} has no inputs to begin with");
        for path in kept {
            let input = fs::read(&path).expect("a file");
            let held = std::panic::catch_unwind(|| target(&input));
            assert!(held.is_ok(), "broken by {}", path.display());
            files += 1;
        }
    }
    assert!(files <= FILES_MAX, "{files} files: keep those that say something");
}

#[test]
fn the_fuzzer_has_every_target_and_no_other() {
    let stem = |path: PathBuf| path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let programs: Vec<_> = entries(&fuzz().join("fuzz_targets")).into_iter().map(stem).collect();
    let corpora: Vec<_> = entries(&fuzz().join("corpus")).into_iter().map(stem).collect();
    assert_eq!((&programs, &corpora), (&names, &names));
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml has no {name}");
    }
}
