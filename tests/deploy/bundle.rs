//! A kustomization put together: what `kubectl apply -k` would send.
//!
//! Only what `deploy/` uses of kustomize is known, anything else is refused: files and directories as resources,
//! patches of mappings, one namespace for all.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::documents::{self, Document};
use crate::kinds;

/// `kustomization.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Kustomization {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) resources: Vec<String>,
    #[serde(default)]
    pub(crate) patches: Vec<Patch>,
    #[serde(default)]
    pub(crate) images: Vec<Image>,
}

/// A partial object; which one, it says itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Patch {
    pub(crate) path: String,
}

/// Another name for an image.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) new_name: Option<String>,
    pub(crate) new_tag: Option<String>,
}

/// All objects of one kustomization.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) name: String,
    pub(crate) objects: Vec<Document>,
    /// The files that it is made of, `kustomization.yaml` included.
    pub(crate) files: Vec<PathBuf>,
}

/// Every kustomization under `deploy/`.
pub(crate) fn all() -> Vec<Bundle> {
    let files = documents::files();
    let roots = files.iter().filter(|file| file.ends_with("kustomization.yaml"));
    roots.map(|file| Bundle::build(file.parent().unwrap())).collect()
}

/// The kustomization of a directory under `deploy/`.
pub(crate) fn of(directory: &str) -> Bundle {
    Bundle::build(&documents::repository().join("deploy").join(directory))
}

impl Bundle {
    fn build(directory: &Path) -> Bundle {
        let file = directory.join("kustomization.yaml");
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let what: Kustomization =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut bundle =
            Bundle { name: documents::name(directory), objects: Vec::new(), files: vec![file.clone()] };
        for resource in &what.resources {
            bundle.add(&existing(directory, resource));
        }
        for patch in &what.patches {
            bundle.patch(&existing(directory, &patch.path));
        }
        if let Some(namespace) = &what.namespace {
            bundle.set_namespace(namespace);
        }
        bundle
    }

    fn add(&mut self, path: &Path) {
        if path.is_dir() {
            let other = Bundle::build(path);
            self.objects.extend(other.objects);
            self.files.extend(other.files);
        } else {
            self.objects.extend(documents::read(path));
            self.files.push(path.to_owned());
        }
    }

    fn patch(&mut self, path: &Path) {
        for patch in documents::read(path) {
            let identity = |document: &Document| {
                ["/apiVersion", "/kind", "/metadata/name"].map(|key| document.text(key).to_owned())
            };
            let target = self.objects.iter_mut().find(|object| identity(object) == identity(&patch));
            let target = target.unwrap_or_else(|| panic!("{}: nothing to patch", patch.place));
            merge(&mut target.value, &patch.value);
        }
        self.files.push(path.to_owned());
    }

    fn set_namespace(&mut self, namespace: &str) {
        for object in &mut self.objects {
            object.value["metadata"]["namespace"] = namespace.into();
        }
    }

    /// The objects of one type.
    pub(crate) fn of<K: Resource + DeserializeOwned>(&self) -> Vec<K> {
        let objects = self.objects.iter().filter(|object| kinds::is::<K>(object));
        objects.map(|object| serde_json::from_value(object.value.clone()).unwrap()).collect()
    }

    /// Whether there is an object of this type and name.
    pub(crate) fn has<K: Resource>(&self, name: &str) -> bool {
        self.objects.iter().any(|object| kinds::is::<K>(object) && object.text("/metadata/name") == name)
    }
}

fn existing(directory: &Path, name: &str) -> PathBuf {
    fs::canonicalize(directory.join(name))
        .unwrap_or_else(|error| panic!("{}: {name}: {error}", directory.display()))
}

/// RFC 7386. A list would be merged by keys in a cluster and replaced here: there must be none.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (_, Value::Array(_)) => panic!("this test does not know how kustomize merges lists"),
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}
