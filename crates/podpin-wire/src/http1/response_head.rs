//! The head of a response, as an endpoint sends it, and how the body after it is framed.
//!
//! Framing follows RFC 9112 section 6; what is ambiguous there (`Content-Length` beside `Transfer-Encoding`, differing
//! lengths) is refused.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::http1::body::{BodyDecoder, FIRST_CHUNK};
use crate::http1::request_head::{self, FIELDS_MAX};

/// The reason why bytes are no HTTP/1 response that may be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed response: {0}")]
pub struct ResponseError(pub &'static str);

/// A response head larger than this is refused; pods send a few hundred bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of empty lines before a head, of which httparse skips any number.
const EMPTY_BYTES_MAX: usize = 8;
/// Bytes of interim responses (100, 102, 103) before the final one, of which there may be any number.
const INTERIM_BYTES_MAX: usize = 64 * 1024;

/// The head of a response.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status of the response.
    pub status: StatusCode,
    /// Header fields, as they came.
    pub headers: HeaderMap,
    /// The connection may carry another request afterwards (RFC 9112 section 9.3).
    pub keep_alive: bool,
}

impl ResponseHead {
    /// Returns whether this is 200 and `text/event-stream`, encoded or not.
    pub fn is_event_stream(&self) -> bool {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        self.status == StatusCode::OK && essence.eq_ignore_ascii_case("text/event-stream")
    }

    /// Returns whether this is an event stream whose framing can be read: not encoded.
    #[must_use]
    pub fn is_plain_event_stream(&self) -> bool {
        let is_identity =
            |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
        self.is_event_stream() && self.headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity)
    }
}

/// A response head that is complete.
#[derive(Debug)]
pub struct ParsedHead {
    /// Bytes of the head, its empty line included.
    pub length: usize,
    /// The head itself.
    pub head: ResponseHead,
    /// The framing of the body behind it.
    pub body: BodyDecoder,
}

/// The final response, as far as it was read with its head.
#[derive(Debug)]
pub struct ResponseStart {
    /// The head itself.
    pub head: ResponseHead,
    /// The framing of the body.
    pub body: BodyDecoder,
    /// Bytes of the body that came with the head.
    pub rest: Vec<u8>,
}

/// Reads the final response head out of any chunking, past a bounded number of interim responses.
///
/// Nothing is held while a head is in one piece, which is the rule.
#[derive(Debug)]
pub struct ResponseHeadReader {
    method: Method,
    /// Whether the request offers another protocol.
    offers_upgrade: bool,
    /// Bytes of an incomplete head.
    incoming: Vec<u8>,
    /// Bytes of interim responses so far.
    interim: usize,
}

impl ResponseHeadReader {
    /// Returns a reader of the response to a request with `method`.
    #[must_use]
    pub fn new(method: Method) -> ResponseHeadReader {
        ResponseHeadReader { method, offers_upgrade: false, incoming: Vec::new(), interim: 0 }
    }

    /// Returns a reader of the response to a request with `method` that offers another protocol: 101 is a final response,
    /// behind which there is no HTTP.
    #[must_use]
    pub fn with_offer(method: Method) -> ResponseHeadReader {
        ResponseHeadReader { offers_upgrade: true, ..ResponseHeadReader::new(method) }
    }

    /// Returns whether no byte of a response has come.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.interim == 0 && self.incoming.is_empty()
    }

    /// Takes bytes as they come; `None` if the final head is still incomplete. Interim responses go to `interim`.
    ///
    /// # Errors
    /// If a head is malformed or larger than [`HEAD_BYTES_MAX`], interim responses pass
    /// 64 KiB, or the protocol is switched without an offer.
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut interim: impl FnMut(ResponseHead),
    ) -> Result<Option<ResponseStart>, ResponseError> {
        let joined;
        let mut bytes = bytes;
        if !self.incoming.is_empty() {
            let parsed = self.incoming.len();
            self.incoming.extend_from_slice(bytes);
            if self.incoming.len() < HEAD_BYTES_MAX && !is_worth_parsing(&self.incoming, parsed) {
                return Ok(None);
            }
            joined = std::mem::take(&mut self.incoming);
            bytes = &joined;
        }
        while let Some(ParsedHead { length, head, body }) = parse_head(bytes, &self.method)? {
            bytes = bytes.get(length..).unwrap_or_default();
            if !head.status.is_informational() {
                return Ok(Some(ResponseStart { head, body, rest: bytes.to_vec() }));
            }
            if self.offers_upgrade && head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some(ResponseStart { head, body: BodyDecoder::UntilClose, rest: bytes.to_vec() }));
            }
            self.interim += length;
            if self.interim > INTERIM_BYTES_MAX || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(ResponseError("unexpected interim responses"));
            }
            interim(head);
        }
        if bytes.len() >= HEAD_BYTES_MAX {
            return Err(ResponseError("the response head is too large"));
        }
        self.incoming = bytes.to_vec();
        Ok(None)
    }
}

