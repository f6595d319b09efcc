//! The conditions for a route to answer a request: a path, and header fields as the Gateway API's
//! `HTTPHeaderMatch` has them.
//!
//! Values are compared as bytes, a field's lines joined to one value. Expressions are anchored to the whole value, as
//! Envoy does; the library's matching time is linear in the value's length, and the size of what it compiles is bounded.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

use crate::{name, node::Node, path::refuse_path, section::Section};

/// A path with header fields, all of which must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// In the order of their names, which are different.
    pub headers: Vec<HeaderMatch>,
}

/// A path that a route answers to, compared with the normalised path of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// This path only.
    Exact(String),
    /// The path and everything below it: `/`, or a path without a slash at its end.
    Prefix(String),
}

/// A header field that a request must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// In lower case.
    pub name: String,
    /// The condition on its value.
    pub value: ValueMatch,
}

/// The condition on a header field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// These bytes, of printable ASCII.
    Exact(String),
    /// An expression that has to match from the first to the last byte.
    Expression(Expression),
}

/// A regular expression; two of the same text are equal.
#[derive(Clone, Debug)]
pub struct Expression {
    text: String,
    whole: Regex,
}

/// As the Gateway API has it.
const HEADERS_MAX: usize = 16;

/// As the Gateway API has it.
const VALUE_BYTES_MAX: usize = 4096;

/// For what is compiled of one expression. Hundreds of words in alternation need a tenth; nested repetitions, which are
/// mistakes, exceed any bound.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;

impl RouteMatch {
    /// Every request.
    pub(super) fn anything() -> Self {
        Self { path: PathMatch::Prefix("/".to_owned()), headers: Vec::new() }
    }
}

impl ValueMatch {
    /// Whether this is the value.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Expression(expression) => expression.whole.is_match(value),
        }
    }
}

impl Expression {
    /// # Errors
    /// What is wrong with `text`, in one line.
    fn new(text: &str) -> Result<Self, String> {
        // Bytes, not characters: `\w` and `(?i)` are ASCII, which is what headers are made of, and stay small.
        let compile = |text: &str| {
            RegexBuilder::new(text).unicode(false).size_limit(EXPRESSION_BYTES_MAX).build().map_err(|error| {
                let lines = error.to_string();
                let last = lines.lines().last().unwrap_or_default();
                last.strip_prefix("error: ").unwrap_or(last).to_owned()
            })
        };
        // First by itself: what closes a group that it did not open must not escape the anchors.
        compile(text)?;
        let whole = compile(&format!(r"\A(?:{text})\z"))?;
        Ok(Self { text: text.to_owned(), whole })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Returns the fault of `text` as the expression of a header match; `None` if it has none.
#[must_use]
pub fn refuse_expression(text: &str) -> Option<String> {
    if text.len() > VALUE_BYTES_MAX {
        return Some(format!("a value has at most {VALUE_BYTES_MAX} bytes"));
    }
    Expression::new(text).err()
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        self.headers.iter().try_for_each(|header| write!(f, " with {header}"))
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) => write!(f, "PathPrefix {path}"),
        }
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            ValueMatch::Exact(value) => write!(f, "{}: {value}", self.name),
            ValueMatch::Expression(expression) => write!(f, "{}: /{}/", self.name, expression.text),
        }
    }
}

/// Reads `matches`; each with the place to complain about.
pub(super) fn read_matches<'a>(list: &Node<'a>) -> Vec<(RouteMatch, Node<'a>)> {
    let items = list.items("a list of matches").unwrap_or_default();
    let mut matches: Vec<(RouteMatch, Node<'a>)> = Vec::new();
    for (one, at) in items.iter().filter_map(read_match) {
        if matches.iter().any(|(other, _)| *other == one) {
            at.fail(format!("duplicate match {one}"));
        } else {
            matches.push((one, at));
        }
    }
    matches
}

fn read_match<'a>(item: &Node<'a>) -> Option<(RouteMatch, Node<'a>)> {
    let section = Section::of(item)?;
    let list = section.get("headers");
    let fields = list.and_then(|list| list.items("a list of header matches"));
    let says_nothing = list.is_none() || fields.as_ref().is_some_and(Vec::is_empty);
    let headers = read_headers(list.unwrap_or(item), &fields.unwrap_or_default());
    if section.get("path").is_none() && !says_nothing {
        return Some((RouteMatch { headers, ..RouteMatch::anything() }, item.clone()));
    }
    let (path, at) = read_path(section.require("path", A_PATH)?)?;
    Some((RouteMatch { path, headers }, at))
}

fn read_headers(list: &Node<'_>, items: &[Node<'_>]) -> Vec<HeaderMatch> {
    if items.len() > HEADERS_MAX {
        list.fail(format!("a match has at most {HEADERS_MAX} headers; found {}", items.len()));
    }
    let mut names = name::Unique::new("header");
    let mut headers: Vec<_> = items.iter().filter_map(|item| read_header(item, &mut names)).collect();
    headers.sort_by(|one, other| one.name.cmp(&other.name));
    headers
}

