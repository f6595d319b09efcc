//! Response heads, header fields and chunks in HTTP/1.1, as they go to a client or an endpoint.

use http::{HeaderMap, StatusCode};

/// Room in front of a body piece for its chunk size: 8 hexadecimal digits and CRLF.
pub const CHUNK_PREFIX_BYTES: usize = 10;
/// How the body is framed for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1 chunks.
    Chunked,
    /// As it comes: the head said a length, or the end of the connection is the end.
    Plain,
}

/// What an HTTP/1 response says of its connection (RFC 9112 section 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// `Connection: close`.
    Close,
    /// To an HTTP/1.0 client, which expects the end otherwise.
    KeepAlive,
    /// It goes on, as HTTP/1.1 does.
    Implied,
}

impl Persistence {
    pub fn of(goes_on: bool, http10: bool) -> Persistence {
        match (goes_on, http10) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAlive,
            (true, false) => Persistence::Implied,
        }
    }

    pub fn line(self) -> &'static [u8] {
        match self {
            Persistence::Close => b"Connection: close\r\n",
            Persistence::KeepAlive => b"Connection: keep-alive\r\n",
            Persistence::Implied => b"",
        }
    }
}

/// A response head in HTTP/1.1.
pub fn h1_head(
    out: &mut Vec<u8>,
    (status, lines): (StatusCode, &HeaderMap),
    framing: Framing,
    persistence: Persistence,
) {
    status_line(out, status);
    write_lines(out, lines);
    if framing == Framing::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(persistence.line());
    out.extend_from_slice(b"\r\n");
}

/// An interim response in HTTP/1.1, whole.
pub fn h1_interim(out: &mut Vec<u8>, status: StatusCode, lines: &HeaderMap) {
    status_line(out, status);
    write_lines(out, lines);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    let reason = status.canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes header lines in HTTP/1.1, with the capitals that people are used to.
pub fn write_lines(out: &mut Vec<u8>, lines: &HeaderMap) {
    for (name, value) in lines {
        let mut starts = true;
        for byte in name.as_str().bytes() {
            out.push(if starts { byte.to_ascii_uppercase() } else { byte });
            starts = byte == b'-';
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes the chunk size in front of the data and CRLF behind it.
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
    use super::*;

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