/// Returns whether a head that was incomplete in the first `parsed` bytes should be parsed again: an empty line has come,
/// or twice as many bytes are there, which may be malformed. So a head that comes byte by byte costs linear time.
#[must_use]
pub fn is_worth_parsing(buffer: &[u8], parsed: usize) -> bool {
    let new = buffer.get(parsed.saturating_sub(2)..).unwrap_or_default();
    let has_doubled = buffer.len().checked_ilog2() > parsed.checked_ilog2();
    has_doubled || new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

/// Parses the head of a response to a request with `method`; `None` if it is still incomplete.
///
/// # Errors
/// If it is malformed, or its body has no clear end.
pub fn parse_head(buffer: &[u8], method: &Method) -> Result<Option<ParsedHead>, ResponseError> {
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    // Each empty line would bring another look.
    if buffer.get(..EMPTY_BYTES_MAX).is_some_and(|start| start.iter().all(|byte| b"\r\n".contains(byte))) {
        return Err(ResponseError("there are empty lines before the response"));
    }
    let length = match httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        buffer,
        &mut lines,
    ) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError("too many header lines")),
        Err(_) => return Err(ResponseError("the response head is not HTTP/1.1")),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(ResponseError("the status is not a number from 100 to 999"))?;
    let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 4);
    for line in response.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = request_head::shared_value(&bytes, buffer, line.value);
        let (Ok(name), Some(value)) = (name, value) else {
            return Err(ResponseError("a header line is malformed"));
        };
        headers.append(name, value);
    }
    let minor = response.version.unwrap_or(0);
    let body = framing(status, minor, method, &headers)?;
    let keep_alive = keeps_alive(minor, &headers);
    Ok(Some(ParsedHead { length, head: ResponseHead { status, headers, keep_alive }, body }))
}

fn keeps_alive(minor: u8, headers: &HeaderMap) -> bool {
    let says = |token| {
        let mut lists = headers.get_all(header::CONNECTION).iter();
        lists.any(|list| request_head::has_token(list.as_bytes(), token))
    };
    if minor == 0 { says(b"keep-alive") && !says(b"close") } else { !says(b"close") }
}

