//! The lines of an event stream and their meaning: WHATWG HTML, sections 9.2.5 "Parsing an event stream" and 9.2.6
//! "Interpreting an event stream". Which lines make a block is `frame.rs`.
//!
//! Lines are bytes: a line end or a colon is never part of another UTF-8 character, and what is not UTF-8 is
//! replaced by the client within its line, so that both see the same lines and names.

use memchr::memchr2;

pub(crate) const CR: u8 = b'\r';
pub(crate) const LF: u8 = b'\n';

/// Longest event id that is remembered, bytes.
///
/// Ids go into the request header `Last-Event-ID`; real ones are numbers, UUIDs or log positions under 100 bytes,
/// and servers commonly refuse header lines over 8 KiB. If it is too small,
/// [`Framer::id_too_long`](crate::Framer::id_too_long) holds for streams that could have been resumed elsewhere.
pub const ID_BYTES_MAX: usize = 1024;

/// The meaning of a line that is neither empty nor a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// The block will be dispatched as an event.
    Data,
    /// The new last event id.
    Id(&'a [u8]),
    /// A new reconnection time in milliseconds; applies at once.
    Retry(u32),
    /// An event type, a field that clients ignore, or one whose value they ignore.
    Other,
}

impl<'a> Field<'a> {
    /// Reads a line without its end.
    #[inline]
    pub(crate) fn parse(line: &'a [u8]) -> Self {
        match line {
            [b'd', b'a', b't', b'a', rest @ ..] if value(rest).is_some() => Self::Data,
            [b'i', b'd', rest @ ..] => match value(rest) {
                Some(id) if !id.contains(&0) => Self::Id(id),
                _ => Self::Other,
            },
            [b'r', b'e', b't', b'r', b'y', rest @ ..] => match value(rest) {
                Some(digits @ [_, ..]) if digits.iter().all(u8::is_ascii_digit) => {
                    Self::Retry(number(digits))
                }
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

/// Returns the number that some digits make; `u32::MAX`, 49 days, if it is larger.
fn number(digits: &[u8]) -> u32 {
    let add = |number: u32, digit: &u8| number.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    digits.iter().fold(0, add)
}

/// The value after a field's name, if the name ends here: after a colon and at most one space, or empty without a colon.
pub(crate) fn value(after_name: &[u8]) -> Option<&[u8]> {
    match after_name {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// The first line of `bytes` and what comes after its end; `None` if no line ends here. A CR that comes last ends its
/// line; should its LF come later, the caller takes it off first.
#[inline]
pub(crate) fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    // Every other line is empty, and a search costs more than a look.
    if let [LF, rest @ ..] = bytes {
        return Some((&[], rest));
    }
    let (line, rest) = bytes.split_at(memchr2(CR, LF, bytes)?);
    match rest {
        [CR, LF, rest @ ..] | [_, rest @ ..] => Some((line, rest)),
        [] => None,
    }
}

/// Whether a line that begins with `bytes` is a comment.
pub(crate) fn is_comment(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let table: &[(&[u8], Field<'_>)] = &[
            (b"data", Field::Data),
            (b"data:", Field::Data),
            (b"data: x", Field::Data),
            (b"data:x", Field::Data),
            (b"data :x", Field::Other),
            (b" data:x", Field::Other),
            (b"Data:x", Field::Other),
            (b"datax", Field::Other),
            (b"dat", Field::Other),
            (b"id", Field::Id(b"")),
            (b"id:", Field::Id(b"")),
            (b"id: ", Field::Id(b"")),
            (b"id:  7 ", Field::Id(b" 7 ")),
            (b"id:7:8", Field::Id(b"7:8")),
            (b"id: \xff", Field::Id(b"\xff")),
            (b"id: a\0b", Field::Other),
            (b"id\0", Field::Other),
            (b"idx: 7", Field::Other),
            (b"ID: 7", Field::Other),
            (b"retry: 3000", Field::Retry(3_000)),
            (b"retry:03000", Field::Retry(3_000)),
            (b"retry: 99999999999", Field::Retry(u32::MAX)),
            (b"retry", Field::Other),
            (b"retry: ", Field::Other),
            (b"retry: 3s", Field::Other),
            (b"retry: -1", Field::Other),
            (b"retry:  1", Field::Other),
            (b"event: data", Field::Other),
            (b"\xef\xbb\xbfdata: x", Field::Other),
        ];
        for (line, expected) in table {
            assert_eq!(Field::parse(line), *expected, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_line_ends_at_cr_or_lf_or_both() {
        type Split = Option<(&'static [u8], &'static [u8])>;
        let table: &[(&[u8], Split)] = &[
            (b"", None),
            (b"a", None),
            (b"a\nb", Some((b"a", b"b"))),
            (b"a\rb", Some((b"a", b"b"))),
            (b"a\r\nb", Some((b"a", b"b"))),
            (b"a\n\rb", Some((b"a", b"\rb"))),
            (b"\r\r\n", Some((b"", b"\r\n"))),
            (b"a\r", Some((b"a", b""))),
        ];
        for (bytes, expected) in table {
            assert_eq!(split_line(bytes), *expected, "{}", bytes.escape_ascii());
        }
    }
}
