//! Builds a head from the lines that HPACK decodes, judging each as it comes.
//!
//! A head that breaks a rule or a bound lets go of its text at once and has no room for what follows; HPACK goes on
//! without it.

use super::refusal::Refusal;
use super::rules::{self, Set};
use super::text::{Fields, Head, Pseudo, Span, Trailers, slice};
use crate::hpack::Line;
use crate::settings::{Config, FIELD_OVERHEAD};
use crate::work;

/// A head of a browser's request in one allocation, of which [`Head`] keeps what it needs.
const TEXT_BYTES: usize = 1024;

/// The bounds of one head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    text_bytes: usize,
    list_bytes: u32,
    fields: u16,
}

impl Bounds {
    /// Returns the bounds of a configuration.
    pub(crate) fn of(config: &Config) -> Bounds {
        Bounds {
            text_bytes: usize::try_from(config.head_bytes_max).unwrap_or(usize::MAX),
            list_bytes: config.header_list_bytes_max(),
            fields: config.head_fields_max,
        }
    }
}

/// The purpose of a header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The head of a request.
    Request,
    /// The trailer section of a request.
    Trailers,
    /// A block of a stream that is refused or gone: only its effect on HPACK counts.
    Nothing,
}

/// A head that is being decoded.
#[derive(Debug)]
pub(crate) struct Builder {
    purpose: Purpose,
    bounds: Bounds,
    pub(crate) text: Vec<u8>,
    fault: Option<Refusal>,
    fields: u16,
    list_bytes: u32,
    pseudo: [Option<Span>; 5],
    /// Where pseudo-header fields end and lines begin.
    lines_start: usize,
    host: Option<Line>,
    content_length: Option<u64>,
    urgency: u8,
    cookies: Cookies,
}

/// The place of cookie crumbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cookies {
    None,
    /// In one line, which ends here.
    Joined(usize),
    /// In several lines, to be joined at the end.
    Apart,
}

impl Builder {
    /// Returns a builder of nothing yet.
    pub(crate) fn new(purpose: Purpose, bounds: Bounds) -> Builder {
        let text_bytes = if purpose == Purpose::Request { TEXT_BYTES.min(bounds.text_bytes) } else { 0 };
        Builder {
            purpose,
            bounds,
            text: Vec::with_capacity(text_bytes),
            fault: None,
            fields: 0,
            list_bytes: 0,
            pseudo: [None; 5],
            lines_start: 0,
            host: None,
            content_length: None,
            urgency: 3,
            cookies: Cookies::None,
        }
    }

    /// Returns the bytes that name and value of the next field may have.
    pub(crate) fn room(&self) -> usize {
        match (self.purpose, self.fault) {
            (Purpose::Request | Purpose::Trailers, None) => {
                self.bounds.text_bytes.saturating_sub(self.text.len() + 4)
            }
            _ => 0,
        }
    }

    /// Takes note of a field that had no room.
    pub(crate) fn drop_field(&mut self) {
        if self.purpose != Purpose::Nothing {
            self.refuse(Refusal::TooLarge);
        }
    }

    /// Judges the line that was appended to the text.
    pub(crate) fn line(&mut self, line: Line) {
        if self.fault.is_some() || self.purpose == Purpose::Nothing {
            return self.text.clear();
        }
        if let Err(refusal) = self.judge(line) {
            self.refuse(refusal);
        }
    }

