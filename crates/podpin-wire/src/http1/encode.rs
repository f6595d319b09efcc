//! Response heads, header fields and chunks in HTTP/1.1, as they go to a client or an endpoint.

use http::{HeaderMap, StatusCode};

/// Room in front of a body piece for its chunk size: 8 hexadecimal digits and CRLF.
pub const CHUNK_PREFIX_BYTES: usize = 10;
/// Last chunk of a chunked body, without trailer fields.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The framing of a body that the proxy writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1 chunks.
    Chunked,
    /// Body bytes as they come: the head has a length, or the connection's end is the body's end.
    Plain,
}

/// Connection field of an HTTP/1 response (RFC 9112 section 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// `Connection: close`.
    Close,
    /// `Connection: keep-alive`, for an HTTP/1.0 client, which expects the end otherwise.
    KeepAlive,
    /// No field: an HTTP/1.1 connection goes on by default.
    Implied,
}

impl Persistence {
    /// Returns the field for a connection that goes on, or does not, with a client of HTTP/1.0 or 1.1.
    #[must_use]
    pub fn of(goes_on: bool, http10: bool) -> Persistence {
        match (goes_on, http10) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAlive,
            (true, false) => Persistence::Implied,
        }
    }

    /// Returns the field with its line end; nothing if it is implied.
    #[must_use]
    pub fn line(self) -> &'static [u8] {
        match self {
            Persistence::Close => b"Connection: close\r\n",
            Persistence::KeepAlive => b"Connection: keep-alive\r\n",
            Persistence::Implied => b"",
        }
    }
}

/// Writes a response head in HTTP/1.1.
pub fn write_response_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    framing: Framing,
    persistence: Persistence,
) {
    write_status_line(out, status);
    write_headers(out, headers);
    if framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(persistence.line());
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim response in HTTP/1.1, which is a head alone.
pub fn write_interim_response(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    write_status_line(out, status);
    write_headers(out, headers);
    out.extend_from_slice(b"\r\n");
}

fn write_status_line(out: &mut Vec<u8>, status: StatusCode) {
    let reason = status.canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes header fields in HTTP/1.1, with the customary capitals.
pub fn write_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// Writes a header field in HTTP/1.1; the words of its name, in lower case, get the customary capitals.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(name);
    if let Some(written) = out.get_mut(start..) {
        let mut before = b'-';
        for byte in written {
            if before == b'-' {
                byte.make_ascii_uppercase();
            }
            before = *byte;
        }
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the chunk size in front of `piece[CHUNK_PREFIX_BYTES..]` and CRLF behind; returns the offset of the chunk.
#[inline]
pub fn seal_chunk(piece: &mut Vec<u8>) -> usize {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut left = piece.len().saturating_sub(CHUNK_PREFIX_BYTES);
    let mut at = CHUNK_PREFIX_BYTES - 2;
    if let Some(end) = piece.get_mut(at..CHUNK_PREFIX_BYTES) {
        end.copy_from_slice(b"\r\n");
    }
    loop {
        at -= 1;
        if let (Some(slot), Some(digit)) = (piece.get_mut(at), DIGITS.get(left % 16)) {
            *slot = *digit;
        }
        left /= 16;
        if left == 0 || at == 0 {
            break;
        }
    }
    piece.extend_from_slice(b"\r\n");
    at
}

/// Appends one chunk; nothing for no data, which would be the last one.
#[inline]
pub fn push_chunk(out: &mut Vec<u8>, data: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if data.is_empty() {
        return;
    }
    let nibbles = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    for nibble in (0..nibbles).rev() {
        out.extend(DIGITS.get(data.len() >> (4 * nibble) & 0xf));
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn a_head_says_how_its_body_and_its_connection_end() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let cases = [
            (Framing::Chunked, Persistence::of(true, false), "Transfer-Encoding: chunked\r\n"),
            (Framing::Plain, Persistence::of(true, true), "Connection: keep-alive\r\n"),
            (Framing::Plain, Persistence::of(false, false), "Connection: close\r\n"),
            (Framing::Plain, Persistence::of(true, false), ""),
        ];
        for (framing, persistence, last) in cases {
            let mut out = Vec::new();
            write_response_head(&mut out, StatusCode::OK, &headers, framing, persistence);
            let expected = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{last}\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_chunk_is_sealed_in_place() {
        for length in [1_usize, 15, 16, 120, 65_536] {
            let mut piece = vec![0; CHUNK_PREFIX_BYTES];
            piece.extend(std::iter::repeat_n(b'x', length));
            let at = seal_chunk(&mut piece);
            let expected = format!("{length:x}\r\n{}\r\n", "x".repeat(length));
            assert_eq!(&piece[at..], expected.as_bytes(), "{length}");
            let mut pushed = Vec::new();
            push_chunk(&mut pushed, "x".repeat(length).as_bytes());
            assert_eq!(pushed, expected.as_bytes(), "{length}");
        }
    }
}
