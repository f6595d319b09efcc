//! A kustomization put together: what `kubectl apply -k` would send.
//!
//! Only what `deploy/` uses of kustomize is known, anything else is refused: files and directories as resources, components,
//! patches of mappings, JSON patches, deletions, one namespace for all. A component is put together with the base, which it adds to.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::chart;
use crate::documents::{self, Document};
use crate::kinds;

/// `kustomization.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Kustomization {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    #[serde(default)]
    pub(crate) resources: Vec<String>,
    #[serde(default)]
    pub(crate) components: Vec<String>,
    #[serde(default)]
    pub(crate) patches: Vec<Patch>,
    #[serde(default)]
    pub(crate) images: Vec<Image>,
}

/// A partial object in a file, which says itself which one it is; or a text with operations on one object, or its deletion.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Patch {
    pub(crate) path: Option<String>,
    pub(crate) target: Option<Target>,
    pub(crate) patch: Option<String>,
    #[serde(default)]
    pub(crate) options: PatchOptions,
}

/// The object that a patch is for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// Permissions of a patch.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PatchOptions {
    #[serde(default)]
    pub(crate) allow_kind_change: bool,
}

/// An operation of RFC 6902.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: String,
    path: String,
    #[serde(default)]
    value: Value,
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

/// Every kustomization under `deploy/`, and the chart with ordinary values.
pub(crate) fn all() -> Vec<Bundle> {
    kustomizations().into_iter().chain(chart::bundles()).collect()
}

/// Every kustomization under `deploy/`.
pub(crate) fn kustomizations() -> Vec<Bundle> {
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
        let mut bundle = Bundle { name: documents::name(directory), objects: Vec::new(), files: Vec::new() };
        if read(directory).kind == "Component" {
            bundle.add(&documents::repository().join("deploy/base"));
        }
        bundle.include(directory);
        bundle
    }

    /// The objects of a chart, as it was rendered.
    pub(crate) fn rendered(name: &str, text: &str) -> Bundle {
        Bundle { name: name.to_owned(), objects: documents::split(text, name), files: Vec::new() }
    }

    /// Adds the resources of a directory, and changes what is there as it says.
    fn include(&mut self, directory: &Path) {
        let what = read(directory);
        self.files.push(directory.join("kustomization.yaml"));
        for resource in &what.resources {
            self.add(&existing(directory, resource));
        }
        for component in &what.components {
            self.include(&existing(directory, component));
        }
        for patch in &what.patches {
            match (&patch.path, &patch.target, &patch.patch) {
                (Some(path), None, None) => self.patch(&existing(directory, path)),
                (None, Some(target), Some(text)) => self.change(target, text, &patch.options),
                _ => panic!("{}: a patch of a kind that is not known here", directory.display()),
            }
        }
        if let Some(namespace) = &what.namespace {
            self.set_namespace(namespace);
        }
    }

    /// Deletes an object, or applies operations to it.
    fn change(&mut self, target: &Target, text: &str, options: &PatchOptions) {
        let is_target = |object: &Document| {
            object.text("/kind") == target.kind && object.text("/metadata/name") == target.name
        };
        let at = self.objects.iter().position(is_target);
        let at = at.unwrap_or_else(|| panic!("{}: no {} {}", self.name, target.kind, target.name));
        let value: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        if value.is_object() {
            assert_eq!(value["$patch"], "delete", "{text}");
            assert_eq!(value["metadata"]["name"].as_str(), Some(target.name.as_str()), "{text}");
            self.objects.remove(at);
            return;
        }
        let operations: Vec<Operation> = serde_json::from_value(value).unwrap();
        for operation in &operations {
            assert!(operation.path != "/kind" || options.allow_kind_change, "{text}");
            operation.apply(&mut self.objects[at].value);
        }
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

fn read(directory: &Path) -> Kustomization {
    let file = directory.join("kustomization.yaml");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

impl Operation {
    fn apply(&self, object: &mut Value) {
        let (parent, key) = self.path.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
        let key = key.replace("~1", "/").replace("~0", "~");
        match (self.op.as_str(), parent) {
            ("add", Value::Array(list)) if key == "-" => list.push(self.value.clone()),
            ("add", Value::Array(list)) => list.insert(key.parse().unwrap(), self.value.clone()),
            ("add", Value::Object(map)) => drop(map.insert(key, self.value.clone())),
            ("replace", Value::Object(map)) => {
                assert!(map.insert(key, self.value.clone()).is_some(), "{}", self.path);
            }
            ("remove", Value::Object(map)) => {
                assert!(map.remove(&key).is_some(), "{}", self.path);
            }
            (op, _) => panic!("{op} {}: not known here", self.path),
        }
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
