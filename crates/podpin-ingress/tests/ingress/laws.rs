//! Laws of every import: the configuration is one that podpin takes, the same input gives the same files in whatever order it
//! comes, every setting is reported once, and what protects is never served without its protection.

use std::collections::BTreeSet;

use podpin_ingress::{
    ANNOTATIONS, CONTROLLER_KEYS, Class, Finding, Import, Objects, Options, Outcome, import,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::file;

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Values that people write, right and wrong, for any setting.
const VALUES: [&str; 46] = [
    "true",
    "false",
    "on",
    "off",
    "cookie",
    "persistent",
    "0",
    "1",
    "60",
    "86400",
    "99999999999999999999",
    "-1",
    "1m",
    "",
    "/",
    "/$1",
    "/$2",
    "/q/$2",
    "/app; Secure",
    "none",
    "Lax",
    "*",
    "https://a.example, https://*.b.example",
    "GET, POST, *",
    "a.example.com",
    "~^x.*$",
    "prod/secret",
    "secret",
    "../x",
    "HTTPS",
    "GRPC",
    "10.0.0.0/8",
    "0.0.0.0/0,10.0.0.1",
    "$remote_addr",
    "$http_x_user",
    "$arg_a",
    "$http_host",
    "error timeout non_idempotent",
    "off error",
    "proxy_buffering off; deny all;",
    "more_set_headers \"X-A: b\" 'X-B: c'; add_header Host x;",
    "X-Canary",
    "^(a|b",
    "eu: #\n- x",
    "round_robin",
    "4 8k",
];

const PATHS: [&str; 12] =
    ["/", "/a", "/a/", "/a(/|$)(.*)", "/a/(.*)", "/(a|b)/.*", "/v[0-9]+/x", "a", "/a//b", "/ü", "/%2F?x", ""];

fn name() -> impl Strategy<Value = String> {
    let known = (0..ANNOTATIONS.len()).prop_map(|at| ANNOTATIONS[at].name.replace('*', "x"));
    prop_oneof![20 => known, 1 => "[a-z-]{1,12}"]
}

fn value() -> impl Strategy<Value = Value> {
    let known = (0..VALUES.len()).prop_map(|at| json!(VALUES[at]));
    prop_oneof![20 => known, 1 => any::<String>().prop_map(Value::from), 1 => any::<u16>().prop_map(Value::from), 1 => Just(json!([1]))]
}

fn ingress() -> impl Strategy<Value = Value> {
    let host = prop_oneof![
        Just(json!("a.example.com")),
        Just(json!("*.example.com")),
        Just(Value::Null),
        Just(json!("b_c.x"))
    ];
    let kind = prop_oneof![Just("Exact"), Just("Prefix"), Just("ImplementationSpecific")];
    let port = prop_oneof![
        Just(json!({"name": "http"})),
        Just(json!({"number": 80})),
        Just(json!({"name": "nope"}))
    ];
    let path = ((0..PATHS.len()), kind, port, 0..3).prop_map(|(path, kind, port, service)| {
        json!({"path": PATHS[path], "pathType": kind, "backend": {"service": {"name": format!("s{service}"), "port": port}}})
    });
    let rule = (host, prop::collection::vec(path, 0..4))
        .prop_map(|(host, paths)| json!({"host": host, "http": {"paths": paths}}));
    let annotations = prop::collection::btree_map(name(), value(), 0..12);
    (0..6, annotations, prop::collection::vec(rule, 0..3), any::<bool>()).prop_map(
        |(number, annotations, rules, has_tls)| {
            let annotations: serde_json::Map<String, Value> =
                annotations.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)).collect();
            let tls = if has_tls {
                json!([{"hosts": ["a.example.com"], "secretName": "tls"}])
            } else {
                Value::Null
            };
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": {"name": format!("i{number}"), "namespace": "prod", "annotations": annotations},
                "spec": {"ingressClassName": "nginx", "rules": rules, "tls": tls},
            })
        },
    )
}

