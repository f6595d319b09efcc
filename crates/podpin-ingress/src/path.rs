//! Paths of an Ingress as podpin matches them: element by element, without expressions.
//!
//! On a host where any Ingress has `use-regex` or `rewrite-target`, the controller turns every path into an expression that
//! ignores case and has no end. The forms of such expressions that people write are known here; what is none of them has
//! no match in podpin, and the longest literal beginning is what has to be withheld where it protects.

use podpin_config::rule;

use crate::object::{Path, PathKind};

/// A path that a route matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MatchedPath {
    pub(crate) is_exact: bool,
    /// Without a slash at its end, but for `/`.
    pub(crate) value: String,
}

/// A path with what becomes of it on the way to the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) path: MatchedPath,
    /// The prefix that replaces the matched one.
    pub(crate) rewrite: Option<String>,
    /// The difference to nginx; empty if there is none.
    pub(crate) note: &'static str,
}

/// A path that podpin cannot match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unmatched {
    /// The longest path that contains it.
    pub(crate) within: String,
    pub(crate) reason: &'static str,
}

/// How paths of a host are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading<'a> {
    /// As they stand.
    Literal,
    /// As expressions; with the target of a rewrite.
    Expression(Option<&'a str>),
}

const PREFIX_NOTE: &str =
    "nginx compares characters, so `/foo` matched `/foobar`, too; podpin compares elements";
const CASE_NOTE: &str = "on this host nginx ignored case and matched every path that begins so; podpin compares case and elements";
const REWRITE_NOTE: &str = "nginx ignored case on this host; podpin does not";
const FIXED_NOTE: &str =
    "nginx sent every path below to exactly this one; podpin replaces the prefix and keeps the rest";
const NO_FORM: &str = "an expression that no prefix stands for";
const NOT_NORMAL: &str = "not a path that a request can have";

/// Characters that mean something in an expression. A dot is taken for itself, which it matches.
const META: [char; 12] = ['^', '$', '(', ')', '[', ']', '{', '}', '|', '*', '+', '?'];

/// Ends of expressions that stand for everything below, and the number of the group that has the rest.
const TAILS: [(&str, Tail); 12] = [
    ("(/|$)(.*)", Tail::Below(2)),
    ("(?:/|$)(.*)", Tail::Below(1)),
    ("(\\/|$)(.*)", Tail::Below(2)),
    ("/?(.*)", Tail::Below(1)),
    ("/(.*)", Tail::Below(1)),
    ("(/.*)?", Tail::Rest(1)),
    ("(/.*)", Tail::Rest(1)),
    ("(.*)", Tail::Rest(1)),
    ("/.*", Tail::Below(0)),
    ("/.+", Tail::Below(0)),
    ("(/|$)", Tail::Below(0)),
    (".*", Tail::Below(0)),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// Nothing follows the literal part.
    None,
    /// Everything below; the group has what follows the slash. 0 if there is none.
    Below(u8),
    /// Everything below; the group has the slash, too.
    Rest(u8),
}

/// Returns the paths that a path of an Ingress stands for: several for alternatives.
pub(crate) fn map(path: &Path, reading: Reading<'_>) -> Result<Vec<Mapped>, Unmatched> {
    match reading {
        Reading::Literal => literal(path).map(|one| vec![one]),
        Reading::Expression(target) => expression(&path.path, target),
    }
}

fn literal(path: &Path) -> Result<Mapped, Unmatched> {
    let unmatched = || Unmatched { within: literal_beginning(&path.path), reason: NOT_NORMAL };
    let value = normal(&path.path).ok_or_else(unmatched)?;
    let is_exact = path.kind == PathKind::Exact;
    let note = match path.kind {
        _ if value != path.path => "written as podpin compares paths: normalised",
        PathKind::ImplementationSpecific if value != "/" => PREFIX_NOTE,
        _ => "",
    };
    let value = if is_exact { value } else { without_slash(&value) };
    Ok(Mapped { path: MatchedPath { is_exact, value }, rewrite: None, note })
}