fn read_header(item: &Node<'_>, names: &mut name::Unique) -> Option<HeaderMatch> {
    let section = Section::of(item)?;
    let name = section.require("name", "the name of a header").and_then(|node| {
        let name = read_name(node)?;
        names.insert(node, &name).then_some(name)
    });
    let kinds = [("Exact", ValueKind::Exact), ("RegularExpression", ValueKind::Expression)];
    let kind = section.choice("type", &kinds, ValueKind::Exact);
    let value = section.require("value", "the value of the header").and_then(|node| kind.read(node));
    Some(HeaderMatch { name: name?, value: value? })
}

fn read_name(node: &Node<'_>) -> Option<String> {
    let text = node.text("the name of a header")?;
    if !name::is_token(text) {
        node.fail(format!("{text:?} is not a header name"));
        return None;
    }
    if text.eq_ignore_ascii_case("host") {
        node.fail("the host is matched by `hostnames`");
        return None;
    }
    Some(text.to_ascii_lowercase())
}

#[derive(Clone, Copy)]
enum ValueKind {
    Exact,
    Expression,
}

impl ValueKind {
    fn read(self, node: &Node<'_>) -> Option<ValueMatch> {
        let text = node.text("the value of the header")?;
        let read = match self {
            _ if text.len() > VALUE_BYTES_MAX => Err(format!("a value has at most {VALUE_BYTES_MAX} bytes")),
            Self::Exact if !name::is_field_value(text) => Err(name::FIELD_VALUE.to_owned()),
            Self::Exact => Ok(ValueMatch::Exact(text.to_owned())),
            Self::Expression => Expression::new(text)
                .map(ValueMatch::Expression)
                .map_err(|error| format!("not a regular expression: {error}")),
        };
        read.map_err(|refusal| node.fail(refusal)).ok()
    }
}

const A_PATH: &str = "a path such as {type: PathPrefix, value: /events}";

#[derive(Clone, Copy)]
enum PathKind {
    Exact,
    Prefix,
}

fn read_path<'a>(node: &Node<'a>) -> Option<(PathMatch, Node<'a>)> {
    let section = Section::of(node)?;
    let kinds = [("Exact", PathKind::Exact), ("PathPrefix", PathKind::Prefix)];
    let kind = section.choice("type", &kinds, PathKind::Prefix);
    let node = section.require("value", "a path such as /events")?;
    let value = node.text("a path such as /events")?;
    if let Some(refusal) = refuse_path(value) {
        node.fail(refusal);
        return None;
    }
    let path = match kind {
        PathKind::Exact => PathMatch::Exact(value.to_owned()),
        PathKind::Prefix if value == "/" => PathMatch::Prefix(value.to_owned()),
        PathKind::Prefix => PathMatch::Prefix(value.strip_suffix('/').unwrap_or(value).to_owned()),
    };
    Some((path, node.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_whole_values_only() {
        let long = format!("{}!", "a".repeat(10_000));
        let table: [(&str, &[u8], bool); 16] = [
            ("always", b"always", true),
            ("always", b"always2", false),
            ("always", b"not always", false),
            ("a|ab", b"ab", true),
            ("a|b", b"ab", false),
            ("a$|.*", b"a\nb", false),
            ("", b"", true),
            (".*", b"", true),
            (".*", b"\xff\xfe", true),
            ("(?i)ALWAYS", b"alWays", true),
            (r"\d+", "\u{0663}".as_bytes(), false),
            (r"\w+", "\u{fc}".as_bytes(), false),
            ("\u{fc}", "\u{fc}".as_bytes(), true),
            ("beta-[0-9]{1,3}", b"beta-07", true),
            ("beta-[0-9]{1,3}", b"beta-1000", false),
            ("(a+)+", long.as_bytes(), false),
        ];
        for (text, value, expected) in table {
            let matches = ValueMatch::Expression(Expression::new(text).unwrap()).matches(value);
            assert_eq!(matches, expected, "{text} {value:?}");
        }
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused_in_one_line() {
        let table = [
            ("(", "unclosed group"),
            ("a)|(b", "unopened group"),
            ("*", "repetition operator missing expression"),
            ("(?=a)", "look-around, including look-ahead and look-behind, is not supported"),
            (r"(a)\1", "backreferences are not supported"),
            (r"\pL", "Unicode not allowed here"),
            ("((a{1000}){1000}){1000}", "Compiled regex exceeds size limit of 1048576 bytes."),
            // By itself it is one, but its comment would swallow the anchor.
            ("(?x)a # b", "unclosed group"),
        ];
        for (text, expected) in table {
            assert_eq!(Expression::new(text).unwrap_err(), expected, "{text}");
        }
    }
}
