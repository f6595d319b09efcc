//! The spellings of a path, so that a route is not gone round by another one (RFC 3986 section 6.2.2).
//!
//! `/x/../admin`, `/./admin` and `/%61dmin` are `/admin` to every reader of URIs: [`normalized`] is what requests are routed on. Readers
//! disagree about other spellings: an encoded slash is one character of a name to some and a separator to others. [`loose`] reads a path as
//! the others would; where that leads to another route, the proxy cannot know what the endpoint would do, and refuses.

use memchr::{memchr, memchr_iter, memchr2, memchr3, memmem, memrchr};

/// Returns a path with unreserved octets decoded and dot segments removed; `None` if that changes nothing.
#[must_use]
pub fn normalized(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let may_change = memchr(b'%', bytes).is_some() || memmem::find(bytes, b"/.").is_some();
    if !path.starts_with('/') || !may_change {
        return None;
    }
    let mut out = Segments::with_capacity(path.len());
    let mut rest = bytes.get(1..).unwrap_or_default();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'/' => out.end(),
            b'%' => match encoded(after) {
                Some(byte) if is_unreserved(byte) => {
                    out.push(byte);
                    rest = after.get(2..).unwrap_or_default();
                }
                Some(_) => out.push(b'%'),
                // Alone, it could become the beginning of an octet that was never sent.
                None => out.path.extend_from_slice(b"%25"),
            },
            byte => out.push(*byte),
        }
    }
    out.finish().filter(|normal| normal != path)
}

/// Returns a path as applications read it which take encoded slashes and backslashes for slashes, several slashes for one, and what follows
/// a semicolon for no part of a segment, before they remove dot segments; `None` if nothing of that is in it.
#[must_use]
pub fn loose(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let may_change = memmem::find(bytes, b"//").is_some()
        || memchr3(b'\\', b';', b'%', bytes).is_some_and(|first| {
            let rest = bytes.get(first..).unwrap_or_default();
            memchr2(b'\\', b';', rest).is_some()
                || memchr_iter(b'%', rest)
                    .any(|at| rest.get(at + 1..).and_then(encoded).is_some_and(is_slash))
        });
    if !may_change {
        return None;
    }
    let mut out = Segments::with_capacity(path.len());
    let mut is_parameter = false;
    let mut rest = bytes.get(1..).unwrap_or_default();
    while let [first, after @ ..] = rest {
        let octet = if *first == b'%' { encoded(after) } else { None };
        let octet = octet.filter(|byte| is_slash(*byte) || is_unreserved(*byte));
        rest = if octet.is_some() { after.get(2..).unwrap_or_default() } else { after };
        match octet.unwrap_or(*first) {
            byte if is_slash(byte) => {
                is_parameter = false;
                if !out.is_empty() {
                    out.end();
                }
            }
            b';' => is_parameter = true,
            byte if !is_parameter => out.push(byte),
            _ => {}
        }
    }
    out.finish().filter(|loose| loose != path)
}

/// A path in the making, segment by segment.
struct Segments {
    path: Vec<u8>,
    /// The slash before the last segment.
    start: usize,
}

impl Segments {
    fn with_capacity(bytes: usize) -> Segments {
        let mut path = Vec::with_capacity(bytes);
        path.push(b'/');
        Segments { path, start: 0 }
    }

    /// Whether the last segment has no byte yet.
    fn is_empty(&self) -> bool {
        self.path.len() == self.start + 1
    }

    fn push(&mut self, byte: u8) {
        self.path.push(byte);
    }

    /// Ends the last segment and begins another.
    fn end(&mut self) {
        self.take_back_dots();
        self.start = self.path.len();
        self.path.push(b'/');
    }

    /// Returns the path after the last segment.
    fn finish(mut self) -> Option<String> {
        if self.take_back_dots() {
            self.path.push(b'/');
        }
        String::from_utf8(self.path).ok()
    }

    /// Takes the last segment back if it is a dot segment (RFC 3986 section 5.2.4); returns whether it was one.
    fn take_back_dots(&mut self) -> bool {
        let kept = match self.path.get(self.start + 1..) {
            Some(b".") => self.start,
            Some(b"..") => self.path.get(..self.start).and_then(|before| memrchr(b'/', before)).unwrap_or(0),
            _ => return false,
        };
        self.path.truncate(kept);
        true
    }
}

/// Returns the octet whose digits a text after `%` begins with; `None` if there is none.
#[must_use]
pub fn encoded(digits: &[u8]) -> Option<u8> {
    let [high, low, ..] = digits else { return None };
    Some(hexadecimal(*high)? << 4 | hexadecimal(*low)?)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_slash(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &str) -> String {
        normalized(path).unwrap_or_else(|| path.to_owned())
    }

    #[test]
    fn a_path_has_one_normal_spelling() {
        let cases = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/x/../admin", "/admin"),
            ("/x/%2e%2E/admin", "/admin"),
            ("/x/.%2e/admin", "/admin"),
            ("/./admin/.", "/admin/"),
            ("/admin/..", "/"),
            ("/a/b/../..", "/"),
            ("/../../admin", "/admin"),
            ("/..", "/"),
            ("/.", "/"),
            ("/%61dmin", "/admin"),
            ("/%41%5a%30%2D%5f%7e", "/AZ0-_~"),
            ("/a%2fb%20c%C3%a9", "/a%2fb%20c%C3%a9"),
            ("/a%2", "/a%252"),
            ("/a%", "/a%25"),
            ("/a%zz", "/a%25zz"),
            ("/x/%%32e%2%65/admin", "/x/%252e%252e/admin"),
            ("/%2561", "/%2561"),
            ("/a/...", "/a/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/..c", "/a..b/..c"),
            ("//a//../b", "//a/b"),
            ("*", "*"),
        ];
        for (path, expected) in cases {
            assert_eq!(normal(path), expected, "{path}");
        }
    }

    #[test]
    fn a_loose_reading_takes_for_slashes_what_may_be_one() {
        let cases = [
            ("/a/b", None),
            ("/a/", None),
            ("/%61%20", None),
            ("//admin", Some("/admin")),
            ("/admin%2f", Some("/admin/")),
            ("/x%2F..%5cadmin", Some("/admin")),
            ("/x\\..\\admin", Some("/admin")),
            ("/admin;v=1/x", Some("/admin/x")),
            ("/x/..;/admin", Some("/admin")),
            ("/;/admin", Some("/admin")),
            ("/a//b//", Some("/a/b/")),
            // Not normalised: the others' reading of a path as it was sent.
            ("/x//../admin", Some("/admin")),
            ("/x/.;/../admin", Some("/admin")),
            ("/x;/%2E%2e/%61dmin", Some("/admin")),
            ("/x/../admin", None),
        ];
        for (path, expected) in cases {
            assert_eq!(loose(path).as_deref(), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_normal_stays_and_names_no_parent(sent in "/[a./%25eE2fFc;\\\\]{0,30}") {
            let path = normal(&sent);
            prop_assert!(path.starts_with('/'));
            prop_assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{}", path);
            prop_assert_eq!(normal(&path), path.clone());
            for loose in [loose(&path), loose(&sent)].into_iter().flatten() {
                prop_assert!(!loose.split('/').any(|segment| segment == "." || segment == ".."), "{}", loose);
                prop_assert!(!loose.contains("//") && !loose.contains('\\'), "{}", loose);
            }
        }
    }
}
