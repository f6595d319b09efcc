//! The spellings of a path, so that a route is not gone round by another one (RFC 3986 section 6.2.2).
//!
//! `/x/../admin`, `/./admin` and `/%61dmin` are `/admin` to every reader of URIs: [`normalized`] is what requests are routed on. Readers
//! disagree about other spellings: an encoded slash is one character of a name to some and a separator to others. [`loose`] reads a path as
//! the others would; where that leads to another route, the proxy cannot know what the endpoint would do, and refuses.

use std::borrow::Cow;

use memchr::{memchr, memmem, memrchr};

/// Returns a path with unreserved octets decoded and dot segments removed; `None` if that changes nothing.
#[must_use]
pub fn normalized(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let may_change = memchr(b'%', bytes).is_some() || memmem::find(bytes, b"/.").is_some();
    if !path.starts_with('/') || !may_change {
        return None;
    }
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push(b'/');
        push_decoded(&mut out, segment.as_bytes());
        end_segment(&mut out, start, segments.peek().is_none());
    }
    String::from_utf8(out).ok().filter(|normal| normal != path)
}

/// Appends a segment with its unreserved octets decoded.
fn push_decoded(out: &mut Vec<u8>, segment: &[u8]) {
    let mut rest = segment;
    while let Some((first, after)) = rest.split_first() {
        match encoded(rest).filter(|byte| is_unreserved(*byte)) {
            Some(byte) => {
                out.push(byte);
                rest = rest.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                if *first == b'%' && encoded(rest).is_none() {
                    // Alone, it could become the beginning of an octet that was never sent.
                    out.extend_from_slice(b"25");
                }
                rest = after;
            }
        }
    }
}

/// Takes the segment back that begins with the slash at `start` if it is a dot segment (RFC 3986 section 5.2.4).
fn end_segment(out: &mut Vec<u8>, start: usize, is_last: bool) {
    let kept = match out.get(start + 1..) {
        Some(b".") => start,
        Some(b"..") => out.get(..start).and_then(|before| memrchr(b'/', before)).unwrap_or(0),
        _ => return,
    };
    out.truncate(kept);
    if is_last {
        out.push(b'/');
    }
}

/// Returns the octet that is encoded at the beginning; `None` if there is none.
fn encoded(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Returns a path as applications read it which take encoded slashes and backslashes for slashes, several slashes for one, and what follows
/// a semicolon for no part of a segment; `None` if that changes nothing. `path` is normalised.
#[must_use]
pub fn loose(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let may_change = memmem::find(bytes, b"//").is_some()
        || bytes.iter().any(|byte| matches!(byte, b'\\' | b';'))
        || memmem::find_iter(bytes, b"%").any(|at| bytes.get(at..).and_then(encoded).is_some_and(is_slash));
    if !may_change {
        return None;
    }
    let separated = separated(path);
    let mut out = Vec::with_capacity(path.len());
    let mut segments = separated.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let (start, is_last) = (out.len(), segments.peek().is_none());
        let name = segment.split(';').next().unwrap_or_default();
        if !name.is_empty() || is_last {
            out.push(b'/');
            out.extend_from_slice(name.as_bytes());
            end_segment(&mut out, start, is_last);
        }
    }
    String::from_utf8(out).ok().filter(|loose| loose != path)
}

/// Returns the path with a slash for each octet that some take for one.
fn separated(path: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    for (at, byte) in path.bytes().enumerate() {
        let length = match byte {
            b'\\' => 1,
            b'%' if path.as_bytes().get(at..).and_then(encoded).is_some_and(is_slash) => 3,
            _ => continue,
        };
        out.push_str(path.get(copied..at).unwrap_or_default());
        out.push('/');
        copied = at + length;
    }
    if copied == 0 {
        return Cow::Borrowed(path);
    }
    out.push_str(path.get(copied..).unwrap_or_default());
    Cow::Owned(out)
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
            if let Some(loose) = loose(&path) {
                prop_assert!(!loose.split('/').any(|segment| segment == "." || segment == ".."), "{}", loose);
                prop_assert!(!loose.contains("//") && !loose.contains('\\'), "{}", loose);
            }
        }
    }
}
