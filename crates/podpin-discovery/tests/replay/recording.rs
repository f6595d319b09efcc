//! The recordings in `tests/fixtures`: JSON lines, verbatim objects of a kube-apiserver 1.36.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use serde_json::Value;

/// A recording.
pub(crate) struct Recording {
    /// The file name up to the first dot.
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// A message of the API server.
pub(crate) enum Step {
    /// These are all objects.
    List(Vec<Value>),
    /// ADDED or MODIFIED.
    Put(Value),
    /// DELETED, by name.
    Delete(String),
}

/// All recordings of EndpointSlices.
pub(crate) fn all() -> &'static [Recording] {
    static ALL: OnceLock<Vec<Recording>> = OnceLock::new();
    ALL.get_or_init(read_all)
}

fn read_all() -> Vec<Recording> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let recordings: Vec<Recording> = paths.iter().filter_map(|path| read(path)).collect();
    assert_eq!(recordings.len(), 16, "{paths:?}");
    recordings
}

/// `None` if it is about pods.
fn read(path: &Path) -> Option<Recording> {
    let mut text = String::new();
    let bytes = fs::read(path).unwrap();
    if path.extension().is_some_and(|extension| extension == "gz") {
        GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    if lines.iter().any(|line| line["kind"] == "META" && line["resource"] != "endpointslices") {
        return None;
    }
    let name = path.file_name()?.to_str()?.split('.').next()?.to_owned();
    Some(Recording { name, steps: lines.iter().filter_map(step).collect() })
}

fn step(line: &Value) -> Option<Step> {
    match line["kind"].as_str().unwrap() {
        "LIST" => Some(Step::List(line["object"]["items"].as_array().cloned().unwrap_or_default())),
        "EVENT" => {
            let object = line["event"]["object"].clone();
            match line["event"]["type"].as_str().unwrap() {
                "ADDED" | "MODIFIED" => Some(Step::Put(object)),
                "DELETED" => Some(Step::Delete(object["metadata"]["name"].as_str().unwrap().to_owned())),
                _ => None,
            }
        }
        _ => None,
    }
}
