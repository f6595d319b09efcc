//! Recordings of lists and watches of a real API server, JSON lines, to be replayed.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// A step of a recording.
#[derive(Clone, Debug)]
pub enum Step {
    /// These objects are there.
    List(Vec<Value>),
    /// An object was created or changed.
    Put(Value),
    /// An object was deleted.
    Delete {
        /// The object's kind, if it says one: EndpointSlices and Pods do.
        kind: String,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// A bookmark.
    Bookmark,
    /// The watch had expired.
    Expired,
}

/// A recording of the EndpointSlices, or the Pods, of one namespace.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// When each of them did, in milliseconds since 1970.
    times: Vec<f64>,
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
        let lines = text.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"))
        });
        let lines: Vec<Value> = lines.collect();
        let epoch = lines.iter().find_map(|line| line.get("epoch")?.as_f64()).unwrap_or_default();
        let time =
            |line: &Value| line.get("t_ms").and_then(Value::as_f64).unwrap_or_default() + epoch * 1_000.0;
        let (times, steps) = lines.iter().filter_map(|line| Some((time(line), step(line)?))).unzip();
        Recording { steps, times }
    }

    /// With what was recorded beside it, in the order in which it happened.
    pub fn beside(self, other: Recording) -> Recording {
        let all = |one: Recording| one.times.into_iter().zip(one.steps);
        let mut merged: Vec<(f64, Step)> = all(self).chain(all(other)).collect();
        merged.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let (times, steps) = merged.into_iter().unzip();
        Recording { steps, times }
    }
}

/// Lines about the recording itself (META, MARK, END) are no steps.
fn step(line: &Value) -> Option<Step> {
    let at = |path: &str| line.pointer(path).and_then(Value::as_str).unwrap_or_default();
    match (at("/kind"), at("/event/type")) {
        ("LIST", _) => {
            // The items of a list name no kind; the list does.
            let kind = at("/object/kind").trim_end_matches("List").to_owned();
            let mut items = line.pointer("/object/items").and_then(Value::as_array).cloned()?;
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.insert("kind".to_owned(), Value::from(kind.clone()));
            }
            Some(Step::List(items))
        }
        ("EVENT", "ADDED" | "MODIFIED") => line.pointer("/event/object").cloned().map(Step::Put),
        ("EVENT", "DELETED") => Some(Step::Delete {
            kind: at("/event/object/kind").to_owned(),
            namespace: at("/event/object/metadata/namespace").to_owned(),
            name: at("/event/object/metadata/name").to_owned(),
        }),
        ("EVENT", "BOOKMARK") => Some(Step::Bookmark),
        ("EVENT", "ERROR") => Some(Step::Expired),
        ("META" | "MARK" | "END", _) => None,
        other => panic!("an unknown line in a recording: {other:?}"),
    }
}