fn expression(text: &str, target: Option<&str>) -> Result<Vec<Mapped>, Unmatched> {
    let unmatched = |reason| Unmatched { within: literal_beginning(text), reason };
    let bare = text.strip_prefix('^').unwrap_or(text);
    let bare = bare.strip_prefix("(?i)").unwrap_or(bare);
    let is_ended = bare.ends_with('$') && !bare.ends_with("\\$");
    let bare = if is_ended { bare.strip_suffix('$').unwrap_or(bare) } else { bare };
    let (stem, tail) = split_tail(bare);
    let stems = alternatives(stem).ok_or_else(|| unmatched(NO_FORM))?;
    if stems.len() > 1 && target.is_some() {
        return Err(unmatched("alternatives with a rewrite"));
    }
    let mut mapped = Vec::new();
    for stem in stems {
        let value = if stem.is_empty() { Some("/".to_owned()) } else { normal(&stem) };
        let value = without_slash(&value.ok_or_else(|| unmatched(NOT_NORMAL))?);
        let is_exact = is_ended && tail == Tail::None && target.is_none();
        let path = MatchedPath { is_exact, value };
        let note = if target.is_some() { REWRITE_NOTE } else { CASE_NOTE };
        let (rewrite, note) = match target {
            None => (None, note),
            Some(target) => {
                let (prefix, is_fixed) = rewritten(target, tail)
                    .ok_or_else(|| unmatched("a rewrite that no prefix stands for"))?;
                let note = if is_fixed { FIXED_NOTE } else { note };
                (Some(prefix).filter(|prefix| *prefix != path.value), note)
            }
        };
        mapped.push(Mapped { path, rewrite, note });
    }
    Ok(mapped)
}

fn split_tail(text: &str) -> (&str, Tail) {
    let found = TAILS.iter().find_map(|(tail, kind)| Some((text.strip_suffix(tail)?, *kind)));
    found.unwrap_or((text, Tail::None))
}

/// Returns the literal texts that `stem` stands for; `None` if it has other expressions than one group of alternatives.
fn alternatives(stem: &str) -> Option<Vec<String>> {
    let plain = |text: &str| {
        let text = text.replace("\\.", ".").replace("\\-", "-").replace("\\/", "/").replace("\\_", "_");
        (!text.contains(META) && !text.contains('\\')).then_some(text)
    };
    if let Some(text) = plain(stem) {
        return Some(vec![text]);
    }
    let (before, rest) = stem.split_once('(')?;
    let (group, after) = rest.split_once(')')?;
    let group = group.strip_prefix("?:").unwrap_or(group);
    let (before, after) = (plain(before)?, plain(after)?);
    let words = group.split('|').map(|word| plain(word).filter(|word| !word.is_empty()));
    let words: Option<Vec<String>> = words.collect();
    Some(words?.iter().map(|word| format!("{before}{word}{after}")).collect())
}

/// Returns the prefix that `target` puts in the place of the matched one, and whether nginx dropped the rest; `None` if no
/// prefix does the same.
fn rewritten(target: &str, tail: Tail) -> Option<(String, bool)> {
    let Some((before, group)) = target.split_once('$') else {
        let fixed = normal(target)?;
        return Some((without_slash(&fixed), true));
    };
    let number: u8 = group.parse().ok()?;
    let fits = match tail {
        Tail::Below(group) => group == number && number > 0 && before.ends_with('/'),
        Tail::Rest(group) => group == number,
        Tail::None => false,
    };
    if !fits {
        return None;
    }
    let prefix = if before.is_empty() { "/".to_owned() } else { normal(before)? };
    Some((without_slash(&prefix), false))
}