/// How the body of a response is framed (RFC 9112 section 6.3).
fn framing(
    status: StatusCode,
    minor: u8,
    method: &Method,
    headers: &HeaderMap,
) -> Result<BodyDecoder, ResponseError> {
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(BodyDecoder::Done);
    }
    let lengths = headers.get_all(header::CONTENT_LENGTH);
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || minor == 0 {
            return Err(ResponseError("Transfer-Encoding is not exactly `chunked`"));
        }
        if lengths.iter().next().is_some() {
            return Err(ResponseError("Content-Length beside Transfer-Encoding"));
        }
        return Ok(if method == Method::HEAD {
            BodyDecoder::Done
        } else {
            BodyDecoder::Chunked(FIRST_CHUNK)
        });
    }
    let mut length = None;
    for value in lengths {
        let number = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.and_then(|text| text.parse::<u64>().ok());
        if number.is_none() || length.is_some_and(|known| Some(known) != number) {
            return Err(ResponseError("Content-Length is not one number"));
        }
        length = number;
    }
    Ok(match length {
        _ if method == Method::HEAD => BodyDecoder::Done,
        Some(0) => BodyDecoder::Done,
        Some(left) => BodyDecoder::Length(left),
        None => BodyDecoder::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<Option<ParsedHead>, ResponseError> {
        parse_head(text.as_bytes(), &Method::GET)
    }

    #[test]
    fn ambiguous_framing_of_a_response_is_refused() {
        for lines in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: -1\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let result = head(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
            assert!(matches!(result, Err(ResponseError(_))), "{lines}: {result:?}");
        }
    }

    #[test]
    fn the_body_is_framed_as_the_head_says() {
        let cases = [
            ("HTTP/1.1 200 OK\r\n\r\n", BodyDecoder::UntilClose),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", BodyDecoder::Length(3)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", BodyDecoder::Chunked(FIRST_CHUNK)),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", BodyDecoder::Done),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", BodyDecoder::Done),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", BodyDecoder::Done),
        ];
        for (text, expected) in cases {
            assert_eq!(head(text).unwrap().unwrap().body, expected, "{text:?}");
        }
        for framing in ["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            let text = format!("HTTP/1.1 200 OK\r\n{framing}\r\n");
            let parsed = parse_head(text.as_bytes(), &Method::HEAD).unwrap().unwrap();
            assert_eq!(parsed.body, BodyDecoder::Done);
        }
        assert!(head("HTTP/1.1 200 OK\r\nA: b\r\n").unwrap().is_none());
        assert!(head("SIP/2.0 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_connection_goes_on_as_version_and_connection_say() {
        let cases = [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", true),
        ];
        for (text, expected) in cases {
            assert_eq!(head(text).unwrap().unwrap().head.keep_alive, expected, "{text:?}");
        }
    }

    #[test]
    fn the_final_head_is_found_behind_interim_ones_in_any_pieces() {
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab";
        for step in [1, 7, text.len()] {
            let mut reader = ResponseHeadReader::new(Method::GET);
            let mut interim = Vec::new();
            let mut pieces = text.chunks(step);
            let start = pieces
                .by_ref()
                .find_map(|piece| reader.push(piece, |head| interim.push(head.status.as_u16())).unwrap());
            let start = start.unwrap();
            let body = [start.rest, pieces.flatten().copied().collect()].concat();
            assert_eq!((interim, start.body, body), (vec![100, 103], BodyDecoder::Length(3), b"ab".to_vec()));
        }
    }

    #[test]
    fn interim_responses_and_the_bytes_of_a_head_are_bounded() {
        let mut reader = ResponseHeadReader::new(Method::GET);
        assert!(reader.is_untouched());
        let one = "HTTP/1.1 102 Processing\r\n\r\n";
        let mut count = 0;
        for _ in 0..INTERIM_BYTES_MAX / one.len() {
            assert!(reader.push(one.as_bytes(), |_| count += 1).unwrap().is_none() && !reader.is_untouched());
        }
        assert!(count > 1_000, "{count}");
        assert!(reader.push(one.as_bytes(), drop).is_err());
        let switched = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        assert!(ResponseHeadReader::new(Method::GET).push(switched, drop).is_err(), "nothing was offered");
        let all = [one.as_bytes(), switched, b"hello"].concat();
        let start = ResponseHeadReader::with_offer(Method::GET).push(&all, drop).unwrap().unwrap();
        assert_eq!((start.head.status.as_u16(), &start.rest[..]), (101, &b"hello"[..]));
        let mut long = ResponseHeadReader::new(Method::GET);
        let line = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_BYTES_MAX / 2));
        assert!(long.push(line.as_bytes(), drop).unwrap().is_none());
        assert!(long.push(line.as_bytes(), drop).is_err());
    }

    /// The final head in pieces of one byte, and the bytes that were parsed for it.
    fn byte_by_byte(bytes: &[u8]) -> (Result<Option<usize>, ()>, usize) {
        let mut work = 0;
        for end in 1..=bytes.len() {
            let buffer = &bytes[..end];
            if is_worth_parsing(buffer, end - 1) {
                work += end;
                match parse_head(buffer, &Method::GET) {
                    Ok(None) => {}
                    Ok(Some(parsed)) => return (Ok(Some(parsed.length)), work),
                    Err(_) => return (Err(()), work),
                }
            }
        }
        (Ok(None), work)
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_parsed_in_linear_time() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(60_000));
        let many = format!("HTTP/1.1 200 OK\n{}\n", "A: b\n".repeat(FIELDS_MAX));
        for head in [&*long, &*many, "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"] {
            let (found, work) = byte_by_byte(head.as_bytes());
            assert_eq!(found, Ok(Some(head.len())));
            assert!(work <= 4 * head.len(), "{work} of {}", head.len());
        }
        for endless in ["\n", "\r\n", "HTTP/1.1 200 OK\r\nA", "A: b\r\n"] {
            let bytes = endless.repeat(HEAD_BYTES_MAX / endless.len());
            let (found, work) = byte_by_byte(bytes.as_bytes());
            assert_ne!(found.ok().flatten(), Some(bytes.len()));
            assert!(work <= 4 * bytes.len(), "{work} of {}", bytes.len());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_head(&bytes, &Method::GET);
        }

        #[test]
        fn of_interim_responses_as_many_pass_as_their_bytes_have_room_for_in_whatever_pieces(
            values in prop::collection::vec(0..9_000_usize, 0..40),
            step in 1..70_000_usize,
        ) {
            let one = |value: &usize| format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(*value));
            let heads: Vec<String> = values.iter().map(one).collect();
            let room = heads.iter().scan(0, |sum, head| {
                *sum += head.len();
                Some(*sum)
            });
            let fitting = room.take_while(|sum| *sum <= INTERIM_BYTES_MAX).count();
            let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
            let text = [heads.concat(), last].concat();
            let (mut passed, mut reader) = (0, ResponseHeadReader::new(Method::GET));
            let mut pieces = text.as_bytes().chunks(step);
            let start = pieces.find_map(|piece| reader.push(piece, |_| passed += 1).transpose());
            prop_assert_eq!((passed, start.unwrap().is_ok()), (fitting, fitting == heads.len()));
        }
    }
}
