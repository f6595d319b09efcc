//! Requests with hundreds of header fields in as many bytes: each a reference into the HPACK table (RFC 7541 section 6.1).
//!
//! No library sends these, so the frames are written here. The path is one that no pod answers: an answer, a reset or
//! the end of the connection is the proxy's refusal.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::target::{Target, Wire};
use crate::certificate::HOST;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 0x05;
/// The first entry of the dynamic table: the field that the first request of a connection put there.
const REFERENCE: u8 = 0x80 | 62;
/// `x: 1`, to be kept in the table (section 6.2.1).
const KEPT_FIELD: &[u8] = &[0x40, 1, b'x', 1, b'1'];
const READ_BYTES: usize = 16 * 1024;

/// The requests to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bomb {
    pub(crate) connections: u32,
    pub(crate) on_each: u32,
    pub(crate) fields: u16,
}

/// Requests on their way, until this is dropped.
pub(crate) struct Sent {
    _connections: JoinSet<()>,
    count: Rc<Count>,
}

#[derive(Default)]
struct Count {
    refused: Cell<u32>,
    changed: Notify,
}

impl Sent {
    /// Sends the requests of `bomb` for `path`.
    ///
    /// # Errors
    /// If a connection cannot be opened.
    pub(crate) async fn send(target: &Target, path: &'static str, bomb: Bomb) -> anyhow::Result<Self> {
        let count = Rc::new(Count::default());
        let mut connections = JoinSet::new();
        for _ in 0..bomb.connections {
            let wire = target.connect().await?;
            let count = Rc::clone(&count);
            connections.spawn_local(async move {
                let mut refusals = Refusals::new(bomb.on_each);
                // A connection that breaks takes all of its requests with it.
                drop(exchange(wire, path, bomb, &mut refusals, &count).await);
                count.add(refusals.all());
            });
        }
        Ok(Self { _connections: connections, count })
    }

    /// Returns how many requests were refused so far.
    pub(crate) fn refused(&self) -> u32 {
        self.count.refused.get()
    }

    /// Done with the next refusal.
    pub(crate) async fn another(&self) {
        self.count.changed.notified().await;
    }
}

impl Count {
    fn add(&self, refused: u32) {
        if refused > 0 {
            self.refused.set(self.refused.get() + refused);
            self.changed.notify_one();
        }
    }
}

async fn exchange(
    mut wire: Box<dyn Wire>,
    path: &str,
    bomb: Bomb,
    refusals: &mut Refusals,
    count: &Count,
) -> anyhow::Result<()> {
    let mut out = PREFACE.to_vec();
    push_frame(&mut out, SETTINGS, 0, 0, &[]);
    for number in 0..bomb.on_each {
        let flags = END_STREAM_AND_HEADERS;
        push_frame(&mut out, HEADERS, flags, stream_id(number), &head_block(path, bomb.fields, number == 0));
    }
    wire.write_all(&out).await?;
    wire.flush().await?;
    let mut received = Vec::with_capacity(READ_BYTES);
    while wire.read_buf(&mut received).await? > 0 {
        let mut replies = Vec::new();
        let mut rest = received.as_slice();
        while let Some((frame, after)) = Frame::first_of(rest) {
            count.add(refusals.see(&frame));
            frame.push_reply(&mut replies);
            rest = after;
        }
        let read = received.len() - rest.len();
        received.drain(..read);
        if !replies.is_empty() {
            wire.write_all(&replies).await?;
            wire.flush().await?;
        }
    }
    Ok(())
}

/// The identifier of the stream of that number: clients have the odd ones (RFC 9113 section 5.1.1).
fn stream_id(number: u32) -> u32 {
    2 * number + 1
}

