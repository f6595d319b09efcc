//! Encodes the heads of responses: references to the static table and literals, no Huffman, no dynamic table.
//!
//! A table for what we send would cost memory on every connection and pays where one connection carries hundreds of
//! equal heads; ADR 3 has the figures. The first block says that the table has no entries, after which a client that
//! lowers its limit needs no answer (RFC 9113 section 4.3.1).

use super::integer;
use super::static_table::{self, STATUS};

/// A literal that is not indexed (RFC 7541 section 6.2.2).
const LITERAL: u8 = 0x00;
/// A literal that no intermediary may index either (section 6.2.3), for secrets.
const NEVER_INDEXED: u8 = 0x10;
/// The table has no entries (section 6.3).
const EMPTY_TABLE: u8 = 0x20;

/// The state of one connection's responses.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    has_begun: bool,
}

impl Encoder {
    /// Begins a header block.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.has_begun {
            out.push(EMPTY_TABLE);
            self.has_begun = true;
        }
    }

    /// Appends `:status`.
    pub(crate) fn status(status: u16, out: &mut Vec<u8>) {
        if let Some(index) = static_table::status(status) {
            return integer::encode(out, 0x80, 7, index);
        }
        integer::encode(out, LITERAL, 4, STATUS);
        let digits = [status / 100 % 10, status / 10 % 10, status % 10];
        out.push(3);
        out.extend(digits.map(|digit| b'0' + u8::try_from(digit).unwrap_or_default()));
    }

    /// Appends a field, its name in lower case.
    pub(crate) fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        // The name where it would stand as a literal, to be looked up in lower case.
        integer::encode(out, 0, 7, name.len());
        let name_start = out.len();
        out.extend_from_slice(name);
        let written = out.get_mut(name_start..).unwrap_or_default();
        written.make_ascii_lowercase();
        let pattern = if is_secret(written) { NEVER_INDEXED } else { LITERAL };
        match static_table::name(written) {
            Some(index) => {
                out.truncate(start);
                integer::encode(out, pattern, 4, index);
            }
            None => out.insert(start, pattern),
        }
        integer::encode(out, 0, 7, value.len());
        out.extend_from_slice(value);
    }
}

fn is_secret(name: &[u8]) -> bool {
    matches!(name, b"set-cookie" | b"authorization" | b"proxy-authorization" | b"cookie")
}

#[cfg(test)]
mod tests {
    use super::super::{Decoder, Step};
    use super::*;

    #[test]
    fn a_head_is_decoded_as_it_was_encoded() {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        encoder.begin(&mut out);
        for status in [200, 204, 206, 304, 400, 404, 500, 103, 431, 999] {
            Encoder::status(status, &mut out);
        }
        let long = "v".repeat(1000);
        let fields = [
            ("Content-Type", "text/event-stream"),
            ("X-Other", ""),
            ("set-cookie", "a=b"),
            ("x-long", &long),
        ];
        for (name, value) in fields {
            Encoder::field(name.as_bytes(), value.as_bytes(), &mut out);
        }
        let (mut decoder, mut text, mut input) = (Decoder::new(0), Vec::new(), &out[..]);
        decoder.begin();
        while decoder.next(&mut input, &mut text, 10_000).unwrap() != Step::Incomplete {}
        let statuses =
            [200, 204, 206, 304, 400, 404, 500, 103, 431, 999].map(|status| format!(":status: {status}\r\n"));
        let lines = fields.map(|(name, value)| format!("{}: {value}\r\n", name.to_lowercase()));
        assert_eq!(String::from_utf8(text).unwrap(), statuses.concat() + &lines.concat());
        let mut second = Vec::new();
        encoder.begin(&mut second);
        assert!(second.is_empty(), "the table is emptied once");
    }

    #[test]
    fn cookies_are_marked_as_never_indexed() {
        let mut out = Vec::new();
        Encoder::field(b"Set-Cookie", b"a", &mut out);
        assert_eq!(out, [0x1f, 55 - 15, 1, b'a']);
    }
}