/// Returns the path in the form in which podpin compares it; `None` if no request can have it.
fn normal(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return None;
    }
    let mut encoded = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    for byte in (b'0'..=b'9').chain(b'a'..=b'z').chain(b'A'..=b'Z').chain(*b"-._~") {
        if !encoded.contains('%') {
            break;
        }
        let plain = char::from(byte).to_string();
        encoded = encoded.replace(&format!("%{byte:02X}"), &plain).replace(&format!("%{byte:02x}"), &plain);
    }
    let elements: Vec<&str> =
        encoded.split('/').filter(|element| !element.is_empty() && *element != ".").collect();
    let mut value = format!("/{}", elements.join("/"));
    if encoded.ends_with('/') && !elements.is_empty() {
        value.push('/');
    }
    rule::refuse_path(&value).is_none().then_some(value)
}

fn without_slash(path: &str) -> String {
    match path.strip_suffix('/') {
        Some("") | None => path.to_owned(),
        Some(bare) => bare.to_owned(),
    }
}

/// Returns the longest path of whole elements that contains everything that `text` may match.
fn literal_beginning(text: &str) -> String {
    let text = text.trim_start_matches('^');
    let literal = text.split(META).next().unwrap_or_default().split('\\').next().unwrap_or_default();
    let whole = if literal.len() == text.len() {
        literal
    } else {
        literal.rsplit_once('/').map_or("", |(whole, _)| whole)
    };
    let mut candidate = whole;
    loop {
        match normal(candidate) {
            Some(path) => return without_slash(&path),
            None if candidate.is_empty() => return "/".to_owned(),
            None => candidate = candidate.rsplit_once('/').map_or("", |(before, _)| before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(text: &str, target: Option<&str>) -> String {
        match expression(text, target) {
            Ok(all) => {
                let shown = all.iter().map(|one| {
                    let kind = if one.path.is_exact { "=" } else { "" };
                    let rewrite = one.rewrite.as_ref().map_or(String::new(), |to| format!(" -> {to}"));
                    format!("{kind}{}{rewrite}", one.path.value)
                });
                shown.collect::<Vec<_>>().join(", ")
            }
            Err(unmatched) => format!("within {}", unmatched.within),
        }
    }

    #[test]
    fn idioms_become_prefixes() {
        let cases = [
            ("/api(/|$)(.*)", Some("/$2"), "/api -> /"),
            ("/api(/|$)(.*)", Some("/v2/$2"), "/api -> /v2"),
            ("/api/?(.*)", Some("/$1"), "/api -> /"),
            ("/api/(.*)", Some("/q/$1"), "/api -> /q"),
            ("/api(/.*)?", Some("/q$1"), "/api -> /q"),
            ("/(.*)", Some("/$1"), "/"),
            ("/(.*)", Some("/app/$1"), "/ -> /app"),
            ("/api", Some("/"), "/api -> /"),
            ("/api(/|$)(.*)$", Some("/$2"), "/api -> /"),
            ("/api(/|$)(.*)", Some("/$1"), "within /"),
            ("/api(/|$)(.*)", Some("/q$2"), "within /"),
            ("/api(/|$)(.*)", Some("/$2/$1"), "within /"),
            ("/api/v[0-9]+/.*", None, "within /api"),
            ("/api/.*", None, "/api"),
            ("/v1\\.0/?(.*)", None, "/v1.0"),
            ("/(admin|internal)/.*", None, "/admin, /internal"),
            ("/(admin|internal)(/|$)(.*)", Some("/$3"), "within /"),
            ("^/exact$", None, "=/exact"),
            ("/a+b", None, "within /"),
            ("/.*", None, "/"),
            ("/a/(b", None, "within /a"),
            ("", None, "/"),
        ];
        for (text, target, expected) in cases {
            assert_eq!(mapped(text, target), expected, "{text} {target:?}");
        }
    }

    #[test]
    fn paths_are_normalised() {
        let cases = [
            ("/a//b/./c", Some("/a/b/c")),
            ("/%7Euser/%2f", Some("/~user/%2f")),
            ("/ü", Some("/%C3%BC")),
            ("/a/", Some("/a/")),
            ("/", Some("/")),
            ("a", None),
            ("/a/../b", None),
            ("/a?b", None),
        ];
        for (path, expected) in cases {
            assert_eq!(normal(path).as_deref(), expected, "{path}");
        }
    }
}
