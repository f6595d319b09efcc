//! The rule for comments: the first sentence of an item doc has a term as its subject or a verb in the third person,
//! `None` and `Err` are explained with "if", and words for people mean people.
//!
//! Only those parts are checked that a list of words decides without a doubt; the rest is for reviewers. Files that are
//! still to be rewritten stand in `prose_debt.txt`, each with the number of places that it may have: numbers only fall.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{all_sources, fail_if_any};

/// First words that hide the subject, or make a person of it.
const NO_FIRST_WORD: [&str; 24] = [
    "Anybody",
    "Anyone",
    "Everybody",
    "Everyone",
    "He",
    "His",
    "It",
    "Its",
    "Nobody",
    "Of",
    "One",
    "Ones",
    "Ours",
    "Somebody",
    "That",
    "Their",
    "Them",
    "They",
    "Those",
    "What",
    "Whatever",
    "Who",
    "Whoever",
    "Whom",
];

/// Words for people, which in a proxy are endpoints, sockets and tasks nearly always: a client *that*, *no* stream.
const NO_WORD: [&str; 9] =
    ["anybody", "everybody", "he", "him", "his", "nobody", "somebody", "whoever", "whom"];

/// Continuations of `None` and `Err` that an "if" says better.
const NO_CONTINUATION: [&str; 10] =
    [":", " when", " where", " unless", " for", " means", " while", " before", " until", " once"];

/// A comment's marker and text; `None` if the line is code.
fn comment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let marker = ["///", "//!", "//"].into_iter().find(|marker| line.starts_with(marker))?;
    line.strip_prefix(marker).map(|text| (marker, text.trim_start()))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !char.is_alphanumeric() && char != '_').filter(|word| !word.is_empty())
}

/// Returns the rules that `text` breaks.
fn faults(text: &str, is_first_line_of_doc: bool) -> Vec<String> {
    let mut faults = Vec::new();
    // A doc that begins with code, such as a name in backticks, begins with a term.
    let first = words(text).next().filter(|word| text.starts_with(*word) && is_first_line_of_doc);
    if let Some(word) = first.filter(|word| NO_FIRST_WORD.contains(word)) {
        faults.push(format!("begins with `{word}`"));
    }
    faults.extend(
        words(text)
            .filter(|word| NO_WORD.contains(&word.to_lowercase().as_str()))
            .map(|word| format!("says `{word}`")),
    );
    for name in ["`None`", "`Err`"] {
        for (at, _) in text.match_indices(name) {
            let after = &text[at + name.len()..];
            let found = NO_CONTINUATION.iter().find(|word| {
                after.strip_prefix(**word).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            });
            faults.extend(found.map(|word| format!("says {name}{word}, which is `if`")));
        }
    }
    faults
}

/// Returns a line for each fault of a file.
fn faults_of_file(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a source file");
    let mut found = Vec::new();
    let mut marker_before = None;
    for (index, line) in text.lines().enumerate() {
        let comment = comment(line);
        if let Some((marker, text)) = comment {
            let is_first = marker != "//" && marker_before != Some(marker);
            let faults = faults(text, is_first);
            found.extend(faults.iter().map(|fault| format!("{}:{}: {fault}", path.display(), index + 1)));
        }
        marker_before = comment.map(|(marker, _)| marker);
    }
    found
}

/// Returns how many faults each path may have, as `prose_debt.txt` says.
fn debt() -> BTreeMap<&'static str, usize> {
    let lines =
        include_str!("prose_debt.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pairs = lines.map(|line| line.split_once(' ').expect("a path and a number"));
    pairs.map(|(path, number)| (path, number.parse().expect("a number"))).collect()
}

#[test]
fn comments_obey_the_rule_for_prose() {
    let debt = debt();
    let mut owed: BTreeMap<&str, Vec<String>> = debt.keys().map(|path| (*path, Vec::new())).collect();
    let mut problems = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    for path in all_sources() {
        let inside = path.strip_prefix(root).expect("a file of the workspace");
        match owed.iter_mut().find(|(owing, _)| inside.starts_with(owing)) {
            Some((_, faults)) => faults.extend(faults_of_file(&path)),
            None => problems.extend(faults_of_file(&path)),
        }
    }
    for (path, faults) in owed {
        if faults.is_empty() {
            problems.push(format!("{path} owes nothing any more: take it out of prose_debt.txt."));
        } else if faults.len() > debt[path] {
            problems.push(format!("{path} may have {} of these, not {}:", debt[path], faults.len()));
            problems.extend(faults);
        }
    }
    fail_if_any(&problems);
}

#[test]
fn the_rule_for_prose_tells_good_from_bad() {
    let cases = [
        ("It is in use already.", true, 1),
        ("Item of a list.", true, 0),
        ("`It` is a type.", true, 0),
        ("it is in use.", true, 0),
        ("It goes on.", false, 0),
        ("Tells nobody whom it serves.", true, 2),
        ("The history, the header, this.", true, 0),
        ("Returns the key; `None` when there is none.", true, 1),
        ("Returns the key; `None` if there is none.", true, 0),
        ("The outer `None`: nothing; `Err` for the rest.", true, 2),
        ("`None` forever.", true, 0),
    ];
    for (text, is_first, expected) in cases {
        assert_eq!(faults(text, is_first).len(), expected, "{text}: {:?}", faults(text, is_first));
    }
}
