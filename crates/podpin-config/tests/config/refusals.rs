//! Bad files, and what the operator reads about them, to the letter.
//!
//! The tables in `refusals/` are one case after another with an empty line between: the text, then its problems, each
//! after `=> ` as `line:column: path: message`. What every file needs and the text lacks is added by the frame.

use std::path::Path;

use podpin_config::{Config, Problem};

use crate::{in_a_service, of_a_service, with_the_rest};

fn refused(text: &str) -> String {
    let parsed = Config::parse(text, "podpin.yaml", Path::new("/etc/podpin"));
    parsed.expect_err(&format!("accepted: {text}")).to_string()
}

/// Every case of `table`, put into its `frame`, is refused with exactly its problems.
fn check(table: &str, frame: fn(&str) -> String) {
    for case in table.trim().split("\n\n") {
        let (expected, text): (Vec<&str>, Vec<&str>) = case.lines().partition(|line| line.starts_with("=> "));
        let expected: Vec<String> =
            expected.iter().map(|line| line.replacen("=> ", "podpin.yaml:", 1)).collect();
        assert!(!expected.is_empty(), "no problem is named for: {case}");
        assert_eq!(refused(&frame(&text.join("\n"))), expected.join("\n"), "of: {case}");
    }
}

#[test]
fn top_level_keys_are_refused_in_these_words() {
    check(include_str!("refusals/top_level.txt"), with_the_rest);
}

#[test]
fn limits_of_the_listeners_are_refused_in_these_words() {
    check(include_str!("refusals/limits.txt"), with_the_rest);
}

#[test]
fn listeners_and_admin_are_refused_in_these_words() {
    check(include_str!("refusals/listeners.txt"), with_the_rest);
}

#[test]
fn affinity_keys_are_refused_in_these_words() {
    check(include_str!("refusals/keys.txt"), with_the_rest);
}

#[test]
fn routes_are_refused_in_these_words() {
    check(include_str!("refusals/routes.txt"), with_the_rest);
    check(include_str!("refusals/hostnames.txt"), with_the_rest);
    check(include_str!("refusals/matches.txt"), with_the_rest);
    check(include_str!("refusals/header_matches.txt"), with_the_rest);
    check(include_str!("refusals/backends.txt"), with_the_rest);
}

#[test]
fn services_are_refused_in_these_words() {
    check(include_str!("refusals/services.txt"), with_the_rest);
    check(include_str!("refusals/discovery.txt"), of_a_service);
    check(include_str!("refusals/balance.txt"), in_a_service);
    check(include_str!("refusals/timeouts.txt"), in_a_service);
    check(include_str!("refusals/retries_limits_health.txt"), in_a_service);
}

#[test]
fn affinity_and_cookies_are_refused_in_these_words() {
    check(include_str!("refusals/affinity.txt"), in_a_service);
    check(include_str!("refusals/cookies.txt"), in_a_service);
}

#[test]
fn event_streams_and_drain_are_refused_in_these_words() {
    check(include_str!("refusals/sse.txt"), in_a_service);
    check(include_str!("refusals/drain.txt"), in_a_service);
    check(include_str!("refusals/websocket.txt"), in_a_service);
}

#[test]
fn what_is_no_configuration_at_all_is_refused() {
    let empty = "1:1: the file is empty; it needs at least `listeners`, `routes` and `services`";
    let cases = [
        ("", empty),
        ("# nothing\n", empty),
        ("---\n", empty),
        ("null\n", empty),
        ("just words\n", "1:1: expected a mapping, found \"just words\""),
        ("- a list\n", "1:1: expected a mapping, found a list"),
        ("!foo {a: b}\n", "1:1: expected a mapping, found a tagged value"),
        ("a: b\n---\nc: d\n", "3:1: a second YAML document; the configuration is one document"),
        ("a: [\n", "2:1: not valid YAML: while parsing a node, did not find expected node content"),
        ("a: 1\n  b: 2\n", "2:4: not valid YAML: mapping values are not allowed in this context"),
        ("a: \"b\n", "1:4: not valid YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a:\n\t- b\n", "2:2: not valid YAML: tabs disallowed within this context (block indentation)"),
        ("a: *b\n", "1:4: not valid YAML: while parsing node, found unknown anchor"),
        ("workers: 2\n'workers': 3\n", "2:1: the key `workers` is written twice in one mapping"),
        ("admin: {x: 1, \"x\": 2}\n", "1:15: the key `x` is written twice in one mapping"),
    ];
    for (text, expected) in cases {
        assert_eq!(refused(text), format!("podpin.yaml:{expected}"), "of: {text}");
    }
}

#[test]
fn nesting_beyond_reason_is_refused_before_it_costs_the_stack() {
    let bomb: String = (1..9)
        .map(|level| format!("l{level}: &l{level} [{}]\n", format!("*l{}, ", level - 1).repeat(20)))
        .collect();
    let cases = [
        ("- ".repeat(100_000), "1:257: nested too deep"),
        (format!("a:\n{}b", "? ".repeat(100_000)), "2:257: nested too deep"),
        ("[".repeat(100_000), "1:256: not valid YAML: recursion limit exceeded"),
        (
            format!("{}{}\n", "- ".repeat(127), "[".repeat(200)),
            "2:1: not valid YAML: while parsing a node, did not find expected node content",
        ),
        (format!("l0: &l0 x\n{bomb}"), "5:"),
    ];
    for (text, expected) in cases {
        let message = refused(&text);
        assert!(message.starts_with(&format!("podpin.yaml:{expected}")), "{message}");
    }
}

#[test]
fn a_problem_is_data_too() {
    let error = Config::parse(&with_the_rest("workers: 0"), "podpin.yaml", Path::new("")).unwrap_err();
    let message = "must be between 1 and 1024; found 0".to_owned();
    let problem = Problem { line: 1, column: 10, path: "workers".to_owned(), message };
    assert_eq!((error.file.as_str(), error.problems), ("podpin.yaml", vec![problem]));
}
