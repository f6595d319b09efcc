//! The files that users copy from, and files that cannot be read at all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use podpin_config::{AffinityKeys, Config, Discovery, Service};

use crate::{parse, with_the_rest};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(name: &str) -> Config {
    Config::load(&repository().join("config").join(name)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_example_is_accepted() {
    let mut read = 0;
    for entry in fs::read_dir(repository().join("config")).unwrap() {
        let path = entry.unwrap().path();
        let is_endpoints =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("endpoints"));
        if path.extension().is_some_and(|extension| extension == "yaml") && !is_endpoints {
            Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
            read += 1;
        }
    }
    assert!(read >= 4, "only {read} files");
}

#[test]
fn the_reference_file_writes_out_the_defaults() {
    let (reference, minimal) = (load("podpin.yaml"), load("minimal.yaml"));
    assert_eq!(reference.services, minimal.services);
    assert_eq!(reference.routes, minimal.routes);
    let AffinityKeys::Files(_) = reference.affinity_keys else { panic!("the reference shows key files") };
    let same = Config { affinity_keys: AffinityKeys::Ephemeral, ..reference };
    assert_eq!(same, minimal);
}

#[test]
fn the_file_example_names_the_endpoints_example() {
    let config = load("file-discovery.yaml");
    let Some(Discovery::File(path)) = config.services.first().map(|service| &service.discovery) else {
        panic!("no file discovery");
    };
    assert!(path.is_file(), "{}", path.display());
}

#[test]
fn the_example_of_names_is_discovered_in_dns() {
    let config = load("dns.yaml");
    assert!(matches!(config.services[0].discovery, Discovery::Dns(_)));
}

#[test]
fn the_cluster_example_is_discovered_in_the_cluster() {
    let config = load("kubernetes.yaml");
    let discovered = |service: &Service| matches!(service.discovery, Discovery::Kubernetes(_));
    assert!(config.services.iter().all(discovered));
}

#[test]
fn a_file_that_cannot_be_read_is_refused_by_its_name() {
    let directory = std::env::temp_dir().join(format!("podpin-config-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let cases = [
        (directory.join("missing.yaml"), ": cannot be read: No such file or directory (os error 2)"),
        (directory.clone(), ": is a directory, not a file"),
        (write("latin1.yaml", b"workers: 2\nname: f\xfcr\n"), ":2:8: not UTF-8"),
        (write("long.yaml", &vec![b'#'; (4 << 20) + 1]), ": is longer than 4 MiB"),
    ];
    for (path, expected) in cases {
        let error = Config::load(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("{}{expected}", path.display()));
    }
    let good = write("podpin.yaml", with_the_rest("accessLog: {path: a.json}").as_bytes());
    let logged = podpin_config::AccessLog::File(directory.join("a.json"));
    assert_eq!(Config::load(&good).unwrap(), Config { access_log: logged, ..parse(&with_the_rest("")) });
    fs::remove_dir_all(&directory).unwrap();
}
