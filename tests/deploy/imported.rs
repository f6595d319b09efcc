//! Overlays that `podpin import-ingress` writes: their objects are of Kubernetes, and what the configuration names is mounted.

use std::fs;

use podpin_config::Config;
use podpin_ingress::{Import, Objects, Options, import};
use serde_json::Value;

use crate::{documents, kinds};

/// Every manifest of the import's own tests, imported with all losses allowed.
fn imports() -> Vec<(String, Import)> {
    let directory = documents::repository().join("crates/podpin-ingress/tests/ingress/manifests");
    let mut imports = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut objects = Objects::default();
        objects.add_text("input", &fs::read_to_string(&path).unwrap());
        let mut options = Options::default();
        options.allowed_losses.extend(podpin_ingress::Protection::ALL.map(|one| one.name().to_owned()));
        imports.push((documents::name(&path), import(objects, &options).unwrap()));
    }
    imports.sort_by(|(one, _), (other, _)| one.cmp(other));
    imports
}

fn text<'a>(import: &'a Import, name: &str) -> Option<&'a str> {
    import.files.iter().find(|file| file.name == name).map(|file| file.text.as_str())
}

#[test]
fn every_object_of_an_overlay_is_one_of_kubernetes() {
    let mut problems = Vec::new();
    let mut read = 0;
    for (place, import) in imports() {
        for name in ["deployment.yaml", "networkpolicy.yaml", "service.yaml", "rights.yaml"] {
            let Some(text) = text(&import, name) else { continue };
            for document in documents::split(text, &format!("{place} {name}")) {
                problems.extend(kinds::problems(&document));
                read += 1;
            }
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
    assert!(read > 150, "only {read} objects");
}

#[test]
fn every_file_that_a_kustomization_names_is_written() {
    for (place, import) in imports() {
        let Some(text) = text(&import, "kustomization.yaml") else { continue };
        let document = documents::split(text, &place).remove(0);
        let mut named: Vec<&str> = Vec::new();
        let list =
            |pointer: &str| document.value.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        named.extend(list("/resources").skip(1).filter_map(Value::as_str));
        named.extend(list("/configMapGenerator/0/files").filter_map(Value::as_str));
        named.extend(list("/patches").filter_map(|patch| patch["path"].as_str()));
        for name in named {
            assert!(import.files.iter().any(|file| file.name == name), "{place}: {name}");
        }
    }
}

#[test]
fn every_file_that_a_configuration_names_is_mounted() {
    let mut mounted_files = 0;
    for (place, import) in imports() {
        let Some(config) = text(&import, "podpin.yaml") else { continue };
        let parsed = Config::parse(config, "podpin.yaml", "/etc/podpin".as_ref()).unwrap();
        let mut files = Vec::new();
        for tls in parsed.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            files
                .extend(tls.certificates.iter().flat_map(|pair| [&pair.cert_file.file, &pair.key_file.file]));
            files.extend(tls.client_auth.iter().map(|auth| &auth.ca_file.file));
        }
        for tls in parsed.services.iter().filter_map(|service| service.tls.as_ref()) {
            files.extend(tls.ca_file.iter().map(|file| &file.file));
            files.extend(tls.certificate.iter().flat_map(|pair| [&pair.cert_file.file, &pair.key_file.file]));
        }
        let deployment = text(&import, "deployment.yaml").unwrap();
        for file in files {
            let mount = format!("mountPath: {}", file.parent().unwrap().display());
            assert!(deployment.contains(&mount), "{place}: {mount} is not in\n{deployment}");
            mounted_files += 1;
        }
    }
    assert!(mounted_files > 10, "only {mounted_files} files");
}
