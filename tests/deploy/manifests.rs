//! Each file and each document by itself.

use std::collections::BTreeSet;

use podpin_config::Config;

use crate::bundle::{self, Kustomization};
use crate::documents::{self, Document};
use crate::kinds;

/// Files with this ending show something and are part of no kustomization.
const EXAMPLE: &str = ".example.yaml";

#[test]
fn every_manifest_is_understood_without_a_field_left_over() {
    let mut problems = Vec::new();
    let mut read = 0;
    for file in documents::files() {
        if !file.ends_with("kustomization.yaml") {
            for document in documents::read(&file) {
                problems.extend(kinds::problems(&document));
                read += 1;
            }
        }
    }
    for document in crate::chart::bundles().into_iter().flat_map(|bundle| bundle.objects) {
        problems.extend(kinds::problems(&document));
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    assert!(read >= 17, "only {read} manifests");
}

#[test]
fn a_field_that_is_misspelt_misplaced_or_of_another_type_is_found() {
    let good =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, targetPort: http}]}\n";
    let problems = |text: &str| -> Vec<String> {
        documents::split(text, "test").iter().flat_map(kinds::problems).collect()
    };
    assert_eq!(problems(good), Vec::<String>::new());
    let broken = [
        ("targetPort", "targetport", "test#0.spec.ports[0].targetport: unknown field"),
        ("metadata: {", "lables: {}\nmetadata: {", "test#0.lables: unknown field"),
        ("port: 80", "port: eighty", "invalid type: string \"eighty\""),
        ("kind: Service", "kind: Servce", "unknown apiVersion \"v1\" or kind \"Servce\""),
        ("apiVersion: v1", "apiVersion: apps/v1", "unknown apiVersion \"apps/v1\" or kind \"Service\""),
        ("{name: a}", "{name: a, labels: {on: off}}", "invalid type: boolean"),
    ];
    for (from, to, expected) in broken {
        let found = problems(&good.replace(from, to));
        assert!(found.len() == 1 && found[0].contains(expected), "{to}: {found:?}");
    }
}

#[test]
fn every_file_belongs_to_a_kustomization_or_is_called_an_example() {
    let used: BTreeSet<_> = bundle::all().into_iter().flat_map(|bundle| bundle.files).collect();
    for file in documents::files() {
        let name = documents::name(&file);
        assert!(used.contains(&file) != name.ends_with(EXAMPLE), "{name}");
    }
}

#[test]
fn no_kustomization_has_an_object_twice() {
    for bundle in bundle::all() {
        let mut seen = BTreeSet::new();
        for object in &bundle.objects {
            let identity = (object.text("/kind"), object.text("/metadata/name"));
            assert!(seen.insert(identity), "{}: {identity:?} twice", bundle.name);
        }
    }
}

#[test]
fn every_object_says_what_it_belongs_to() {
    for object in bundle::all().iter().flat_map(|bundle| &bundle.objects) {
        for label in ["name", "part-of"] {
            let pointer = format!("/metadata/labels/app.kubernetes.io~1{label}");
            assert!(!object.text(&pointer).is_empty(), "{}: app.kubernetes.io/{label}", object.place);
        }
    }
}

#[test]
fn what_the_documentation_shows_is_valid_as_well() {
    let mut read = 0;
    for file in ["README.md", "docs/getting-started.md", "docs/kubernetes.md", "docs/pod-authors.md"] {
        for (place, text) in documents::yaml_blocks(&documents::repository().join(file)) {
            let documents = documents::split(&text, &place);
            if documents[0].text("/kind").is_empty() {
                let whole = with_the_rest(&text, &documents[0]);
                Config::parse(&whole, &place, "/etc/podpin".as_ref())
                    .unwrap_or_else(|error| panic!("{error}"));
            } else {
                let problems: Vec<_> = documents.iter().flat_map(documented).collect();
                assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
            }
            read += documents.len();
        }
    }
    assert!(read >= 7, "only {read} documents");
}

/// A part of a configuration, with what every configuration must have.
fn with_the_rest(text: &str, document: &Document) -> String {
    let required = [
        ("listeners", "listeners: [{name: http, address: 0.0.0.0:8080}]"),
        ("routes", "routes: [{service: chat}]"),
        ("services", "services: {chat: {discovery: {static: []}}}"),
    ];
    let missing = required.iter().filter(|(key, _)| document.value.get(key).is_none());
    missing.fold(text.to_owned(), |whole, (_, line)| format!("{whole}\n{line}\n"))
}

fn documented(document: &Document) -> Vec<String> {
    if document.text("/kind") != "Kustomization" {
        return kinds::problems(document);
    }
    let what = serde_json::from_value::<Kustomization>(document.value.clone());
    what.err().map(|error| format!("{}: {error}", document.place)).into_iter().collect()
}

#[test]
fn every_kustomization_says_its_version() {
    for file in documents::files().iter().filter(|file| file.ends_with("kustomization.yaml")) {
        for document in documents::read(file) {
            let what: Kustomization = serde_json::from_value(document.value.clone()).unwrap();
            // A component has the namespace of what it adds to.
            let (version, namespace) = match what.kind.as_str() {
                "Component" => ("v1alpha1", None),
                kind => {
                    assert_eq!(kind, "Kustomization", "{}", document.place);
                    ("v1beta1", Some("podpin"))
                }
            };
            assert_eq!(what.api_version, format!("kustomize.config.k8s.io/{version}"), "{}", document.place);
            assert_eq!(what.namespace.as_deref(), namespace, "{}", document.place);
            for image in &what.images {
                assert!(image.new_name.is_some() || image.new_tag.is_some(), "{}", image.name);
            }
        }
    }
}
