//! Alerts and dashboard: every metric in them is one that podpin has, and every runbook is a section of the documentation.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::bundle;
use crate::documents;

/// The names of podpin's own metrics, as its source declares them, and of those of the process.
fn metrics() -> BTreeSet<String> {
    let telemetry = documents::repository().join("crates/podpin-proxy/src/telemetry");
    let mut names = BTreeSet::new();
    for file in ["metrics.rs", "metrics/service.rs"] {
        let text = std::fs::read_to_string(telemetry.join(file)).unwrap();
        for line in text.lines().filter(|line| line.contains(": ") && line.trim_end().contains(" = \"")) {
            let (_, name) = line.split_once(" = \"").unwrap();
            names.insert(format!("podpin_{}", name.split('"').next().unwrap()));
        }
    }
    assert!(names.len() > 40, "only {names:?}");
    for name in ["open_fds", "max_fds", "cpu_seconds_total", "resident_memory_bytes"] {
        names.insert(format!("process_{name}"));
    }
    names
}

/// The metrics that an expression reads.
fn read_by(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter(|word| word.starts_with("podpin_") || word.starts_with("process_"));
    metrics.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

/// Every text under a key of this name.
fn texts<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_str));
            map.values().for_each(|value| texts(value, key, found));
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn alerts_and_dashboard_read_metrics_that_exist() {
    let known = metrics();
    let bundle = bundle::of("overlays/monitoring");
    let mut expressions = Vec::new();
    let dashboard = bundle.objects.iter().find_map(|object| object.value.pointer("/data/podpin.json"));
    let dashboard: Value = serde_json::from_str(dashboard.unwrap().as_str().unwrap()).unwrap();
    texts(&dashboard, "expr", &mut expressions);
    let panels = expressions.len();
    for object in &bundle.objects {
        texts(&object.value, "expr", &mut expressions);
    }
    assert!(panels > 25 && expressions.len() > panels + 12, "{panels} of {}", expressions.len());
    for expression in expressions {
        let read = read_by(expression);
        assert!(!read.is_empty(), "{expression} reads nothing");
        for metric in read {
            assert!(known.contains(&metric), "{metric} in {expression}");
        }
        let opened = expression.matches(['(', '{']).count();
        assert_eq!(opened, expression.matches([')', '}']).count(), "{expression}");
    }
}

#[test]
fn every_runbook_is_a_section_of_the_documentation() {
    let text = std::fs::read_to_string(documents::repository().join("docs/kubernetes.md")).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>()
    };
    let anchors: BTreeSet<String> = headings.map(anchor).collect();
    let bundle = bundle::of("overlays/monitoring");
    let mut runbooks = Vec::new();
    bundle.objects.iter().for_each(|object| texts(&object.value, "runbook_url", &mut runbooks));
    for runbook in runbooks {
        let (_, section) = runbook.split_once("docs/kubernetes.md#").unwrap();
        assert!(anchors.contains(section), "{section} of {anchors:?}");
    }
}

#[test]
fn the_monitors_leave_podpins_own_labels_alone() {
    let bundle = bundle::of("overlays/monitoring");
    let monitor = bundle.objects.iter().find(|object| object.text("/kind") == "PodMonitor").unwrap();
    for endpoint in monitor.value["spec"]["podMetricsEndpoints"].as_array().unwrap() {
        assert_eq!((&endpoint["honorLabels"], &endpoint["port"]), (&true.into(), &"admin".into()));
    }
}
