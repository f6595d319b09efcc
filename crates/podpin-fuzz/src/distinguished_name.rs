//! Laws over names in certificates as text: what a client's certificate says is one header value, and each of its parts stays one part.

use http::HeaderValue;
use podpin_wire::distinguished_name::distinguished_name as text_of;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

/// The input is a name in DER, as a client puts it into its certificate.
pub fn distinguished_name(input: &[u8]) {
    let Ok((_, name)) = X509Name::from_der(input) else { return };
    let text = text_of(&name);
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(HeaderValue::from_bytes(text.as_bytes()).is_ok(), "{text:?}");
    let read = attributes(&text);
    assert_eq!(read.len(), name.iter_attributes().count(), "{text:?}");
    let joined = read.iter().filter(|attribute| attribute.joined).count();
    let parts = name.iter_rdn().filter(|part| part.iter().next().is_some()).count();
    assert_eq!(read.len() - joined, parts, "{text:?}");
    for Attribute { kind, value, .. } in &read {
        assert!(
            !kind.is_empty()
                && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        );
        assert!(is_value(value.as_bytes()), "an escape that is none: {text:?}");
    }
}

/// An attribute as a reader of RFC 4514 finds it.
struct Attribute {
    kind: String,
    /// The value with its escapes.
    value: String,
    /// Whether the attribute is in the part of the one before.
    joined: bool,
}

/// Reads a name by the grammar of RFC 4514 section 3.
fn attributes(text: &str) -> Vec<Attribute> {
    let mut read = Vec::new();
    let mut rest = text;
    let mut joined = false;
    while !rest.is_empty() {
        let end = end_of_attribute(rest);
        let (attribute, after) = rest.split_at(end);
        let (kind, value) = attribute.split_once('=').unwrap_or_default();
        read.push(Attribute { kind: kind.to_owned(), value: value.to_owned(), joined });
        joined = after.starts_with('+');
        rest = after.get(1..).unwrap_or_default();
    }
    read
}

/// Returns the place of the first separator that is not escaped.
fn end_of_attribute(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().position(|byte| {
        let is_end = !is_escaped && matches!(byte, b',' | b'+');
        is_escaped = !is_escaped && byte == b'\\';
        is_end
    });
    end.unwrap_or(text.len())
}

/// Whether a value has escapes and letters that RFC 4514 knows only.
fn is_value(value: &[u8]) -> bool {
    let mut rest = value;
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => after,
            (b'\\', [special, after @ ..]) if b" #=\"+,;<>\\".contains(special) => after,
            (b'\\' | b'"' | b';' | b'<' | b'>' | 0, _) => return false,
            (_, after) => after,
        };
    }
    true
}
