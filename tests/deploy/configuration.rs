//! The podpin configurations inside the ConfigMaps, and what around them has to agree with them.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, HTTPGetAction, PodSpec, Secret, Service, Volume, VolumeMount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podpin_affinity::Key;
use podpin_config::{AffinityKeys, Config, Discovery, Port};

use crate::bundle::{self, Bundle};
use crate::documents;
use crate::workload::workloads;

/// The key of a ConfigMap that holds a configuration.
const FILE: &str = "podpin.yaml";

/// podpin as a kustomization deploys it.
struct Deployed {
    bundle: Bundle,
    config: Config,
    pod: PodSpec,
}

/// podpin in every kustomization: its configuration is the one that its pods mount.
fn deployed() -> Vec<Deployed> {
    bundle::all().into_iter().map(Deployed::of).collect()
}

impl Deployed {
    fn of(bundle: Bundle) -> Deployed {
        let podpin = workloads(&bundle).into_iter().find(|one| one.name == "podpin");
        let pod = podpin.and_then(|one| one.template.spec).expect("a workload called podpin");
        let mounted = volumes(&pod).find_map(|(volume, mount)| {
            Some((volume.config_map.as_ref()?.name.clone(), mount.mount_path.clone()))
        });
        let (name, directory) = mounted.expect("a mounted ConfigMap");
        let maps = bundle.of::<ConfigMap>();
        let map = maps.iter().find(|map| map.metadata.name.as_ref() == Some(&name));
        let text = &map.unwrap_or_else(|| panic!("{}: no ConfigMap {name}", bundle.name)).data;
        let text = text.as_ref().and_then(|data| data.get(FILE)).expect(FILE);
        let config = parse(text, &bundle.name, &directory);
        Deployed { bundle, config, pod }
    }

    fn container(&self) -> &Container {
        self.pod.containers.iter().find(|one| one.name == "podpin").expect("a container called podpin")
    }

    fn container_ports(&self) -> Vec<u16> {
        let ports = self.container().ports.iter().flatten();
        ports.map(|port| u16::try_from(port.container_port).unwrap()).collect()
    }

    /// The number of a port that is named, or numbered.
    fn port(&self, port: &IntOrString) -> Option<u16> {
        match port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(name) => {
                let ports = self.container().ports.iter().flatten();
                let named = ports.filter(|one| one.name.as_ref() == Some(name));
                named.map(|one| u16::try_from(one.container_port).unwrap()).next()
            }
        }
    }

    fn service(&self, name: &str) -> Service {
        let services = self.bundle.of::<Service>();
        let found = services.into_iter().find(|one| one.metadata.name.as_deref() == Some(name));
        found.unwrap_or_else(|| panic!("{}: no Service {name}", self.bundle.name))
    }

    /// Where a Service's ports lead.
    fn targets(&self, service: &str) -> Vec<u16> {
        let ports = self.service(service).spec.unwrap().ports.unwrap();
        ports.iter().map(|port| self.port(port.target_port.as_ref().unwrap()).unwrap()).collect()
    }
}

fn parse(text: &str, place: &str, directory: &str) -> Config {
    Config::parse(text, &format!("{place}/{FILE}"), Path::new(directory))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Each volume of a pod with each place where it is mounted.
fn volumes(pod: &PodSpec) -> impl Iterator<Item = (&Volume, &VolumeMount)> {
    let mounts = pod.containers.iter().flat_map(|container| container.volume_mounts.iter().flatten());
    mounts.filter_map(|mount| {
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name)?;
        Some((volume, mount))
    })
}

#[test]
fn every_configuration_in_a_config_map_is_accepted() {
    let mut read = 0;
    for file in documents::files() {
        for document in documents::read(&file) {
            if document.text("/kind") == "ConfigMap" && document.value["data"].get(FILE).is_some() {
                parse(document.text("/data/podpin.yaml"), &document.place, "/etc/podpin");
                read += 1;
            }
        }
    }
    assert!(read >= 2, "only {read}");
}

#[test]
fn the_program_is_told_to_read_the_file_that_is_mounted() {
    let dockerfile = std::fs::read_to_string(documents::repository().join("Dockerfile")).unwrap();
    let command = r#"CMD ["run", "--config", "/etc/podpin/podpin.yaml"]"#;
    assert!(dockerfile.contains(command), "the manifests rely on the image's {command}");
    for podpin in deployed() {
        let container = podpin.container();
        assert!(container.command.is_none() && container.args.is_none(), "{}", podpin.bundle.name);
        let mounted = volumes(&podpin.pod).any(|(_, mount)| mount.mount_path == "/etc/podpin");
        assert!(mounted, "{}", podpin.bundle.name);
    }
}