fn controller() -> impl Strategy<Value = Value> {
    let key = (0..CONTROLLER_KEYS.len()).prop_map(|at| CONTROLLER_KEYS[at].name.replace('*', "x"));
    prop::collection::btree_map(key, value(), 0..8).prop_map(|data| {
        json!({
            "kind": "ConfigMap", "metadata": {"name": "ingress-nginx-controller", "namespace": "ingress-nginx"}, "data": data,
        })
    })
}

fn services() -> Vec<Value> {
    let service = |number: u32, ports: Value| json!({"kind": "Service", "metadata": {"name": format!("s{number}"), "namespace": "prod"}, "spec": {"selector": {"a": "b"}, "ports": ports}});
    vec![
        service(0, json!([{"name": "http", "port": 80}])),
        service(1, json!([{"port": 80, "targetPort": 8080}])),
    ]
}

fn run(objects: &[Value], options: &Options) -> Import {
    let mut all = Objects::default();
    for value in objects {
        all.add_value("input", value);
    }
    import(all, options).unwrap_or_else(|error| panic!("{error}\n{}", error.text))
}

proptest! {
    #[test]
    fn any_annotations_make_a_configuration_that_podpin_takes(
        ingresses in prop::collection::vec(ingress(), 1..5),
        controller in controller(),
    ) {
        let mut objects = services();
        objects.push(controller);
        objects.extend(ingresses);
        // `import` has podpin's own parser read what it made.
        let import = run(&objects, &Options::default());
        prop_assert!(import.files.iter().any(|file| file.name == "REPORT.md"));
        drop((import.report.text(), import.report.json()));
    }

    #[test]
    fn the_same_objects_make_the_same_files_in_any_order(
        ingresses in prop::collection::vec(ingress(), 1..5),
        controller in controller(),
        turn in 0_usize..8,
    ) {
        let mut names = BTreeSet::new();
        let mut objects = services();
        objects.push(controller);
        // Of two that contradict each other the report quotes the first.
        objects.extend(ingresses.into_iter().filter(|one| names.insert(one["metadata"]["name"].to_string())));
        let first = run(&objects, &Options::default());
        let turned = turn % objects.len();
        objects.rotate_left(turned);
        prop_assert_eq!(&first, &run(&objects, &Options::default()));
        objects.reverse();
        prop_assert_eq!(&first, &run(&objects, &Options::default()));
    }

    #[test]
    fn every_annotation_is_reported_once(ingress in ingress()) {
        let written: Vec<String> =
            ingress["metadata"]["annotations"].as_object().unwrap().keys().map(|name| name[PREFIX.len()..].to_owned()).collect();
        let mut objects = services();
        objects.push(ingress);
        let import = run(&objects, &Options::default());
        for name in written {
            let of = |finding: &&Finding| finding.setting == name && finding.object.starts_with("Ingress");
            prop_assert_eq!(import.report.findings.iter().filter(of).count(), 1, "{}", name);
        }
    }

    #[test]
    fn an_ingress_that_loses_protection_serves_nothing(ingress in ingress()) {
        let mut objects = services();
        objects.push(ingress);
        let import = run(&objects, &Options::default());
        let config = file(&import, "podpin.yaml");
        let lost = import.report.findings.iter().any(|finding| finding.class == Class::Protecting);
        prop_assert_eq!(lost, import.report.outcome() == Outcome::Lost);
        if lost {
            let backends = config.lines().map(str::trim).filter(|line| line.starts_with("service:") || line.contains("{service:"));
            for line in backends {
                prop_assert!(line.contains("withheld"), "{}\n{}", line, config);
            }
        }
    }

    #[test]
    fn any_text_is_reported_and_never_a_crash(text in "(?s).{0,300}") {
        let mut objects = Objects::default();
        objects.add_text("noise", &text);
        prop_assert!(import(objects, &Options::default()).is_ok());
    }
}
