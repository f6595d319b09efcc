//! Where the access log goes.

use std::path::PathBuf;

use crate::node::Node;

/// The destination of the access log: one JSON line a request or stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// `accessLog: off`.
    Off,
    /// `accessLog: {path: "-"}`, the default.
    #[default]
    Stdout,
    /// Appended to this file. Absolute, or joined to the configuration file's directory.
    File(PathBuf),
}

impl AccessLog {
    pub(crate) fn read(node: Option<&Node<'_>>) -> Self {
        let Some(node) = node else {
            return Self::default();
        };
        let section = match node.section_or_off("{path: ..}") {
            Some(Some(section)) => section,
            Some(None) => return Self::Off,
            None => return Self::default(),
        };
        match section.get("path") {
            Some(path) if path.as_text() == Some("-") => Self::Stdout,
            Some(path) if path.is_off() => {
                path.fail("cannot be `off`; write `accessLog: off`");
                Self::default()
            }
            Some(path) => path.file_path().map_or_else(Self::default, Self::File),
            None => Self::default(),
        }
    }
}
