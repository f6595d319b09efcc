//! The YAML files under `deploy/` and the YAML blocks of the documentation, split into documents.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A YAML document and its place.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// File, and which document of it.
    pub(crate) place: String,
    pub(crate) value: Value,
}

impl Document {
    /// A text of the document by its keys; empty when it is not there.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

pub(crate) fn repository() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap()
}

/// Every file under `deploy/`, sorted.
pub(crate) fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&repository().join("deploy"), &mut found);
    found.sort();
    found
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, found) } else { found.push(path) }
    }
}

/// The documents of a file.
pub(crate) fn read(file: &Path) -> Vec<Document> {
    split(&fs::read_to_string(file).unwrap(), &name(file))
}

/// A file's name as the repository has it.
pub(crate) fn name(file: &Path) -> String {
    file.strip_prefix(repository()).unwrap_or(file).display().to_string()
}

/// The documents of a text; YAML 1.1 words such as `off` are what Kubernetes takes them for.
pub(crate) fn split(text: &str, place: &str) -> Vec<Document> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{place}: {error}"));
    let documents = values.into_iter().enumerate();
    documents.map(|(index, value)| Document { place: format!("{place}#{index}"), value }).collect()
}

/// The fenced blocks of a Markdown file that say they are YAML, those within lists too, and where each begins.
pub(crate) fn yaml_blocks(file: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(file).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(indent) = line.find("```yaml") else { continue };
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
        let block: String =
            inside.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
        blocks.push((format!("{}:{}", name(file), number + 1), block));
    }
    blocks
}
