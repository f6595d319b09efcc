//! What a real API server said: recordings of lists and watches, JSON lines, to be replayed.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Step {
    /// These objects are there.
    List(Vec<Value>),
    /// An object was created or changed.
    Put(Value),
    /// An object was deleted.
    Delete {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A bookmark.
    Bookmark,
    /// The watch had expired.
    Expired,
}

/// A recording of the EndpointSlices of one namespace.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What happened, in order.
    pub steps: Vec<Step>,
}

impl Recording {
    /// Reads a recording; one that is named `.gz` is unpacked.
    ///
    /// # Panics
    /// When it is not there, or a line is none of a recording.
    pub fn read(path: &Path) -> Recording {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut text = String::new();
        let read = if path.extension().is_some_and(|extension| extension == "gz") {
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text)
        } else {
            bytes.as_slice().read_to_string(&mut text)
        };
        read.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Recording { steps: text.lines().filter_map(step).collect() }
    }
}

/// Lines about the recording itself (META, MARK, END) are no steps.
fn step(line: &str) -> Option<Step> {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
    let at = |path: &str| line.pointer(path).and_then(Value::as_str).unwrap_or_default();
    match (at("/kind"), at("/event/type")) {
        ("LIST", _) => line.pointer("/object/items").and_then(Value::as_array).cloned().map(Step::List),
        ("EVENT", "ADDED" | "MODIFIED") => line.pointer("/event/object").cloned().map(Step::Put),
        ("EVENT", "DELETED") => Some(Step::Delete {
            namespace: at("/event/object/metadata/namespace").to_owned(),
            name: at("/event/object/metadata/name").to_owned(),
        }),
        ("EVENT", "BOOKMARK") => Some(Step::Bookmark),
        ("EVENT", "ERROR") => Some(Step::Expired),
        ("META" | "MARK" | "END", _) => None,
        other => panic!("an unknown line in a recording: {other:?}"),
    }
}