/// The compressed head of a GET with so many `fields` beside its pseudo-header fields.
fn head_block(path: &str, fields: u16, is_first: bool) -> Vec<u8> {
    // `:method: GET` and `:scheme: http` are in the static table; path and authority are literals that are not kept.
    let mut block = vec![0x82, 0x86];
    for (name_in_table, value) in [(0x04, path), (0x01, HOST)] {
        block.push(name_in_table);
        block.push(u8::try_from(value.len()).unwrap_or(0));
        block.extend_from_slice(value.as_bytes());
    }
    let references = if is_first {
        block.extend_from_slice(KEPT_FIELD);
        fields.saturating_sub(1)
    } else {
        fields
    };
    block.resize(block.len() + usize::from(references), REFERENCE);
    block
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(length.get(1..).unwrap_or_default());
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A frame of the proxy.
#[derive(Debug, PartialEq, Eq)]
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Returns the first frame of `bytes` and the bytes after it; `None` if it is not whole yet.
    fn first_of(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = bytes.split_first_chunk::<FRAME_HEAD>()?;
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let (payload, after) = rest.split_at_checked(length)?;
        let stream = u32::from_be_bytes(stream) & !(1 << 31);
        Some((Self { kind, flags, stream, payload }, after))
    }

    /// Appends the acknowledgement that the frame asks for, if any.
    fn push_reply(&self, out: &mut Vec<u8>) {
        match self.kind {
            SETTINGS if self.flags & ACK == 0 => push_frame(out, SETTINGS, ACK, 0, &[]),
            PING if self.flags & ACK == 0 => push_frame(out, PING, ACK, 0, self.payload),
            _ => {}
        }
    }
}

/// The requests of one connection that are not refused yet.
#[derive(Debug)]
struct Refusals {
    open: BTreeSet<u32>,
}

impl Refusals {
    fn new(requests: u32) -> Self {
        Self { open: (0..requests).map(stream_id).collect() }
    }

    /// Returns how many requests `frame` refuses.
    fn see(&mut self, frame: &Frame<'_>) -> u32 {
        match frame.kind {
            HEADERS | RST_STREAM => u32::from(self.open.remove(&frame.stream)),
            // Streams above the one that it names will not be answered (RFC 9113 section 6.8).
            GOAWAY => {
                let Some(last) = frame.payload.first_chunk().copied().map(u32::from_be_bytes) else {
                    return 0;
                };
                let beyond = self.open.split_off(&((last & !(1 << 31)) + 1));
                u32::try_from(beyond.len()).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }

    /// Returns how many are left, which the end of the connection refuses.
    fn all(&mut self) -> u32 {
        u32::try_from(std::mem::take(&mut self.open).len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_sent_once_and_then_costs_one_byte() {
        let (first, next) = (head_block("/wait", 900, true), head_block("/wait", 900, false));
        assert_eq!(next.len(), 2 + 2 + "/wait".len() + 2 + HOST.len() + 900);
        assert_eq!(first.len(), next.len() - 1 + KEPT_FIELD.len());
        assert!(next.ends_with(&[REFERENCE; 900]) && !first.ends_with(&[REFERENCE; 900]));
    }

    #[test]
    fn frames_are_read_as_they_were_written_whatever_the_cut() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, PING, 0, 0, &[7; 8]);
        push_frame(&mut bytes, RST_STREAM, 0, 5, &[0, 0, 0, 11]);
        let whole = FRAME_HEAD + 8;
        for cut in 0..whole {
            assert_eq!(Frame::first_of(&bytes[..cut]), None);
        }
        let (ping, rest) = Frame::first_of(&bytes).unwrap();
        assert_eq!(ping, Frame { kind: PING, flags: 0, stream: 0, payload: &[7; 8] });
        let (reset, rest) = Frame::first_of(rest).unwrap();
        assert_eq!((reset.kind, reset.stream, rest), (RST_STREAM, 5, &[][..]));
        let mut reply = Vec::new();
        ping.push_reply(&mut reply);
        reset.push_reply(&mut reply);
        assert_eq!(reply, [&[0, 0, 8, PING, ACK, 0, 0, 0, 0][..], &[7; 8]].concat());
    }

    #[test]
    fn each_request_is_refused_once_by_an_answer_a_reset_or_the_end() {
        let mut refusals = Refusals::new(4);
        let frame = |kind, stream, payload| Frame { kind, flags: 0, stream, payload };
        assert_eq!(refusals.see(&frame(HEADERS, 1, &[])), 1);
        assert_eq!(refusals.see(&frame(RST_STREAM, 1, &[])), 0);
        assert_eq!(refusals.see(&frame(SETTINGS, 0, &[])), 0);
        assert_eq!(refusals.see(&frame(GOAWAY, 0, &[0, 0, 0, 5, 0, 0, 0, 11])), 1);
        assert_eq!(refusals.all(), 2);
        assert_eq!(refusals.all(), 0);
    }
}
