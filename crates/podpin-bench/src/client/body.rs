//! Takes the chunked framing (RFC 9112 section 7.1) off an answer that comes in pieces.
//!
//! Proxies may cut chunks anew, in the middle of an event: without this, events would be missed in a burst.

use anyhow::bail;

/// Where in the answer the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the head; so many bytes of its closing `\r\n\r\n` were seen.
    Head(u8),
    /// In a chunk's size, so far this. Extensions are skipped.
    Size(u64),
    /// After the size's digits.
    SizeLine(u64),
    /// In a chunk's data, so many bytes of it and of its line break to come.
    Data(u64),
    /// After the last chunk.
    End,
}

/// The state of one answer.
#[derive(Debug)]
pub(crate) struct Body(At);

impl Body {
    /// Before the first byte of the answer's head.
    pub(crate) fn new() -> Self {
        Self(At::Head(0))
    }

    /// The last chunk has come.
    pub(crate) fn is_over(&self) -> bool {
        self.0 == At::End
    }

    /// Calls `payload` with each piece of the body within `bytes`.
    ///
    /// # Errors
    /// When the body is not chunked.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut payload: impl FnMut(&[u8])) -> anyhow::Result<()> {
        while let Some((first, rest)) = bytes.split_first() {
            if let At::Data(left) = self.0 {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let (data, after) = bytes.split_at(taken);
                let line_break = 2_u64.saturating_sub(left - taken as u64);
                let of_payload = taken.saturating_sub(usize::try_from(line_break).unwrap_or(2));
                payload(data.get(..of_payload).unwrap_or_default());
                self.0 = if taken as u64 == left { At::Size(0) } else { At::Data(left - taken as u64) };
                bytes = after;
                continue;
            }
            self.0 = after_byte(self.0, *first)?;
            bytes = rest;
        }
        Ok(())
    }
}

fn after_byte(at: At, byte: u8) -> anyhow::Result<At> {
    Ok(match at {
        At::Head(3) if byte == b'\n' => At::Size(0),
        At::Head(seen @ (0 | 2)) if byte == b'\r' => At::Head(seen + 1),
        At::Head(1) if byte == b'\n' => At::Head(2),
        At::Head(_) => At::Head(u8::from(byte == b'\r')),
        At::Size(size) | At::SizeLine(size) if byte == b'\n' => {
            if size == 0 {
                At::End
            } else {
                At::Data(size + 2)
            }
        }
        At::SizeLine(size) => At::SizeLine(size),
        At::Size(size) => match char::from(byte).to_digit(16) {
            Some(digit) if size < 1 << 32 => At::Size(size * 16 + u64::from(digit)),
            None if matches!(byte, b'\r' | b';' | b' ') => At::SizeLine(size),
            _ => bail!("the body is not chunked"),
        },
        // The empty line after the last chunk.
        At::End => At::End,
        At::Data(left) => At::Data(left),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_payload() {
        let text =
            b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n5\r\nhello\r\n1;x=y\r\n \r\n0a\r\n0123456789\r\n0\r\n\r\n";
        for size in 1..=text.len() {
            let mut body = Body::new();
            let mut payload = Vec::new();
            for piece in text.chunks(size) {
                assert!(!body.is_over());
                body.feed(piece, |bytes| payload.extend_from_slice(bytes)).unwrap();
                if body.is_over() {
                    break;
                }
            }
            assert!(body.is_over(), "pieces of {size} bytes");
            assert_eq!(payload, b"hello 0123456789", "pieces of {size} bytes");
        }
    }

    #[test]
    fn a_body_without_chunks_is_refused() {
        let mut body = Body::new();
        assert!(body.feed(b"HTTP/1.1 200 OK\r\n\r\nid: 1\n", |_| {}).is_err());
    }
}