    /// Ends a head; `ends` if no body follows.
    pub(crate) fn finish_head(mut self, ends: bool, extended_connect: bool) -> Result<Head, Refusal> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.check_pseudo(extended_connect)?;
        if ends && self.content_length.is_some_and(|length| length > 0) {
            return Err(Refusal::Malformed("content-length without a body"));
        }
        self.lift_host()?;
        self.join_cookies();
        let lines_end = match self.pseudo.get(Pseudo::Authority as usize) {
            // A host that was lifted stands behind the lines.
            Some(Some(span)) if to_usize(span.start) >= self.lines_start => to_usize(span.start),
            _ => self.text.len(),
        };
        let lines = span(self.lines_start, lines_end.saturating_sub(self.lines_start));
        Ok(Head {
            text: self.text.into_boxed_slice(),
            pseudo: self.pseudo,
            lines,
            content_length: self.content_length,
            urgency: self.urgency,
        })
    }

    /// Ends a trailer section.
    pub(crate) fn finish_trailers(mut self) -> Result<Trailers, Refusal> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.join_cookies();
        Ok(Trailers { text: self.text.into_boxed_slice() })
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.fault.get_or_insert(refusal);
        self.text = Vec::new();
    }

    fn judge(&mut self, line: Line) -> Result<(), Refusal> {
        let bytes = u32::try_from(line.name + line.value).unwrap_or(u32::MAX);
        work::count(line.name + line.value);
        self.list_bytes = self.list_bytes.saturating_add(bytes).saturating_add(FIELD_OVERHEAD);
        let name = self.text.get(line.start..line.start + line.name).unwrap_or_default();
        let value = self.text.get(line.value_start()..line.value_start() + line.value).unwrap_or_default();
        if self.list_bytes > self.bounds.list_bytes || self.text.len() > self.bounds.text_bytes {
            return Err(Refusal::TooLarge);
        }
        if name.first() == Some(&b':') {
            let which = pseudo_of(name, value)?;
            return self.place_pseudo(which, line);
        }
        self.fields += 1;
        if self.fields > self.bounds.fields {
            return Err(Refusal::TooManyFields);
        }
        if name.is_empty() || !Set::NAME.has_all(name) {
            return Err(Refusal::Malformed("a field name is not a token in lower case"));
        }
        if !rules::is_value(value) {
            return Err(Refusal::Malformed("a field value has a control character"));
        }
        let line = self.trim_value(line);
        self.judge_field(line)
    }

    /// Removes white space around the value of the last line, which RFC 9113 section 8.2.1 forbids and HTTP/1.1 ignores.
    fn trim_value(&mut self, line: Line) -> Line {
        let start = line.value_start();
        let value = self.text.get(start..start + line.value).unwrap_or_default();
        let (from, length) = (value.len() - value.trim_ascii_start().len(), value.trim_ascii().len());
        if length == line.value {
            return line;
        }
        self.text.copy_within(start + from..start + from + length, start);
        self.text.truncate(start + length);
        self.text.extend_from_slice(b"\r\n");
        Line { value: length, ..line }
    }

    fn place_pseudo(&mut self, which: Pseudo, line: Line) -> Result<(), Refusal> {
        if self.purpose == Purpose::Trailers || self.fields > 0 {
            return Err(Refusal::Malformed("a pseudo-header field in trailers or behind other fields"));
        }
        let place = self.pseudo.get_mut(which as usize).ok_or(Refusal::Malformed("a pseudo-header field"))?;
        if place.replace(span(line.value_start(), line.value)).is_some() {
            return Err(Refusal::Malformed("a pseudo-header field comes twice"));
        }
        self.lines_start = line.end();
        Ok(())
    }

    fn judge_field(&mut self, line: Line) -> Result<(), Refusal> {
        let name = self.text.get(line.start..line.start + line.name).unwrap_or_default();
        let value = self.text.get(line.value_start()..line.value_start() + line.value).unwrap_or_default();
        match name {
            _ if rules::is_of_connection(name) => {
                return Err(Refusal::Malformed("a field that belongs to an HTTP/1.1 connection"));
            }
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => {
                return Err(Refusal::Malformed("te is not `trailers`"));
            }
            b"host" if !Set::AUTHORITY.has_all(value) || self.host.is_some() => {
                return Err(Refusal::Malformed("host is not one host and port"));
            }
            b"host" => self.host = Some(line),
            b"content-length" => {
                let length = rules::content_length(value);
                if length.is_none() || self.content_length.is_some() {
                    return Err(Refusal::Malformed("content-length is not one number"));
                }
                self.content_length = length;
            }
            b"priority" => self.urgency = rules::urgency(value).unwrap_or(self.urgency),
            b"cookie" => self.join_crumb(line),
            _ => {}
        }
        Ok(())
    }

    /// Joins a crumb to the one before it; one that stands apart waits for the end, so that no text is moved twice.
    fn join_crumb(&mut self, line: Line) {
        self.cookies = match self.cookies {
            Cookies::None => Cookies::Joined(line.end()),
            Cookies::Joined(end) if end == line.start => {
                if let Some(gap) = self.text.get_mut(end - 2..end) {
                    gap.copy_from_slice(b"; ");
                }
                self.text.drain(line.start..line.value_start());
                Cookies::Joined(self.text.len())
            }
            Cookies::Joined(_) | Cookies::Apart => Cookies::Apart,
        };
    }

    fn join_cookies(&mut self) {
        if self.cookies != Cookies::Apart {
            return;
        }
        work::count(self.text.len());
        let lines_end = match self.pseudo.get(Pseudo::Authority as usize) {
            Some(Some(span)) if to_usize(span.start) >= self.lines_start => to_usize(span.start),
            _ => self.text.len(),
        };
        let mut joined = Vec::with_capacity(self.text.len());
        joined.extend_from_slice(self.text.get(..self.lines_start).unwrap_or_default());
        let lines = self.text.get(self.lines_start..lines_end).unwrap_or_default();
        for field in (Fields { lines }).filter(|field| field.name != b"cookie") {
            push_line(&mut joined, field.name, field.value);
        }
        let mut prefix: &[u8] = b"cookie: ";
        for field in (Fields { lines }).filter(|field| field.name == b"cookie") {
            joined.extend_from_slice(prefix);
            joined.extend_from_slice(field.value);
            prefix = b"; ";
        }
        joined.extend_from_slice(b"\r\n");
        let lifted = self.text.get(lines_end..).unwrap_or_default();
        if let Some(Some(authority)) = self.pseudo.get_mut(Pseudo::Authority as usize)
            && to_usize(authority.start) >= self.lines_start
        {
            *authority = span(joined.len(), lifted.len());
        }
        joined.extend_from_slice(lifted);
        self.text = joined;
    }

    /// Takes `host` out of the lines: beside `:authority` it has to say the same, alone it is the authority.
    fn lift_host(&mut self) -> Result<(), Refusal> {
        let Some(line) = self.host else { return Ok(()) };
        let value_end = line.value_start() + line.value;
        let host = self.text.get(line.value_start()..value_end).unwrap_or_default().to_vec();
        match self.pseudo(Pseudo::Authority) {
            Some(authority) => {
                let scheme = self.pseudo(Pseudo::Scheme).unwrap_or_default();
                if !rules::is_same_authority(authority, &host, scheme) {
                    return Err(Refusal::Malformed("host differs from :authority"));
                }
                self.text.drain(line.start..line.end());
            }
            None => {
                self.text.drain(line.start..line.end());
                let start = self.text.len();
                self.text.extend_from_slice(&host);
                if let Some(place) = self.pseudo.get_mut(Pseudo::Authority as usize) {
                    *place = Some(span(start, host.len()));
                }
            }
        }
        Ok(())
    }

    fn pseudo(&self, which: Pseudo) -> Option<&[u8]> {
        let span = (*self.pseudo.get(which as usize)?)?;
        Some(slice(&self.text, span))
    }

    /// Checks which pseudo-header fields came together (RFC 9113 sections 8.3.1 and 8.5, RFC 8441 section 4).
    fn check_pseudo(&self, extended_connect: bool) -> Result<(), Refusal> {
        let method = self.pseudo(Pseudo::Method).ok_or(Refusal::Malformed("no :method"))?;
        let (scheme, path) = (self.pseudo(Pseudo::Scheme), self.pseudo(Pseudo::Path));
        let protocol = self.pseudo(Pseudo::Protocol);
        if protocol.is_some() && !(method == b"CONNECT" && extended_connect) {
            return Err(Refusal::Malformed(":protocol without extended CONNECT"));
        }
        let host = self
            .pseudo(Pseudo::Authority)
            .map_or_else(|| self.host.is_some_and(|line| line.value > 0), |authority| !authority.is_empty());
        if !host {
            return Err(Refusal::Malformed("no :authority and no host"));
        }
        if method == b"CONNECT" && protocol.is_none() {
            let is_plain = scheme.is_none() && path.is_none() && self.pseudo(Pseudo::Authority).is_some();
            return is_plain
                .then_some(())
                .ok_or(Refusal::Malformed("CONNECT has :authority and nothing else"));
        }
        let scheme = scheme.ok_or(Refusal::Malformed("no :scheme"))?;
        if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
            return Err(Refusal::Malformed(":scheme is neither http nor https"));
        }
        let path = path.ok_or(Refusal::Malformed("no :path"))?;
        if path.first() == Some(&b'/') || (path == b"*" && method == b"OPTIONS") {
            Ok(())
        } else {
            Err(Refusal::Malformed(":path is not a path"))
        }
    }
}

