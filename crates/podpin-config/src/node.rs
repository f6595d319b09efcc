//! A cursor over the YAML tree that knows its path and its place, and collects every problem instead of stopping at the
//! first.
//!
//! Readers report a problem and return `None`; their callers go on with a default. Nothing read that way escapes: a
//! single problem refuses the whole file. Text that is not YAML at all is the one thing that ends the reading early.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use saphyr::{LoadableYamlNode, MarkedYaml, Marker, Scalar, YamlData};

use crate::error::Problem;

/// Deepest nesting of block collections opened on one line (`- - - -`); a file of the contract needs two. The YAML
/// reader recurses without a bound of its own there, and a crash is no answer to a bad file.
const BLOCK_INDENT_MAX: usize = 256;

/// How much of a wrong value a message repeats, in characters.
const EXCERPT_CHARS_MAX: usize = 60;

/// State that all nodes of a file share.
#[derive(Debug)]
pub(crate) struct Context {
    /// The directory that relative paths are resolved against.
    pub(crate) base: PathBuf,
    problems: RefCell<Vec<Problem>>,
}

impl Context {
    pub(crate) fn new(base: &Path) -> Self {
        Self { base: base.to_owned(), problems: RefCell::default() }
    }

    /// Every problem, in the order of the file.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }
}

/// A place in the file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl From<Marker> for Position {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

/// Parses `text` as one YAML document.
///
/// # Errors
/// The one problem that kept the text from being read: syntax, a key twice in one mapping, several documents or none.
pub(crate) fn read_tree(text: &str) -> Result<MarkedYaml<'_>, Problem> {
    let problem = |at: Position, message: String| Problem {
        line: at.line,
        column: at.column,
        path: String::new(),
        message,
    };
    if let Some(at) = too_deep(text) {
        return Err(problem(at, "nested too deep".to_owned()));
    }
    let documents = MarkedYaml::load_from_str(text).map_err(|error| {
        let at = Position::from(*error.marker());
        problem(at, syntax_message(text, at, error.info()))
    })?;
    let mut documents = documents.into_iter();
    let first = documents.next();
    if let Some(second) = documents.next() {
        let at = Position::from(second.span.start);
        return Err(problem(at, "a second YAML document; the configuration is one document".to_owned()));
    }
    first.filter(|root| !matches!(root.data, YamlData::BadValue | YamlData::Value(Scalar::Null))).ok_or_else(
        || {
            let message = "the file is empty; it needs at least `listeners`, `routes` and `services`";
            problem(Position { line: 1, column: 1 }, message.to_owned())
        },
    )
}

/// Where block collections are nested beyond all reason on one line.
fn too_deep(text: &str) -> Option<Position> {
    let opens_block = |b: &u8| matches!(b, b' ' | b'\t' | b'-' | b'?' | b':');
    let indent = |line: &str| line.bytes().take_while(|b| opens_block(b)).count();
    let line = text.split(['\n', '\r']).position(|line| indent(line) > BLOCK_INDENT_MAX)?;
    Some(Position { line: line + 1, column: BLOCK_INDENT_MAX + 1 })
}

/// The reader's words, made to fit ours.
fn syntax_message(text: &str, at: Position, info: &str) -> String {
    if info != "duplicated key in mapping" {
        return format!("not valid YAML: {info}");
    }
    let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
    let key: String = line.chars().skip(at.column.saturating_sub(1)).take_while(|c| *c != ':').collect();
    format!("the key `{}` is written twice in one mapping", excerpt(key.trim_matches(['"', '\'', ' '])))
}

/// The beginning of `text` without control characters.
fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        short.push_str("...");
    }
    short
}

/// A value of the file, with its path and position.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    yaml: &'a MarkedYaml<'a>,
    context: &'a Context,
    /// Where its key stands, for values of a mapping.
    key_position: Option<Position>,
    /// As shown to the operator: `services.chat.sse`, `routes[0]`.
    path: String,
    /// The path with names and indices left out, as `schema` knows it: `services.*.sse`, `routes[]`.
    shape: String,
}

impl<'a> Node<'a> {
    pub(crate) fn root(yaml: &'a MarkedYaml<'a>, context: &'a Context) -> Self {
        Self { yaml, context, key_position: None, path: String::new(), shape: String::new() }
    }

