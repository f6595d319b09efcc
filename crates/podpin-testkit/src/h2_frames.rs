//! HTTP/2 frames written by hand (RFC 9113 section 4.1): for heads that no client library would send.
//!
//! Only what a refusal needs is read back: the status of a response or the code of a reset.

use crate::client::Connection;
use crate::wire::Ending;

/// The connection preface (RFC 9113 section 3.4).
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A SETTINGS frame that changes nothing.
pub const H2_SETTINGS: &[u8] = &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// END_STREAM and END_HEADERS.
const WHOLE_REQUEST: u8 = 0x1 | 0x4;
const FRAME_HEAD_BYTES: usize = 9;
/// The statuses of HPACK's static table from its index 8 on (RFC 7541 appendix A).
const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];

/// What came back for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum H2Answer {
    /// A response head; 0 when the status is not one of HPACK's static table.
    Status(u16),
    /// RST_STREAM with this error code; 1 is PROTOCOL_ERROR.
    Reset(u8),
    /// GOAWAY with this error code.
    GoAway(u8),
    /// Nothing: the connection ended.
    Ended(Ending),
}

/// A request without a body on stream 1; the fields are written as they are, pseudo fields included.
///
/// # Panics
/// When a field or all of them together are too long for this encoder.
pub fn h2_request(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal without indexing and without Huffman code (RFC 7541 section 6.2.2).
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
            block.push(length.expect("a field of fewer than 127 bytes"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    let length = u16::try_from(block.len()).expect("a small head").to_be_bytes();
    let mut frame = vec![0, length[0], length[1], HEADERS, WHOLE_REQUEST, 0, 0, 0, 1];
    frame.append(&mut block);
    frame
}

impl Connection {
    /// Reads frames up to one that answers stream 1.
    pub async fn h2_answer(&mut self) -> H2Answer {
        loop {
            let (kind, payload) = match self.h2_frame().await {
                Ok(frame) => frame,
                Err(ending) => return H2Answer::Ended(ending),
            };
            let last = |at: usize| payload.get(at).copied().unwrap_or_default();
            match kind {
                HEADERS => return H2Answer::Status(static_status(&payload)),
                RST_STREAM => return H2Answer::Reset(last(3)),
                GOAWAY => return H2Answer::GoAway(last(7)),
                _ => {}
            }
        }
    }

    async fn h2_frame(&mut self) -> Result<(u8, Vec<u8>), Ending> {
        let head = self.try_raw(FRAME_HEAD_BYTES).await?;
        let [_, high, low, kind, ..] = head.as_slice() else { return Err(Ending::Cut) };
        let payload = self.try_raw(usize::from(u16::from_be_bytes([*high, *low]))).await?;
        Ok((*kind, payload))
    }
}

fn static_status(block: &[u8]) -> u16 {
    // A change of the table's size may come first (RFC 7541 section 6.3).
    let first = block.iter().find(|byte| **byte & 0xe0 != 0x20);
    let index = first.and_then(|byte| usize::from(*byte).checked_sub(0x88));
    index.and_then(|index| STATUSES.get(index)).copied().unwrap_or(0)
}
