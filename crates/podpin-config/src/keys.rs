//! The keys that sign affinity tokens: the first signs, all verify. The files themselves are read by the keyring.

use std::path::PathBuf;

use crate::{
    name,
    node::{Node, Position},
    section::Section,
};

/// Where the keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityKeys {
    /// Not configured: `podpin run` refuses to start.
    Absent,
    /// Written out as the word `ephemeral`: a random key for the life of the process; pins do not survive a restart.
    Ephemeral,
    /// At least one file; ids are unique.
    Files(Vec<KeyFile>),
}

/// A key and the file that holds its material.
#[derive(Clone, Debug, Eq)]
pub struct KeyFile {
    /// Travels in every token: 1 to 16 characters of `[A-Za-z0-9_-]`.
    pub id: String,
    /// Holds at least 32 bytes of key material. Absolute, or joined to the configuration file's directory.
    pub file: PathBuf,
    /// Where the configuration names the file.
    pub at: Position,
}

impl PartialEq for KeyFile {
    /// Wherever it is written.
    fn eq(&self, other: &Self) -> bool {
        let Self { id, file, at: _ } = self;
        (id, file) == (&other.id, &other.file)
    }
}

impl AffinityKeys {
    pub(crate) fn read(node: Option<&Node<'_>>) -> Self {
        let Some(node) = node else {
            return Self::Absent;
        };
        if node.as_text() == Some("ephemeral") {
            return Self::Ephemeral;
        }
        let items = node.items("a list of {id, file} or the word `ephemeral`").unwrap_or_default();
        if items.is_empty() && node.is_sequence() {
            node.fail(
                "at least one key is needed; `podpin keygen` prints one, or write the word `ephemeral`",
            );
        }
        let mut ids = name::Unique::new("key id");
        Self::Files(items.iter().filter_map(|item| read_key(item, &mut ids)).collect())
    }
}

fn read_key(item: &Node<'_>, ids: &mut name::Unique) -> Option<KeyFile> {
    let section = Section::of(item)?;
    let id = section.require("id", name::KEY_ID.what).and_then(|node| {
        let id = node.name(&name::KEY_ID)?;
        ids.insert(node, &id).then_some(id)
    });
    let node = section.require("file", "the path of a file");
    let file = node.and_then(Node::file_path);
    Some(KeyFile { id: id?, file: file?, at: node?.position() })
}
