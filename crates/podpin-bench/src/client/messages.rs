//! Takes the frames (RFC 6455 section 5.2) off the messages of a WebSocket that come in pieces.

use anyhow::bail;

/// Position of the next byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the head of the answer; so many bytes of its closing `\r\n\r\n` were seen.
    Head(u8),
    /// Before the first byte of a frame.
    Frame,
    /// Before the length of a frame.
    Length,
    /// In a payload, so many bytes of it to come.
    Payload(u8),
}

/// The state of one WebSocket, whose pod sends short messages of one frame.
#[derive(Debug)]
pub(crate) struct Messages(At);

impl Messages {
    /// Before the first byte of the answer's head.
    pub(crate) fn new() -> Self {
        Self(At::Head(0))
    }

    /// Calls `payload` with each piece of a message within `bytes`.
    ///
    /// # Errors
    /// When a frame is none that the pods send.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut payload: impl FnMut(&[u8])) -> anyhow::Result<()> {
        while let Some((first, rest)) = bytes.split_first() {
            self.0 = match self.0 {
                At::Head(3) if *first == b'\n' => At::Frame,
                At::Head(seen @ (0 | 2)) if *first == b'\r' => At::Head(seen + 1),
                At::Head(1) if *first == b'\n' => At::Head(2),
                At::Head(_) => At::Head(u8::from(*first == b'\r')),
                At::Frame if *first == 0x81 => At::Length,
                At::Length if *first < 126 => At::Payload(*first),
                At::Frame | At::Length => bail!("another frame than a short message"),
                At::Payload(left) => {
                    let taken = bytes.len().min(usize::from(left));
                    let (data, behind) = bytes.split_at(taken);
                    payload(data);
                    bytes = behind;
                    let left = left - u8::try_from(taken).unwrap_or(left);
                    self.0 = if left == 0 { At::Frame } else { At::Payload(left) };
                    continue;
                }
            };
            bytes = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_messages() {
        let text = b"HTTP/1.1 101 x\r\nA: b\r\n\r\n\x81\x05hello\x81\x01!";
        for size in 1..=text.len() {
            let (mut messages, mut payload) = (Messages::new(), Vec::new());
            for piece in text.chunks(size) {
                messages.feed(piece, |bytes| payload.extend_from_slice(bytes)).unwrap();
            }
            assert_eq!(payload, b"hello!", "pieces of {size} bytes");
        }
        assert!(Messages::new().feed(b"HTTP/1.1 101 x\r\n\r\n\x88\x02", |_| {}).is_err());
    }
}