/// Returns which pseudo-header field this is, if its value may be one.
fn pseudo_of(name: &[u8], value: &[u8]) -> Result<Pseudo, Refusal> {
    let (which, is_valid) = match name {
        b":method" => (Pseudo::Method, !value.is_empty() && Set::TOKEN.has_all(value)),
        b":scheme" => (Pseudo::Scheme, Set::TOKEN.has_all(value)),
        b":authority" => (Pseudo::Authority, Set::AUTHORITY.has_all(value)),
        b":path" => (Pseudo::Path, rules::is_target(value)),
        b":protocol" => (Pseudo::Protocol, !value.is_empty() && Set::TOKEN.has_all(value)),
        _ => return Err(Refusal::Malformed("a pseudo-header field that no request has")),
    };
    if is_valid {
        Ok(which)
    } else {
        Err(Refusal::Malformed("a pseudo-header field has a forbidden character"))
    }
}

fn push_line(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    text.extend_from_slice(name);
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

fn span(start: usize, length: usize) -> Span {
    let narrow = |number| u32::try_from(number).unwrap_or(u32::MAX);
    Span { start: narrow(start), length: narrow(length) }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "app")];

    fn builder(purpose: Purpose, bounds: Bounds, fields: &[(&str, &str)]) -> Builder {
        let mut builder = Builder::new(purpose, bounds);
        for (name, value) in fields {
            if name.len() + value.len() > builder.room() {
                builder.drop_field();
                continue;
            }
            let line = Line { start: builder.text.len(), name: name.len(), value: value.len() };
            push_line(&mut builder.text, name.as_bytes(), value.as_bytes());
            builder.line(line);
        }
        builder
    }

    fn head(fields: &[(&str, &str)]) -> Result<Head, Refusal> {
        builder(Purpose::Request, Bounds::of(&Config::default()), fields).finish_head(false, false)
    }

    fn lines(fields: &[(&str, &str)]) -> String {
        String::from_utf8(head(&[&GET, fields].concat()).unwrap().lines().to_vec()).unwrap()
    }

    #[test]
    fn a_head_has_its_pseudo_fields_apart_and_its_fields_as_lines() {
        let head = head(&[&GET[..], &[("accept", "*/*"), ("x-empty", ""), ("priority", "i, u=1")]].concat())
            .unwrap();
        assert_eq!(
            (head.method(), head.scheme(), head.path(), head.authority()),
            (&b"GET"[..], Some(&b"https"[..]), Some(&b"/"[..]), &b"app"[..])
        );
        assert_eq!(head.lines(), b"accept: */*\r\nx-empty: \r\npriority: i, u=1\r\n");
        assert_eq!(
            (head.get(b"accept"), head.get(b"x-empty"), head.get(b"host")),
            (Some(&b"*/*"[..]), Some(&b""[..]), None)
        );
        assert_eq!((head.urgency(), head.content_length(), head.protocol()), (1, None, None));
    }

    #[test]
    fn cookie_crumbs_are_one_line_wherever_they_stand() {
        assert_eq!(
            lines(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3"), ("x", "y")]),
            "cookie: a=1; b=2; c=3\r\nx: y\r\n"
        );
        let apart = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", ""), ("z", "")];
        assert_eq!(lines(&apart), "x: y\r\nz: \r\ncookie: a=1; b=2; \r\n");
        let with_host =
            [&GET[..3], &[("host", "app"), ("cookie", "a"), ("x", "y"), ("cookie", "b")]].concat();
        let head = head(&with_host).unwrap();
        assert_eq!((head.authority(), head.lines()), (&b"app"[..], &b"x: y\r\ncookie: a; b\r\n"[..]));
    }

    #[test]
    fn host_is_the_authority_or_says_the_same() {
        assert_eq!(lines(&[("x", "y"), ("host", "APP:443"), ("z", "")]), "x: y\r\nz: \r\n");
        let alone = head(&[&GET[..3], &[("x", "y"), ("host", "other:81"), ("z", "")]].concat()).unwrap();
        assert_eq!((alone.authority(), alone.lines()), (&b"other:81"[..], &b"x: y\r\nz: \r\n"[..]));
        for host in ["other", "app:80", "app:444", "a/b", ""] {
            assert!(head(&[&GET[..], &[("host", host)]].concat()).is_err(), "{host}");
        }
    }

    #[test]
    fn heads_that_rfc_9113_does_not_allow_are_malformed() {
        let with = |name, value| [&GET[..], &[(name, value)]].concat();
        let replaced = |name: &'static str, value: &'static str| {
            GET.iter().map(|field| if field.0 == name { (name, value) } else { *field }).collect::<Vec<_>>()
        };
        let without = |name: &str| GET.iter().copied().filter(|field| field.0 != name).collect::<Vec<_>>();
        let mut cases =
            vec![vec![], with(":path", "/twice"), with(":status", "200"), with(":", ""), with("", "x")];
        cases.extend(
            ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"]
                .map(|name| with(name, "x")),
        );
        cases.extend(
            [
                ("te", "gzip"),
                ("te", "trailers, gzip"),
                ("X-Upper", "1"),
                ("a b", "1"),
                ("a:b", "1"),
                ("é", "1"),
            ]
            .map(|(name, value)| with(name, value)),
        );
        cases.extend(["a\rb", "a\nb", "a\0b", "\x01", "\x7f", "\na"].map(|value| with("x", value)));
        cases.extend(
            ["x", "-1", "+1", "1,1", "", "99999999999999999999"].map(|value| with("content-length", value)),
        );
        cases.push([with("content-length", "1"), vec![("content-length", "1")]].concat());
        cases.extend([":method", ":scheme", ":path", ":authority"].map(without));
        cases.extend(["", "G T", "GET\r"].map(|value| replaced(":method", value)));
        cases.extend(["", "ftp", "ht tp"].map(|value| replaced(":scheme", value)));
        cases.extend(
            ["", "x", "*", "http://app/", "/a b", "/a\tb", "/#", "/\x7f"]
                .map(|value| replaced(":path", value)),
        );
        cases.extend(["", "a@b", "a/b", "a b", "a\"b"].map(|value| replaced(":authority", value)));
        cases.push([&[("x", "y")], &GET[..]].concat());
        cases.push(replaced(":method", "CONNECT"));
        cases.push(vec![(":method", "CONNECT"), ("host", "app:1")]);
        cases.push([&[(":method", "CONNECT")], &GET[1..], &[(":protocol", "websocket")]].concat());
        cases.push([&GET[..], &[(":protocol", "websocket")]].concat());
        for case in cases {
            assert!(matches!(head(&case), Err(Refusal::Malformed(_))), "{case:?}: {:?}", head(&case));
        }
        let ended = builder(Purpose::Request, Bounds::of(&Config::default()), &with("content-length", "1"));
        assert!(ended.finish_head(true, false).is_err());
    }

    #[test]
    fn what_http_1_takes_in_a_target_and_forms_that_are_rare_pass() {
        let path = |value| {
            GET.iter()
                .map(|field| if field.0 == ":path" { (":path", value) } else { *field })
                .collect::<Vec<_>>()
        };
        for value in ["/\"<>^`{|}\\[]", "/é?ü=\u{80}", "//", "/%00", "/?a=http://b/"] {
            assert_eq!(head(&path(value)).unwrap().path(), Some(value.as_bytes()));
        }
        head(&[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "a")]).unwrap();
        head(&[&GET[..], &[("te", "trailers"), ("x", "a\tb é")]].concat()).unwrap();
        let connect = head(&[(":method", "CONNECT"), (":authority", "a:1")]).unwrap();
        assert_eq!((connect.path(), connect.scheme(), connect.authority()), (None, None, &b"a:1"[..]));
        let extended = [&[(":method", "CONNECT"), (":protocol", "websocket")], &GET[1..]].concat();
        let extended = builder(Purpose::Request, Bounds::of(&Config::default()), &extended)
            .finish_head(false, true)
            .unwrap();
        assert_eq!((extended.protocol(), extended.path()), (Some(&b"websocket"[..]), Some(&b"/"[..])));
    }

    #[test]
    fn trailers_have_fields_and_nothing_else() {
        let trailers = |fields: &[(&str, &str)]| {
            builder(Purpose::Trailers, Bounds::of(&Config::default()), fields).finish_trailers()
        };
        assert_eq!(
            trailers(&[("grpc-status", "0"), ("x", "")]).unwrap().lines(),
            b"grpc-status: 0\r\nx: \r\n"
        );
        for refused in [(":path", "/"), (":status", "200"), ("connection", "close"), ("X", "y"), ("x", "\n")]
        {
            assert!(trailers(&[refused]).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn fields_are_counted_one_by_one_and_bytes_are_bounded() {
        let bounds = Bounds::of(&Config { head_bytes_max: 4096, ..Config::default() });
        let many =
            |count: usize, field: (&'static str, &'static str)| [&GET[..], &vec![field; count]].concat();
        for field in [("x", "y"), ("cookie", "a"), ("cookie", ""), ("x", "")] {
            assert!(
                builder(Purpose::Request, bounds, &many(100, field)).finish_head(true, false).is_ok(),
                "{field:?}"
            );
            let over = builder(Purpose::Request, bounds, &many(101, field));
            assert_eq!((over.text.capacity(), over.room()), (0, 0), "nothing is held");
            assert_eq!(over.finish_head(true, false), Err(Refusal::TooManyFields), "{field:?}");
        }
        let long = "v".repeat(3000);
        let fits = [&GET[..], &[("x", long.as_str())]].concat();
        assert!(builder(Purpose::Request, bounds, &fits).finish_head(true, false).is_ok());
        let over = [&fits[..], &[("x", long.as_str()), ("y", "z")]].concat();
        let over = builder(Purpose::Request, bounds, &over);
        assert_eq!((over.text.capacity(), over.room()), (0, 0), "nothing is held");
        assert_eq!(over.finish_head(true, false), Err(Refusal::TooLarge));
        let list = Bounds { list_bytes: 200, ..bounds };
        assert_eq!(
            builder(Purpose::Request, list, &many(3, ("x", "y"))).finish_head(true, false),
            Err(Refusal::TooLarge)
        );
    }

    #[test]
    fn crumbs_that_stand_apart_cost_linear_work() {
        let bounds =
            Bounds::of(&Config { head_fields_max: 10_000, head_bytes_max: 1 << 20, ..Config::default() });
        let fields = [&GET[..], &[("cookie", "a"), ("x", "y")].repeat(5_000)].concat();
        work::taken();
        let head = builder(Purpose::Request, bounds, &fields).finish_head(true, false).unwrap();
        assert!(work::taken() <= 3 * head.heap_bytes() + 100_000);
        assert_eq!(head.fields().count(), 5_001);
    }
}
