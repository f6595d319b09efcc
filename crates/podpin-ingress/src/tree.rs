//! YAML that is written: a tree whose entries may name where they come from.
//!
//! Texts are quoted unless they are plain beyond doubt, in YAML 1.1 and 1.2. Small parts stand on one line.

/// Longest part that is written on one line, in characters.
const FLOW_CHARS_MAX: usize = 96;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// A number, a duration or another word that is written as it is.
    Word(String),
    /// A text, quoted where needed.
    Text(String),
    /// Items in order.
    List(Vec<Tree>),
    /// Entries in order.
    Map(Map),
}

/// Entries with different keys, in the order in which they were set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    value: Tree,
    /// A comment behind a scalar.
    from: Option<String>,
}

impl Tree {
    pub(crate) fn word(text: impl ToString) -> Self {
        Self::Word(text.to_string())
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    /// Returns the tree on one line, without its comments.
    pub(crate) fn flow(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Text(text) => quoted(text),
            Self::List(items) => {
                format!("[{}]", items.iter().map(Self::flow).collect::<Vec<_>>().join(", "))
            }
            Self::Map(map) => map.flow(),
        }
    }

    fn has_comments(&self) -> bool {
        match self {
            Self::Word(_) | Self::Text(_) => false,
            Self::List(items) => items.iter().any(Self::has_comments),
            Self::Map(map) => {
                map.entries.iter().any(|entry| entry.from.is_some() || entry.value.has_comments())
            }
        }
    }

    /// Returns the tree on one line if it is short and has no comments.
    fn short(&self) -> Option<String> {
        let is_scalar = matches!(self, Self::Word(_) | Self::Text(_));
        if !is_scalar && self.has_comments() {
            return None;
        }
        Some(self.flow()).filter(|flow| is_scalar || flow.chars().count() <= FLOW_CHARS_MAX)
    }
}

impl Map {
    /// Builds a map of these entries.
    pub(crate) fn of<const N: usize>(entries: [(&str, Tree); N]) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.set(&[key], value);
        }
        map
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts `value` at `path`, over what stands there.
    pub(crate) fn set(&mut self, path: &[&str], value: Tree) {
        self.put(path, value, None);
    }

    /// As [`Self::set`], with a comment that names where the value comes from.
    pub(crate) fn set_from(&mut self, path: &[&str], value: Tree, from: &str) {
        self.put(path, value, Some(from.to_owned()));
    }

    fn put(&mut self, path: &[&str], value: Tree, from: Option<String>) {
        let Some((key, rest)) = path.split_first() else { return };
        let at = match self.entries.iter().position(|entry| entry.key == *key) {
            Some(at) => at,
            None => {
                let value = Tree::Map(Self::default());
                self.entries.push(Entry { key: (*key).to_owned(), value, from: None });
                self.entries.len() - 1
            }
        };
        let Some(entry) = self.entries.get_mut(at) else { return };
        match (&mut entry.value, rest.is_empty()) {
            (_, true) => {
                entry.value = value;
                entry.from = from;
            }
            (Tree::Map(map), false) => map.put(rest, value, from),
            (other, false) => {
                let mut map = Self::default();
                map.put(rest, value, from);
                *other = Tree::Map(map);
                entry.from = None;
            }
        }
    }

    /// Returns the value at `path`; `None` if there is none.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&Tree> {
        let (key, rest) = path.split_first()?;
        let entry = self.entries.iter().find(|entry| entry.key == *key)?;
        match (&entry.value, rest.is_empty()) {
            (value, true) => Some(value),
            (Tree::Map(map), false) => map.get(rest),
            _ => None,
        }
    }

    /// Merges `other` into the map: maps are merged, lists joined, other values replaced.
    pub(crate) fn merge(&mut self, other: &Map) {
        for entry in &other.entries {
            let own = self.entries.iter_mut().find(|own| own.key == entry.key);
            match (own.map(|own| &mut own.value), &entry.value) {
                (Some(Tree::Map(own)), Tree::Map(map)) => own.merge(map),
                (Some(Tree::List(own)), Tree::List(list)) => {
                    own.extend(list.iter().filter(|item| !own.contains(item)).cloned().collect::<Vec<_>>());
                }
                _ => self.put(&[&entry.key], entry.value.clone(), entry.from.clone()),
            }
        }
    }

    /// Returns the map on one line, without its comments: equal maps have equal lines.
    pub(crate) fn flow(&self) -> String {
        let entries: Vec<String> = self
            .entries
            .iter()
            .map(|entry| format!("{}: {}", quoted(&entry.key), entry.value.flow()))
            .collect();
        format!("{{{}}}", entries.join(", "))
    }

    /// Writes the entries as lines that begin with `indent` spaces.
    pub(crate) fn write(&self, indent: usize, out: &mut String) {
        for entry in &self.entries {
            out.push_str(&" ".repeat(indent));
            out.push_str(&quoted(&entry.key));
            out.push(':');
            write_value(&entry.value, indent + 2, out);
            if let Some(from) = &entry.from {
                let line_end = out.pop();
                out.push_str("   # ");
                out.push_str(&plain_line(from));
                out.extend(line_end);
            }
        }
    }
}

fn write_value(value: &Tree, indent: usize, out: &mut String) {
    if let Some(short) = value.short() {
        out.push(' ');
        out.push_str(&short);
        out.push('\n');
        return;
    }
    out.push('\n');
    match value {
        Tree::Map(map) => map.write(indent, out),
        Tree::List(items) => items.iter().for_each(|item| write_item(item, indent, out)),
        Tree::Word(_) | Tree::Text(_) => {}
    }
}

/// Writes an item of a block list.
pub(crate) fn write_item(item: &Tree, indent: usize, out: &mut String) {
    out.push_str(&" ".repeat(indent));
    out.push('-');
    match item {
        Tree::Map(map) if item.short().is_none() => {
            let mut lines = String::new();
            map.write(indent + 2, &mut lines);
            out.push(' ');
            out.push_str(lines.trim_start_matches(' '));
        }
        _ => write_value(item, indent + 2, out),
    }
}

/// Returns `text` as it may stand in a comment: on one line.
pub(crate) fn plain_line(text: &str) -> String {
    text.replace(|c: char| c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}'), " ")
}

/// Returns `text` as a YAML scalar that is this text for every reader.
pub(crate) fn quoted(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let ends = text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b" _./-".contains(&b));
    if begins && ends && plain && !WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut map = Map::of([("name", Tree::text("off")), ("path", Tree::text("/a b"))]);
        map.set_from(&["deep", "X-A.b"], Tree::text("it's: [1] \"q\" # \u{7f}é"), "somewhere");
        map.set(&["list"], Tree::List(vec![Tree::Map(map.clone()), Tree::word(5), Tree::List(Vec::new())]));
        let mut text = String::new();
        map.write(0, &mut text);
        let read = crate::document::values(&text).remove(0).unwrap();
        assert_eq!(read["name"], "off", "{text}");
        assert_eq!(read["deep"]["X-A.b"], "it's: [1] \"q\" # \u{7f}é");
        assert_eq!(read["list"][0]["deep"], read["deep"]);
        assert_eq!(read["list"][1], 5);
        assert!(text.contains("# somewhere"));
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one() {
        let mut map = Map::default();
        map.set(&["a"], Tree::word(1));
        map.set(&["a", "b"], Tree::word(2));
        map.set(&["a", "b"], Tree::word(3));
        assert_eq!(map.flow(), "{a: {b: 3}}");
        assert_eq!(map.get(&["a", "b"]), Some(&Tree::word(3)));
        assert_eq!(map.get(&["a", "b", "c"]), None);
    }
}