#[test]
fn every_affinity_key_is_a_file_of_the_secret_whose_example_is_no_key() {
    let file = documents::repository().join("deploy/base/affinity-keys.example.yaml");
    let example = documents::read(&file).remove(0);
    let example: Secret = serde_json::from_value(example.value).unwrap();
    let keys = example.string_data.unwrap();
    for (id, material) in &keys {
        assert!(Key::new(id, material.as_bytes()).is_err(), "{id}: a key that everybody knows");
    }
    for podpin in deployed() {
        let mut secrets = volumes(&podpin.pod).filter_map(|(volume, mount)| {
            Some((volume.secret.as_ref()?.secret_name.clone(), mount.mount_path.clone()))
        });
        let secret = secrets.find(|(name, _)| *name == example.metadata.name);
        let (name, directory) = secret.expect("the mounted Secret of the keys");
        assert!(!podpin.bundle.has::<Secret>(name.as_deref().unwrap()), "a committed Secret");
        let AffinityKeys::Files(files) = &podpin.config.affinity_keys else {
            panic!("{}: replicas would not agree", podpin.bundle.name)
        };
        for key in files {
            let inside = key.file.strip_prefix(&directory).expect("a key outside of the Secret");
            assert!(keys.contains_key(inside.to_str().unwrap()), "{}", key.file.display());
        }
    }
}

#[test]
fn podpin_has_left_before_its_grace_period_ends() {
    for podpin in deployed() {
        let grace = podpin.pod.termination_grace_period_seconds.expect("a grace period");
        let grace = Duration::from_secs(u64::try_from(grace).unwrap());
        let timeout = podpin.config.shutdown.timeout;
        assert!(grace > timeout, "{}: {grace:?} is not longer than {timeout:?}", podpin.bundle.name);
    }
}

#[test]
fn the_container_the_services_and_the_network_policy_open_what_podpin_listens_on() {
    for podpin in deployed() {
        let clients: Vec<u16> = podpin.config.listeners.iter().map(|one| one.address.port()).collect();
        let admin = podpin.config.admin.address;
        assert_eq!(podpin.container_ports(), [clients.as_slice(), &[admin.port()]].concat());
        let addresses = podpin.config.listeners.iter().map(|one| one.address).chain([admin]);
        for address in addresses {
            assert!(address.ip().is_unspecified(), "{address}: nobody could reach it");
        }
        assert_eq!(podpin.targets("podpin"), clients);
        assert_eq!(podpin.targets("podpin-admin"), [admin.port()]);
        let policies = podpin.bundle.of::<NetworkPolicy>();
        let rules = policies[0].spec.as_ref().unwrap().ingress.as_ref().unwrap();
        for (rule, (expected, open)) in rules.iter().zip([(clients, true), (vec![admin.port()], false)]) {
            assert_eq!(rule.from.is_none(), open, "ports {expected:?} from anywhere");
            let ports = rule.ports.as_ref().unwrap();
            let opened: Vec<u16> =
                ports.iter().filter_map(|one| podpin.port(one.port.as_ref().unwrap())).collect();
            assert_eq!(opened, expected);
        }
        assert_eq!(rules.len(), 2);
    }
}

#[test]
fn the_probes_ask_the_admin_port_what_it_answers() {
    for podpin in deployed() {
        let container = podpin.container();
        let probes = [
            (&container.startup_probe, "/livez"),
            (&container.liveness_probe, "/livez"),
            (&container.readiness_probe, "/readyz"),
        ];
        for (probe, path) in probes {
            let get = probe.as_ref().and_then(|probe| probe.http_get.as_ref()).expect("an HTTP probe");
            let HTTPGetAction { path: asked, port, .. } = get;
            assert_eq!(asked.as_deref(), Some(path));
            assert_eq!(podpin.port(port), Some(podpin.config.admin.address.port()), "{path}");
        }
    }
}

#[test]
fn scrapers_are_sent_to_the_admin_port() {
    for workload in bundle::all().iter().flat_map(workloads) {
        let metadata = workload.template.metadata.unwrap();
        if let Some(annotations) = metadata.annotations {
            assert_eq!(annotations["prometheus.io/port"], "9901");
            assert_eq!(annotations["prometheus.io/path"], "/metrics");
        }
    }
}

#[test]
fn the_example_is_routed_through_podpin_to_a_port_of_its_service() {
    let podpin = Deployed::of(bundle::of("example"));
    for backend in podpin.config.routes.iter().flat_map(|route| &route.backends) {
        let service = podpin.config.service(&backend.service).unwrap();
        let Discovery::Kubernetes(wanted) = &service.discovery else { panic!("not from Kubernetes") };
        assert_eq!(wanted.namespace, None, "the example lives beside podpin");
        let ports = podpin.service(&wanted.service).spec.unwrap().ports.unwrap();
        let Port::Name(name) = &wanted.port else { panic!("by number") };
        assert!(ports.iter().any(|port| port.name.as_ref() == Some(name)), "{name}");
    }
}

#[test]
fn every_service_that_is_followed_is_in_the_namespace_of_the_role() {
    for podpin in deployed() {
        for service in &podpin.config.services {
            let Discovery::Kubernetes(wanted) = &service.discovery else { panic!("not from Kubernetes") };
            assert_eq!(wanted.namespace, None, "the Role is for podpin's own namespace");
        }
    }
}
