//! The text of a head, and how it is read.

use std::ops::Range;

/// A field of a head or trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, in lower case where it was received.
    pub name: &'a [u8],
    /// The value, without white space around it.
    pub value: &'a [u8],
}

impl<'a> Field<'a> {
    /// Returns a field of these bytes.
    #[must_use]
    pub fn new(name: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Field<'a> {
        Field { name: name.as_ref(), value: value.as_ref() }
    }
}

/// A place in the text of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) length: u32,
}

/// The pseudo-header fields of a request, in the order of their spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
}

/// The head of a request that keeps every rule of RFC 9113 sections 8.2 and 8.3.
///
/// ```
/// # use std::sync::Arc;
/// # use podpin_h2::{Config, Connection, Event, Millis, Trust};
/// # let (mut out, now) = (Vec::new(), Millis(0));
/// # let mut connection = Connection::accept(Arc::new(Config::default()), Trust::Client, now, &mut out);
/// # let mut input: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
/// #     \0\0\x18\x01\x05\0\0\0\x01\x82\x86\x84\x41\x03app\x60\x03a=1\x60\x03b=2\x53\x03*/*\x90";
/// # let Some(Event::Request { head, .. }) = connection.receive(now, &mut input, &mut out) else { panic!() };
/// // `GET /` of `app`, two crumbs of a cookie, `accept: */*`, and `accept-encoding` from the static table.
/// assert_eq!((head.method(), head.path(), head.authority()), (&b"GET"[..], Some(&b"/"[..]), &b"app"[..]));
/// assert_eq!(head.lines(), b"cookie: a=1; b=2\r\naccept: */*\r\naccept-encoding: gzip, deflate\r\n");
/// assert_eq!(head.get(b"accept"), Some(&b"*/*"[..]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub(super) text: Box<[u8]>,
    pub(super) pseudo: [Option<Span>; 5],
    pub(super) lines: Span,
    pub(super) content_length: Option<u64>,
    pub(super) urgency: u8,
}

impl Head {
    /// Returns the method, a token.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.pseudo(Pseudo::Method).unwrap_or_default()
    }

    /// Returns the scheme, `http` or `https`; `None` if this is a plain CONNECT.
    #[must_use]
    pub fn scheme(&self) -> Option<&[u8]> {
        self.pseudo(Pseudo::Scheme)
    }

    /// Returns host and port as the client wrote them, in `:authority` or `host`.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        self.pseudo(Pseudo::Authority).unwrap_or_default()
    }

    /// Returns path and query, or `*`; `None` if this is a plain CONNECT. Any byte but spaces, controls and `#` may
    /// stand in it, those above 0x7f included.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        self.pseudo(Pseudo::Path)
    }

    /// Returns the protocol of an extended CONNECT (RFC 8441).
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        self.pseudo(Pseudo::Protocol)
    }

    /// Returns the length that the client gave the body.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Returns the urgency of the `priority` field, 0 (first) to 7; 3 if there is none (RFC 9218 section 4.1).
    #[must_use]
    pub fn urgency(&self) -> u8 {
        self.urgency
    }

    /// Returns the fields as HTTP/1.1 lines, without a blank line.
    #[must_use]
    pub fn lines(&self) -> &[u8] {
        slice(&self.text, self.lines)
    }

    /// Returns the fields, each once.
    #[must_use]
    pub fn fields(&self) -> Fields<'_> {
        Fields { lines: self.lines() }
    }

    /// Returns the value of the first field of this name, which is in lower case.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields().find(|field| field.name == name).map(|field| field.value)
    }

    /// Returns the bytes of heap that the head occupies.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns the text of the head, and where the path, the authority and the lines of [`Head::lines`] stand in it.
    #[must_use]
    pub fn into_text(self) -> HeadText {
        let place = |which: Pseudo| self.pseudo.get(which as usize).copied().flatten().map(bounds);
        let (path, authority) = (place(Pseudo::Path), place(Pseudo::Authority));
        let lines = bounds(self.lines);
        HeadText { path, authority: authority.unwrap_or_default(), lines, text: self.text }
    }

    fn pseudo(&self, which: Pseudo) -> Option<&[u8]> {
        let span = (*self.pseudo.get(which as usize)?)?;
        Some(slice(&self.text, span))
    }
}

/// The memory of a head, and the places of its parts in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadText {
    /// All parts, in any order.
    pub text: Box<[u8]>,
    /// Place of path and query; `None` if this is a plain CONNECT.
    pub path: Option<Range<usize>>,
    /// Place of host and port.
    pub authority: Range<usize>,
    /// Place of the fields, as HTTP/1.1 lines without a blank line.
    pub lines: Range<usize>,
}

/// The trailer section of a request, without pseudo-header fields and fields of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailers {
    pub(super) text: Box<[u8]>,
}

impl Trailers {
    /// Returns the fields as HTTP/1.1 lines.
    #[must_use]
    pub fn lines(&self) -> &[u8] {
        &self.text
    }

    /// Returns the fields, each once.
    #[must_use]
    pub fn fields(&self) -> Fields<'_> {
        Fields { lines: &self.text }
    }
}

/// An iterator over the fields of lines.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    pub(super) lines: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let colon = memchr::memchr(b':', self.lines)?;
        let (name, rest) = self.lines.split_at_checked(colon)?;
        let end = memchr::memchr(b'\r', rest)?;
        self.lines = rest.get(end + 2..).unwrap_or_default();
        Some(Field { name, value: rest.get(2..end).unwrap_or_default() })
    }
}

/// Returns the text of a place.
pub(super) fn slice(text: &[u8], span: Span) -> &[u8] {
    text.get(bounds(span)).unwrap_or_default()
}

fn bounds(span: Span) -> Range<usize> {
    let to_usize = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
    to_usize(span.start)..to_usize(span.start).saturating_add(to_usize(span.length))
}
