//! A mapping of the contract: its known keys, each read with its default.
//!
//! Absent and null are the same: the default. A section that is absent, or that is not a mapping (which has been
//! reported), is empty: every key of it reads as its default.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use crate::{
    node::{Keys, Node},
    schema, suggest,
    unit::DurationRange,
};

/// The known, supported keys of one mapping.
#[derive(Clone, Debug)]
pub(crate) struct Section<'a> {
    node: Node<'a>,
    entries: Vec<(&'a str, Node<'a>)>,
    /// Nothing is written in it.
    blank: bool,
}

impl<'a> Section<'a> {
    /// Reads the keys of `node`; reports unknown ones. `None` if it is not a mapping.
    pub(crate) fn of(node: &Node<'a>) -> Option<Self> {
        let mut entries = node.entries("a mapping", Keys::Words)?;
        let blank = entries.is_empty();
        entries.retain(|(key, value)| verdict(node, key, value) == Verdict::Read);
        Some(Self { node: node.clone(), entries, blank })
    }

    /// The mapping itself.
    pub(crate) fn node(&self) -> &Node<'a> {
        &self.node
    }

    /// Whether no key of this mapping is written, not even an unknown one.
    pub(crate) fn is_blank(&self) -> bool {
        self.blank
    }

    /// The value of `key`, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.entries.iter().find(|(name, value)| *name == key && !value.is_null()).map(|(_, value)| value)
    }

    /// The value of `key`; reported when it is missing, with what is wanted (such as "an address").
    pub(crate) fn require(&self, key: &str, what: &str) -> Option<&Node<'a>> {
        match self.entries.iter().find(|(name, _)| *name == key) {
            Some((_, value)) if value.is_null() => {
                value.fail_expected(what, "");
                None
            }
            Some((_, value)) => Some(value),
            None => {
                self.node.fail_missing(key, format!("missing; expected {what}"));
                None
            }
        }
    }

    /// The section under `key`, empty when absent.
    pub(crate) fn section(&self, key: &str) -> Section<'a> {
        let child = self.get(key);
        let absent = || child.cloned().unwrap_or_else(|| self.node.absent(key));
        child.and_then(Section::of).unwrap_or_else(|| Section {
            node: absent(),
            entries: Vec::new(),
            blank: true,
        })
    }

    /// A duration, or `default`.
    pub(crate) fn duration(&self, key: &str, range: DurationRange, default: Duration) -> Duration {
        self.get(key).and_then(|node| node.duration(range)).unwrap_or(default)
    }

    /// A duration or `off`, or `default`.
    pub(crate) fn duration_or_off(
        &self,
        key: &str,
        range: DurationRange,
        default: Option<Duration>,
    ) -> Option<Duration> {
        self.get(key).and_then(|node| node.duration_or_off(range)).unwrap_or(default)
    }

    /// A size in bytes, or `default`.
    pub(crate) fn bytes(&self, key: &str, range: RangeInclusive<usize>, default: usize) -> usize {
        self.get(key).and_then(|node| node.bytes(range)).unwrap_or(default)
    }

    /// A whole number, or `default`.
    pub(crate) fn count<T: TryFrom<i64> + PartialOrd + Display>(
        &self,
        key: &str,
        range: RangeInclusive<T>,
        default: T,
    ) -> T {
        self.get(key).and_then(|node| node.count(range)).unwrap_or(default)
    }

    /// A number, whole or not, or `default`.
    pub(crate) fn ratio(&self, key: &str, range: RangeInclusive<f64>, default: f64) -> f64 {
        self.get(key).and_then(|node| node.ratio(range)).unwrap_or(default)
    }

    /// A whole number or `off`, or `default`.
    pub(crate) fn count_or_off(
        &self,
        key: &str,
        range: RangeInclusive<u32>,
        default: Option<u32>,
    ) -> Option<u32> {
        self.get(key).and_then(|node| node.count_or_off(range)).unwrap_or(default)
    }

    /// `true` or `false`, or `default`.
    pub(crate) fn boolean(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Node::boolean).unwrap_or(default)
    }

    /// Reads a list of statuses of failure, or returns `default`.
    pub(crate) fn statuses(&self, key: &str, default: Vec<u16>) -> Vec<u16> {
        let Some(items) = self.get(key).and_then(|node| node.items("a list of statuses")) else {
            return default;
        };
        let mut statuses = Vec::with_capacity(items.len());
        for item in &items {
            match item.count(500..=599_u16) {
                Some(status) if statuses.contains(&status) => item.fail(format!("duplicate status {status}")),
                status => statuses.extend(status),
            }
        }
        statuses
    }

    /// Reads a word out of `choices`, or returns `default`.
    pub(crate) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)], default: T) -> T {
        self.get(key).and_then(|node| node.choice(choices)).unwrap_or(default)
    }
}

impl<'a> Node<'a> {
    /// Reads a section, or `Some(None)` for `off`. `None` if it is neither, which has been reported; `what` was expected.
    pub(crate) fn section_or_off(&self, what: &str) -> Option<Option<Section<'a>>> {
        if self.is_off() {
            return Some(None);
        }
        if !self.is_mapping() {
            self.fail_expected(what, " or `off`");
            return None;
        }
        Section::of(self).map(Some)
    }
}

/// The decision about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Read,
    /// Reported.
    Ignore,
}

fn verdict(parent: &Node<'_>, key: &str, value: &Node<'_>) -> Verdict {
    if !schema::is_known(parent.shape(), key) {
        value.fail_at_key(unknown_key(parent.shape(), key));
        return Verdict::Ignore;
    }
    Verdict::Read
}

fn unknown_key(shape: &str, key: &str) -> String {
    if let Some(meant) = suggest::nearest(key, schema::keys(shape)) {
        return format!("unknown key; did you mean `{meant}`?");
    }
    match suggest::list(schema::keys(shape), "and") {
        known if known.is_empty() => "unknown key".to_owned(),
        known => format!("unknown key; known here: {known}"),
    }
}