    pub(crate) fn context(&self) -> &'a Context {
        self.context
    }

    pub(crate) fn shape(&self) -> &str {
        &self.shape
    }

    /// Where the value stands.
    pub(crate) fn position(&self) -> Position {
        Position::from(self.yaml.span.start)
    }

    /// Where the value's key stands; the value's own place in a list.
    fn key_position(&self) -> Position {
        self.key_position.unwrap_or_else(|| self.position())
    }

    /// Reports a problem with the value.
    pub(crate) fn fail(&self, message: impl Into<String>) {
        self.report(self.position(), self.path.clone(), message.into());
    }

    /// Reports a problem with the key.
    pub(crate) fn fail_at_key(&self, message: impl Into<String>) {
        self.report(self.key_position(), self.path.clone(), message.into());
    }

    /// Reports that the mapping lacks `key`.
    pub(crate) fn fail_missing(&self, key: &str, message: impl Into<String>) {
        self.report(self.position(), join(&self.path, key), message.into());
    }

    /// Reports that something else was expected here. `or` is what would do besides, such as " or `off`".
    pub(crate) fn fail_expected(&self, what: &str, or: &str) {
        if self.is_off() && or.is_empty() {
            self.fail(format!("cannot be `off`; expected {what}"));
        } else {
            self.fail(format!("expected {what}{or}, found {}", self.found()));
        }
    }

    fn report(&self, at: Position, path: String, message: String) {
        self.context.problems.borrow_mut().push(Problem { line: at.line, column: at.column, path, message });
    }

    /// Returns the scalar; `None` if the node is a list or mapping.
    pub(crate) fn scalar(&self) -> Option<&'a Scalar<'a>> {
        match &self.yaml.data {
            YamlData::Value(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The text here, without a complaint when it is something else.
    pub(crate) fn as_text(&self) -> Option<&'a str> {
        self.scalar().and_then(Scalar::as_str)
    }

    pub(crate) fn is_null(&self) -> bool {
        self.scalar().is_some_and(Scalar::is_null)
    }

    /// `off`, `"off"` and `false` are one word.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self.scalar(), Some(Scalar::Boolean(false))) || self.as_text() == Some("off")
    }

    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self.yaml.data, YamlData::Mapping(_))
    }

    pub(crate) fn is_sequence(&self) -> bool {
        matches!(self.yaml.data, YamlData::Sequence(_))
    }

    /// Describes the node for "expected .., found ..".
    pub(crate) fn found(&self) -> String {
        match &self.yaml.data {
            YamlData::Value(Scalar::Null) => "nothing".to_owned(),
            YamlData::Value(Scalar::Boolean(value)) => format!("`{value}`"),
            YamlData::Value(Scalar::Integer(value)) => format!("the number {value}"),
            YamlData::Value(Scalar::FloatingPoint(value)) => format!("the number {value}"),
            YamlData::Value(Scalar::String(value)) => format!("\"{}\"", excerpt(value)),
            YamlData::Sequence(_) => "a list".to_owned(),
            YamlData::Mapping(_) => "a mapping".to_owned(),
            YamlData::Tagged(..) => "a tagged value".to_owned(),
            YamlData::Alias(_) | YamlData::BadValue | YamlData::Representation(..) => {
                "a value that does not fit its tag".to_owned()
            }
        }
    }

    /// The items of a list. `what` is wanted, as in "expected a list of routes".
    pub(crate) fn items(&self, what: &str) -> Option<Vec<Node<'a>>> {
        let YamlData::Sequence(items) = &self.yaml.data else {
            self.fail_expected(what, "");
            return None;
        };
        let shape = format!("{}[]", self.shape);
        let item = |(index, yaml)| Node {
            yaml,
            context: self.context,
            key_position: None,
            path: format!("{}[{index}]", self.path),
            shape: shape.clone(),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The values of a mapping with their keys. Keys that are not text are reported.
    pub(crate) fn entries(&self, what: &str, keys: Keys) -> Option<Vec<(&'a str, Node<'a>)>> {
        let YamlData::Mapping(mapping) = &self.yaml.data else {
            self.fail_expected(what, "");
            return None;
        };
        let entry = |(key, value): (&'a MarkedYaml<'a>, &'a MarkedYaml<'a>)| {
            let key_node = Node { yaml: key, ..self.clone() };
            let Some(name) = key_node.as_text() else {
                key_node.fail_expected("a key in quotes", "");
                return None;
            };
            let child = Node {
                yaml: value,
                context: self.context,
                key_position: Some(key_node.position()),
                path: join(&self.path, &excerpt(name)),
                shape: join(&self.shape, if keys == Keys::Names { "*" } else { name }),
            };
            Some((name, child))
        };
        Some(mapping.iter().filter_map(entry).collect())
    }

    /// Returns the value of `key` in a mapping, without a look at the other keys. `None` if absent or null.
    pub(crate) fn child(&self, key: &str) -> Option<Node<'a>> {
        let yaml = self.yaml.data.as_mapping_get(key)?;
        Some(Node { yaml, key_position: None, ..self.absent(key) }).filter(|child| !child.is_null())
    }

    /// A node for a key that is not written: it stands where its mapping stands.
    pub(crate) fn absent(&self, key: &str) -> Node<'a> {
        Node {
            key_position: None,
            path: join(&self.path, key),
            shape: join(&self.shape, key),
            ..self.clone()
        }
    }
}

/// Whether the keys of a mapping are words of the contract or names that the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    Words,
    Names,
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
