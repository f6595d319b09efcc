//! Header fields of a request in one piece of memory, each for little more than its text.
//!
//! A request keeps them as long as it waits for its endpoint: a map would cost some 250 bytes for each field, whatever its
//! size.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};

/// Bytes that stand between a name and its value, and behind the value.
const SEPARATORS: [&[u8]; 2] = [b": ", b"\r\n"];

/// Header fields in the order in which they came, as lines of HTTP/1.1 with names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    text: Bytes,
    lines: Box<[Line]>,
}

/// A line `name: value` of the text; the next one begins behind its line end.
#[derive(Clone, Copy, Debug)]
struct Line {
    name_start: u32,
    value_start: u32,
    value_end: u32,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Returns a place; `None` if it lies beyond 4 GiB.
    pub(crate) fn of(range: Range<usize>) -> Option<Span> {
        Some(Span { start: u32::try_from(range.start).ok()?, end: u32::try_from(range.end).ok()? })
    }
}

impl Line {
    fn name(self) -> Range<usize> {
        to_usize(self.name_start)..to_usize(self.value_start).saturating_sub(SEPARATORS[0].len())
    }

    fn value(self) -> Range<usize> {
        to_usize(self.value_start)..to_usize(self.value_end)
    }
}

impl Fields {
    /// Reads lines of the form `name: value` with names in lower case and nothing around their values, each with its line
    /// end, that stand in `text` at `lines`. Fields that HTTP/1.1 does not allow are not told from others.
    ///
    /// Returns `None` if the lines are not of this form.
    #[must_use]
    pub fn within(text: Bytes, lines: Range<usize>) -> Option<Fields> {
        let mut found = Vec::with_capacity(16);
        let mut at = lines.start;
        while at < lines.end {
            let rest = text.get(at..lines.end)?;
            let colon = memchr::memchr(b':', rest)?;
            let end = colon + memchr::memchr(b'\r', rest.get(colon..)?)?;
            found.push(Line {
                name_start: u32::try_from(at).ok()?,
                value_start: u32::try_from(at + colon + SEPARATORS[0].len()).ok()?,
                value_end: u32::try_from(at + end).ok()?,
            });
            at += end + SEPARATORS[1].len();
        }
        Some(Fields { text, lines: found.into_boxed_slice() })
    }

