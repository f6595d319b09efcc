//! Names in certificates, of subjects and issuers, as text (RFC 4514).

use std::fmt::Write as _;

use x509_parser::der_parser::asn1_rs::{Any, Tag, ToDer as _};
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Returns a name as text: its parts in reverse, joined by commas, several attributes of one part by plus signs.
#[must_use]
pub fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for part in name.iter_rdn().collect::<Vec<_>>().into_iter().rev() {
        for (place, one) in part.iter().enumerate() {
            if !text.is_empty() {
                text.push(if place == 0 { ',' } else { '+' });
            }
            write_attribute(&mut text, one);
        }
    }
    text
}

/// Writes `type=value`. A value of a type without a name, or that is no string, is written as the bytes of its encoding
/// (RFC 4514 section 2.4).
fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let known = oid2abbrev(attribute.attr_type(), oid_registry()).ok();
    match known {
        Some(kind) => text.push_str(kind),
        None => text.push_str(&attribute.attr_type().to_id_string()),
    }
    text.push('=');
    let value = attribute.attr_value();
    match known.and_then(|_| string(value)) {
        Some(value) => write_escaped(text, &value),
        None => {
            text.push('#');
            value.to_der_vec().unwrap_or_default().iter().for_each(|byte| write_hex(text, *byte));
        }
    }
}

/// Returns the letters of a string of any ASN.1 type; `None` if the value is no string, or not what its type says.
fn string(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        // Authorities that used this type meant Latin-1; the real T.61 was hardly ever implemented.
        Tag::T61String => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let (pairs, []) = bytes.as_chunks::<2>() else { return None };
            let units = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        Tag::UniversalString => {
            let (quads, []) = bytes.as_chunks::<4>() else { return None };
            quads.iter().map(|quad| char::from_u32(u32::from_be_bytes(*quad))).collect()
        }
        _ => None,
    }
}

/// Writes a value so that no letter of it can be taken for the beginning of another part, or for the end of a line.
fn write_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (place, letter) in value.chars().enumerate() {
        match letter {
            ' ' if place == 0 || place == last => text.push_str("\\ "),
            '#' if place == 0 => text.push_str("\\#"),
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => text.extend(['\\', letter]),
            letter if letter.is_control() => {
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    text.push('\\');
                    write_hex(text, byte);
                }
            }
            letter => text.push(letter),
        }
    }
}

fn write_hex(text: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _written = write!(text, "{byte:02X}");
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use x509_parser::prelude::FromDer as _;

    use super::*;

    /// Encodes one attribute: a type below 2.5.4, and a value of an ASN.1 type.
    fn attribute(kind: u8, tag: u8, value: &[u8]) -> Vec<u8> {
        let encoded = [&[tag, u8::try_from(value.len()).unwrap()], value].concat();
        let inside = [&[6, 3, 0x55, 4, kind], &*encoded].concat();
        [&[0x30, u8::try_from(inside.len()).unwrap()], &*inside].concat()
    }

    /// Returns the text of a name of these parts, each of several attributes.
    fn text(parts: &[&[Vec<u8>]]) -> String {
        let mut sets = Vec::new();
        for part in parts {
            let inside = part.concat();
            sets.extend([0x31, u8::try_from(inside.len()).unwrap()]);
            sets.extend(inside);
        }
        let length = u16::try_from(sets.len()).unwrap().to_be_bytes();
        let encoded = [&[0x30, 0x82], &length[..], &sets].concat();
        let (_, name) = X509Name::from_der(&encoded).unwrap();
        distinguished_name(&name)
    }

    #[test]
    fn values_of_every_type_are_written_in_utf_8_and_escaped() {
        const CN: u8 = 3;
        let table: [(u8, &[u8], &str); 16] = [
            (12, "caf\u{e9}".as_bytes(), "CN=caf\u{e9}"),
            (12, b" #a b ", "CN=\\ #a b\\ "),
            (12, b"#a", "CN=\\#a"),
            (12, b"a, CN=root", "CN=a\\, CN\\=root"),
            (12, b"a\nb\x00\x7f", "CN=a\\0Ab\\00\\7F"),
            (12, "a\u{85}".as_bytes(), "CN=a\\C2\\85"),
            (12, b"<\"+;\\>", "CN=\\<\\\"\\+\\;\\\\\\>"),
            (12, b"", "CN="),
            (19, b"plain", "CN=plain"),
            (22, b"a@b", "CN=a@b"),
            (18, b"12", "CN=12"),
            (20, b"caf\xe9", "CN=caf\u{e9}"),
            (30, &[0, b'a', 0x20, 0xac], "CN=a\u{20ac}"),
            (28, &[0, 1, 0xf6, 0], "CN=\u{1f600}"),
            // Not what its type says, and no string at all.
            (30, &[0xd8, 0], "CN=#1E02D800"),
            (4, &[1, 2], "CN=#04020102"),
        ];
        for (tag, value, expected) in table {
            assert_eq!(text(&[&[attribute(CN, tag, value)]]), expected);
        }
    }

    #[test]
    fn parts_are_reversed_and_attributes_of_one_part_joined() {
        let (country, organization) = (attribute(6, 19, b"DE"), attribute(10, 12, b"a"));
        let (name, serial) = (attribute(3, 12, b"client"), attribute(5, 19, b"7"));
        assert_eq!(
            text(&[&[country], &[organization], &[name, serial]]),
            "CN=client+serialNumber=7,O=a,C=DE"
        );
        assert_eq!(text(&[]), "");
        // A type that has no name.
        let unknown = attribute(0x7f, 12, b"x");
        assert!(text(&[&[unknown]]).ends_with("=#0C0178"));
    }

    proptest! {
        #[test]
        fn a_name_of_any_bytes_is_a_header_value_in_one_part(
            tag in 0_u8..31,
            value in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let written = text(&[&[attribute(3, tag, &value)]]);
            prop_assert!(HeaderValue::from_str(&written).is_ok() || HeaderValue::from_bytes(written.as_bytes()).is_ok());
            let bare = written.replace("\\\\", "").replace("\\,", "").replace("\\+", "");
            prop_assert!(!bare.contains(','), "{written}");
        }
    }
}
