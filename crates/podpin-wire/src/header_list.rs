//! Header fields of a message on its way out: those that came in, edited in place, and those that the proxy adds.
//!
//! Names and values are borrowed from where they stand; what is written anew shares one piece of memory. Look-up is by comparison: a head
//! has a dozen fields, and no more than [`FIELDS_MAX`](crate::http1::request_head::FIELDS_MAX).

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Header fields in the order in which they are sent, with names in lower case.
#[derive(Clone, Debug, Default)]
pub struct HeaderList<'a> {
    lines: Vec<Line<'a>>,
    /// Values that were written for this message, one behind the other.
    written: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    name: &'a [u8],
    value: Value<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Borrowed(&'a [u8]),
    /// A place in `written`.
    Written {
        start: usize,
        end: usize,
    },
}

impl<'a> HeaderList<'a> {
    /// Returns no fields, with room for so many, and for so many bytes of values that will be written.
    #[must_use]
    pub fn with_capacity(lines: usize, written: usize) -> HeaderList<'a> {
        HeaderList { lines: Vec::with_capacity(lines), written: Vec::with_capacity(written) }
    }

    /// Adds a field behind the others.
    pub fn append(&mut self, name: &'a [u8], value: &'a [u8]) {
        self.lines.push(Line { name, value: Value::Borrowed(value) });
    }

    /// Sets a field in the place of all of its name.
    pub fn insert(&mut self, name: &'a [u8], value: &'a [u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Sets a field in the place of all of its name, whose value `write` appends to what it is given; if it appends nothing, the fields
    /// stay as they are.
    pub fn insert_written(&mut self, name: &'a [u8], write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.written.len();
        write(&mut self.written);
        let end = self.written.len();
        if end > start {
            self.remove(name);
            self.lines.push(Line { name, value: Value::Written { start, end } });
        }
    }

    /// Removes all fields of a name.
    pub fn remove(&mut self, name: &[u8]) {
        self.lines.retain(|line| line.name != name);
    }

    /// Returns the value of the first field of a name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.lines.iter().find(|line| line.name == name).map(|line| line.value.of(&self.written))
    }

    /// Returns whether there is a field of this name.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        self.lines.iter().any(|line| line.name == name)
    }

    /// Returns name and value of each field.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &[u8])> {
        self.lines.iter().map(|line| (line.name, line.value.of(&self.written)))
    }

    /// Puts what `rewrite` returns in the place of each value of a name; `None` leaves the field out.
    pub fn rewrite(&mut self, name: &[u8], rewrite: impl Fn(&[u8]) -> Option<Cow<'_, [u8]>>) {
        let HeaderList { lines, written } = self;
        lines.retain_mut(|line| {
            if line.name != name {
                return true;
            }
            match rewrite(line.value.of(written)) {
                None => return false,
                Some(Cow::Borrowed(_)) => {}
                Some(Cow::Owned(value)) => {
                    let start = written.len();
                    written.extend_from_slice(&value);
                    line.value = Value::Written { start, end: written.len() };
                }
            }
            true
        });
    }

    /// Appends the fields in HTTP/1.1, with the customary capitals.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            crate::http1::encode::write_field(out, name, value);
        }
    }

    /// Returns the fields as a map.
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for (name, value) in self.iter() {
            // Anything else was refused when it was read.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        }
        map
    }
}

impl<'a> Value<'a> {
    fn of(self, written: &'a [u8]) -> &'a [u8] {
        match self {
            Value::Borrowed(value) => value,
            Value::Written { start, end } => written.get(start..end).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: &HeaderList<'_>) -> String {
        let mut out = Vec::new();
        list.write(&mut out);
        String::from_utf8(out).unwrap().replace("\r\n", "|")
    }

    #[test]
    fn fields_are_set_added_and_removed_by_name() {
        let mut list = HeaderList::with_capacity(0, 0);
        list.append(b"accept", b"a");
        list.append(b"cookie", b"b");
        list.append(b"accept", b"c");
        list.insert_written(b"x-real-ip", |out| out.extend_from_slice(b"192.0.2.1"));
        assert_eq!(shown(&list), "Accept: a|Cookie: b|Accept: c|X-Real-Ip: 192.0.2.1|");
        assert_eq!(list.get(b"accept"), Some(&b"a"[..]));
        list.insert(b"accept", b"d");
        list.insert_written(b"x-real-ip", |out| out.extend_from_slice(b"::1"));
        list.insert_written(b"accept", |_| {});
        list.remove(b"cookie");
        assert_eq!(shown(&list), "Accept: d|X-Real-Ip: ::1|");
        assert!(!list.contains(b"cookie"));
        assert_eq!(list.to_map().get("x-real-ip").unwrap(), "::1");
    }

    #[test]
    fn a_value_is_rewritten_any_number_of_times() {
        let mut list = HeaderList::with_capacity(0, 0);
        for value in [&b"abc"[..], b"b", b"ac"] {
            list.append(b"cookie", value);
        }
        fn without(gone: u8, value: &[u8]) -> Option<Cow<'_, [u8]>> {
            let left: Vec<u8> = value.iter().copied().filter(|byte| *byte != gone).collect();
            (!left.is_empty()).then_some(Cow::Owned(left))
        }
        list.rewrite(b"cookie", |value| without(b'b', value));
        assert_eq!(shown(&list), "Cookie: ac|Cookie: ac|");
        list.rewrite(b"cookie", |value| without(b'a', value));
        list.rewrite(b"cookie", |value| Some(Cow::Borrowed(value)));
        assert_eq!(shown(&list), "Cookie: c|Cookie: c|");
    }
}
