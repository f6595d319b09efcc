//! Every known annotation and key by itself, with the class that its value has.

use std::collections::BTreeSet;

use podpin_ingress::{ANNOTATIONS, CONTROLLER_KEYS, Class, Options, lookup};

use crate::imported;

const SERVICE: &str = "---\nkind: Service\nmetadata: {name: chat, namespace: prod}\nspec: {selector: {a: b}, ports: [{name: http, port: 80}]}\n";

/// Annotations with values and letters: E exact, A approximate, D not needed, R not supported, S protecting.
const CASES: &str = include_str!("annotations.txt");

fn class(letter: &str) -> Class {
    match letter {
        "E" => Class::Exact,
        "A" => Class::Approximate,
        "D" => Class::NotNeeded,
        "R" => Class::NotSupported,
        "S" => Class::Protecting,
        other => panic!("{other} is no class"),
    }
}

/// Returns the class of one annotation among others.
fn judged(name: &str, value: &str, others: &[(&str, &str)]) -> Class {
    let quoted = |value: &str| serde_json::Value::from(value).to_string();
    let mut annotations = String::new();
    for (name, value) in others.iter().copied().chain([(name, value)]) {
        annotations.push_str(&format!("    nginx.ingress.kubernetes.io/{name}: {}\n", quoted(value)));
    }
    let main = "---\nkind: Ingress\nmetadata: {name: main, namespace: prod}\nspec:\n  ingressClassName: nginx\n  rules: [{host: c.example.com, http: {paths: \
                [{path: /, pathType: Prefix, backend: {service: {name: chat, port: {name: http}}}}]}}]\n";
    let is_canary = others.iter().any(|(name, _)| *name == "canary") || name == "canary";
    let host = if is_canary { "c.example.com" } else { "a.example.com" };
    let text = format!(
        "kind: Ingress\nmetadata:\n  name: one\n  namespace: prod\n  annotations:\n{annotations}spec:\n  ingressClassName: nginx\n  tls: [{{hosts: \
         [a.example.com], secretName: tls}}]\n  rules: [{{host: {host}, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: \
         chat, port: {{name: http}}}}}}}}]}}}}]\n{}{SERVICE}",
        if is_canary { main } else { "" },
    );
    let import = imported(&text, &Options::default());
    let found: Vec<Class> = import
        .report
        .findings
        .iter()
        .filter(|finding| finding.object == "Ingress prod/one" && finding.setting == name)
        .map(|finding| finding.class)
        .collect();
    assert_eq!(found.len(), 1, "{name} is reported {} times", found.len());
    found[0]
}

#[test]
fn every_annotation_is_reported_with_its_class() {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for line in CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut parts = line.split('\t');
        let (letter, setting) = (parts.next().unwrap(), parts.next().unwrap());
        let others: Vec<(&str, &str)> = parts.map(|other| other.split_once('=').unwrap()).collect();
        let (name, value) = setting.split_once('=').unwrap();
        let row = lookup(ANNOTATIONS, name).unwrap_or_else(|| panic!("{name} is not in the table"));
        seen.insert(row.name);
        let expected = class(letter);
        let found = judged(name, value, &others);
        if found != expected {
            problems.push(format!("{line}: {found}"));
        }
        if !row.classes.contains(&found) {
            problems.push(format!("{line}: {found} is none of its row's classes"));
        }
    }
    let unseen: Vec<&str> =
        ANNOTATIONS.iter().map(|row| row.name).filter(|name| !seen.contains(name)).collect();
    assert!(unseen.is_empty(), "no case for {unseen:?}");
    assert!(ANNOTATIONS.len() >= 120, "{} annotations", ANNOTATIONS.len());
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn every_key_of_the_controller_is_reported_by_its_row() {
    let mut problems = Vec::new();
    for row in CONTROLLER_KEYS {
        for value in ["true", "false", "0", "10", "x"] {
            let name = row.name.replace('*', "x");
            let text = format!(
                "kind: ConfigMap\nmetadata: {{name: ingress-nginx-controller, namespace: n}}\ndata: {{{name}: '{value}'}}\n"
            );
            let import = imported(&text, &Options::default());
            let found: Vec<Class> = import
                .report
                .findings
                .iter()
                .filter(|one| one.setting == name)
                .map(|one| one.class)
                .collect();
            // A value that is none is ignored, which is an approximation.
            let fits =
                |class: &Class| row.classes.contains(class) || (*class == Class::Approximate && value == "x");
            if found.len() != 1 || !found.iter().all(fits) {
                problems.push(format!("{name}: {value}: {found:?}"));
            }
        }
    }
    assert!(CONTROLLER_KEYS.len() >= 100, "{} keys", CONTROLLER_KEYS.len());
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