    /// Returns the number of lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Returns whether there is no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns the heap memory of all lines and of what else stands in their text, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.lines)
    }

    /// Returns name and value of each line.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| (self.slice(line.name()), self.slice(line.value())))
    }

    /// Returns the value of each line of this name.
    pub fn all<'a, 'n>(&'a self, name: &'n HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.all_of(name.as_str().as_bytes())
    }

    /// Returns the value of each line of this name, which is in lower case.
    pub(crate) fn all_of<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.iter().filter(move |(line, _)| *line == name).map(|(_, value)| value)
    }

    /// Returns the value of the first line of this name.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        let wanted = name.as_str().as_bytes();
        self.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    }

    /// Returns the value of the first line of this name; `None` if it is not ASCII.
    #[must_use]
    pub fn text(&self, name: &HeaderName) -> Option<&str> {
        self.get(name).filter(|value| value.is_ascii()).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Returns whether a line has this name.
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Returns the lines of this name as one value, in their order (RFC 9110 section 5.3); `None` if there is none. A single
    /// line is not copied.
    ///
    /// Lines are joined by a comma; those of `Cookie`, which HTTP/2 may split (RFC 9113 section 8.2.3), by a semicolon.
    #[must_use]
    pub fn joined(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        let mut lines = self.all(name);
        let mut value = Cow::Borrowed(lines.next()?);
        for line in lines {
            let whole = value.to_mut();
            whole.extend_from_slice(if *name == header::COOKIE { b"; " } else { b", " });
            whole.extend_from_slice(line);
        }
        Some(value)
    }

    /// Returns the text at a place that is known to be one.
    pub(crate) fn text_at(&self, span: Span) -> &str {
        let bytes = self.slice(to_usize(span.start)..to_usize(span.end));
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn slice(&self, range: Range<usize>) -> &[u8] {
        self.text.get(range).unwrap_or_default()
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Fields {
        let mut builder = Builder::new(0, map.len());
        for (name, value) in map {
            builder.push(name.as_str(), value.as_bytes());
        }
        builder.finish()
    }
}

/// Fields that are being collected, behind other text.
pub(crate) struct Builder {
    text: Vec<u8>,
    lines: Vec<Line>,
}

impl Builder {
    /// Returns room for so many bytes of text and so many lines.
    pub(crate) fn new(bytes: usize, lines: usize) -> Builder {
        Builder { text: Vec::with_capacity(bytes), lines: Vec::with_capacity(lines) }
    }

    /// Appends text that is no field; returns its place.
    pub(crate) fn append(&mut self, text: &str) -> Option<Span> {
        let start = self.text.len();
        self.text.extend_from_slice(text.as_bytes());
        Span::of(start..self.text.len())
    }

    /// Appends a field; returns the place of its value.
    pub(crate) fn push(&mut self, name: &str, value: &[u8]) -> Option<Span> {
        let start = self.text.len();
        self.text.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        self.text.extend_from_slice(SEPARATORS[0]);
        let value_start = self.text.len();
        self.text.extend_from_slice(value);
        let span = Span::of(value_start..self.text.len())?;
        self.text.extend_from_slice(SEPARATORS[1]);
        let name_start = u32::try_from(start).ok()?;
        self.lines.push(Line { name_start, value_start: span.start, value_end: span.end });
        Some(span)
    }

    /// Returns the fields.
    pub(crate) fn finish(self) -> Fields {
        Fields { text: self.text.into_boxed_slice().into(), lines: self.lines.into_boxed_slice() }
    }
}

fn to_usize(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut builder = Builder::new(0, 0);
        for (name, value) in lines {
            builder.push(name, value.as_bytes()).unwrap();
        }
        builder.finish()
    }

    #[test]
    fn several_lines_of_a_field_are_one_value() {
        let table: [(&str, &[&str], Option<&str>); 6] = [
            ("x-session-id", &[], None),
            ("x-session-id", &[""], Some("")),
            ("x-session-id", &["a"], Some("a")),
            ("x-session-id", &["a", "b, c"], Some("a, b, c")),
            ("x-session-id", &["a", ""], Some("a, ")),
            ("cookie", &["a=b", "c=d; e=f"], Some("a=b; c=d; e=f")),
        ];
        for (name, values, expected) in table {
            let lines: Vec<(&str, &str)> = values.iter().map(|value| (name, *value)).collect();
            let fields = fields(&lines);
            let name: HeaderName = name.parse().unwrap();
            assert_eq!(fields.joined(&name).as_deref(), expected.map(str::as_bytes), "{values:?}");
        }
    }

    #[test]
    fn a_field_costs_its_text_and_a_dozen_bytes() {
        let many: Vec<(String, String)> = (0..90).map(|at| (format!("x{at}"), "1".to_owned())).collect();
        let lines: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
        let bytes: usize = lines.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        assert_eq!(fields(&lines).held_bytes(), bytes + 90 * 12);
    }

    proptest! {
        /// Lines are found as in a map, and the text itself reads as the same lines.
        #[test]
        fn fields_read_as_a_map_does(
            lines in prop::collection::vec(("[A-Ca-c]{1,2}", "[ -~]{0,6}"), 0..12),
            before in "[ -~]{0,4}",
        ) {
            let mut builder = Builder::new(0, 0);
            builder.append(&before);
            let mut map = HeaderMap::new();
            for (name, value) in &lines {
                let value = value.trim();
                builder.push(name, value.as_bytes()).unwrap();
                let name: HeaderName = name.parse().unwrap();
                map.append(name, value.parse().unwrap());
            }
            let fields = builder.finish();
            prop_assert_eq!(fields.len(), lines.len());
            for name in map.keys() {
                let values: Vec<&[u8]> = map.get_all(name).iter().map(HeaderValue::as_bytes).collect();
                prop_assert_eq!(fields.all(name).collect::<Vec<_>>(), values);
            }
            let again = Fields::within(fields.text.clone(), before.len()..fields.text.len()).unwrap();
            prop_assert!(again.iter().eq(fields.iter()));
        }

        #[test]
        fn any_bytes_are_lines_or_none(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = text.len();
            if let Some(fields) = Fields::within(text.into(), 0..bytes) {
                for (name, value) in fields.iter() {
                    prop_assert!(name.len() + value.len() <= bytes);
                }
            }
        }
    }
}
