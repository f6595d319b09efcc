//! HTTP/2 frames written by hand (RFC 9113 section 4.1): for what no client library would send.
//!
//! Nothing is checked that is sent. What comes back is read as frames; of a response only its status is understood.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::client::Connection;
use crate::in_time;
use crate::wire::Ending;

/// The connection preface (RFC 9113 section 3.4).
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A SETTINGS frame that changes nothing.
pub const H2_SETTINGS: &[u8] = &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// Window of a connection, and of a stream before any settings (RFC 9113 section 6.9.2).
const INITIAL_WINDOW: i64 = 65_535;
/// Bytes of a piece of an upload.
const DATA_BYTES: usize = 16 * 1024;
const FRAME_HEAD_BYTES: usize = 9;
/// The statuses of HPACK's static table from its index 8 on (RFC 7541 appendix A).
const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];

/// Answer on a stream.
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

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct H2Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl H2Frame {
    /// Any frame.
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> H2Frame {
        H2Frame { kind, flags, stream, payload: payload.into() }
    }

    /// A request without a body, whole.
    pub fn request(stream: u32, fields: &[(&str, &str)]) -> H2Frame {
        H2Frame::new(HEADERS, END_STREAM | END_HEADERS, stream, h2_block(fields))
    }

    /// The head of a request with a body.
    pub fn head(stream: u32, fields: &[(&str, &str)]) -> H2Frame {
        H2Frame::new(HEADERS, END_HEADERS, stream, h2_block(fields))
    }

    /// The head of a request without a body, to be continued.
    pub fn unfinished_head(stream: u32, block: impl Into<Vec<u8>>) -> H2Frame {
        H2Frame::new(HEADERS, END_STREAM, stream, block)
    }

    /// More of a head, and not its end.
    pub fn continuation(stream: u32, block: impl Into<Vec<u8>>) -> H2Frame {
        H2Frame::new(CONTINUATION, 0, stream, block)
    }

    /// A piece of a body that is not its last.
    pub fn data(stream: u32, payload: impl Into<Vec<u8>>) -> H2Frame {
        H2Frame::new(DATA, 0, stream, payload)
    }

    /// RST_STREAM with CANCEL.
    pub fn reset(stream: u32) -> H2Frame {
        H2Frame::new(RST_STREAM, 0, stream, 8_u32.to_be_bytes())
    }

    /// SETTINGS that change nothing.
    pub fn settings() -> H2Frame {
        H2Frame::new(SETTINGS, 0, 0, [])
    }

    /// SETTINGS after which streams may be sent so many bytes.
    pub fn initial_window(bytes: u32) -> H2Frame {
        let payload = [INITIAL_WINDOW_SIZE.to_be_bytes().as_slice(), &bytes.to_be_bytes()].concat();
        H2Frame::new(SETTINGS, 0, 0, payload)
    }

    /// PING.
    pub fn ping() -> H2Frame {
        H2Frame::new(PING, 0, 0, [7; 8])
    }

    /// PRIORITY.
    pub fn priority(stream: u32) -> H2Frame {
        H2Frame::new(PRIORITY, 0, stream, [0, 0, 0, 0, 1])
    }

    /// WINDOW_UPDATE of a stream, or of the connection (0).
    pub fn window_update(stream: u32, increment: u32) -> H2Frame {
        H2Frame::new(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
    }

    /// The stream that it belongs to.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// The code of a RST_STREAM frame.
    pub fn reset_code(&self) -> Option<u8> {
        (self.kind == RST_STREAM).then(|| self.payload.get(3).copied().unwrap_or_default())
    }

    /// The code of a GOAWAY frame.
    pub fn go_away_code(&self) -> Option<u8> {
        (self.kind == GOAWAY).then(|| self.payload.get(7).copied().unwrap_or_default())
    }

    /// The status of a response head; 0 when it is not one of HPACK's static table.
    pub fn status(&self) -> Option<u16> {
        (self.kind == HEADERS).then(|| static_status(&self.payload))
    }

    /// Whether these bytes are within its payload.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.payload.windows(bytes.len()).any(|window| window == bytes)
    }

    /// How many bytes of a body it carries; `None` if it is no DATA.
    pub fn body_bytes(&self) -> Option<usize> {
        (self.kind == DATA).then_some(self.payload.len())
    }

    /// Whether nothing follows on its stream: END_STREAM, or a reset.
    pub fn ends_stream(&self) -> bool {
        match self.kind {
            DATA | HEADERS => self.flags & END_STREAM != 0,
            kind => kind == RST_STREAM,
        }
    }

    /// Whether it asks for an answer to a PING.
    pub fn is_ping(&self) -> bool {
        self.kind == PING && self.flags == 0
    }

    /// The answer to this PING.
    pub fn pong(&self) -> H2Frame {
        H2Frame::new(PING, ACK, 0, self.payload.clone())
    }

    /// Whether it is the answer to a PING.
    pub fn is_pong(&self) -> bool {
        self.kind == PING && self.flags == ACK
    }

    /// Returns the bytes of the frame.
    ///
    /// # Panics
    /// When the payload is longer than a frame can say.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a payload").to_be_bytes();
        assert_eq!(length[0], 0, "a payload of fewer than 16 MiB");
        let mut bytes = length[1..].to_vec();
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// A request without a body on stream 1; the fields are written as they are, pseudo fields included.
pub fn h2_request(fields: &[(&str, &str)]) -> Vec<u8> {
    H2Frame::request(1, fields).bytes()
}

/// Fields as a header block, each a literal without indexing and without Huffman code (RFC 7541 section 6.2.2).
pub fn h2_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            h2_integer(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A length of a string without Huffman code (RFC 7541 sections 5.1 and 5.2).
fn h2_integer(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        return block.push(u8::try_from(length).expect("fewer than 127"));
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).expect("seven bits") | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("seven bits"));
}

/// Result of a flood.
#[derive(Debug)]
pub struct Flooded {
    /// How many bytes were sent before the connection ended.
    pub sent_bytes: usize,
    /// The code of the GOAWAY, when there was one.
    pub go_away_code: Option<u8>,
    /// How the server ended the connection.
    pub ending: Ending,
}

impl Connection {
    /// Begins HTTP/2: the preface and these settings.
    pub async fn begin_h2(&mut self, settings: &H2Frame) {
        self.send([H2_PREFACE, &settings.bytes()].concat()).await;
    }

    /// Sends frames; `false` when the server has closed the connection.
    pub async fn try_frames(&mut self, frames: &[H2Frame]) -> bool {
        self.try_send(frames.iter().flat_map(H2Frame::bytes).collect::<Vec<_>>()).await
    }

    /// Reads frames up to one that answers stream 1.
    pub async fn h2_answer(&mut self) -> H2Answer {
        loop {
            let frame = match self.h2_frame().await {
                Ok(frame) => frame,
                Err(ending) => return H2Answer::Ended(ending),
            };
            let answer = frame.status().map(H2Answer::Status);
            let answer = answer.or_else(|| frame.reset_code().map(H2Answer::Reset));
            if let Some(answer) = answer.or_else(|| frame.go_away_code().map(H2Answer::GoAway)) {
                return answer;
            }
        }
    }

    /// Reads frames up to one that `wanted` accepts.
    ///
    /// # Errors
    /// How the connection ended when it ended first.
    pub async fn h2_frame_that(&mut self, wanted: impl Fn(&H2Frame) -> bool) -> Result<H2Frame, Ending> {
        loop {
            let frame = self.h2_frame().await?;
            if wanted(&frame) {
                return Ok(frame);
            }
        }
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// How the connection ended when it ended first.
    pub async fn h2_frame(&mut self) -> Result<H2Frame, Ending> {
        let head = self.try_raw(FRAME_HEAD_BYTES).await?;
        let [_, high, low, kind, flags, a, b, c, d] = head.as_slice() else { return Err(Ending::Cut) };
        let payload = self.try_raw(usize::from(u16::from_be_bytes([*high, *low]))).await?;
        Ok(H2Frame { kind: *kind, flags: *flags, stream: u32::from_be_bytes([*a, *b, *c, *d]), payload })
    }

    /// Uploads a body of so many bytes as stream 1, behind its head, as fast as the windows allow, up to the head of the response.
    ///
    /// # Panics
    /// When the connection or the stream ends first, or it takes longer than a test is patient.
    pub async fn upload_h2(self, head: &H2Frame, bytes: usize) -> Uploaded {
        let (reader, writer) = tokio::io::split(self.into_duplex());
        let mut upload = Upload { reader, writer, left: bytes, windows: [INITIAL_WINDOW; 2], stalls: 0 };
        let began = Instant::now();
        in_time("an upload", upload.run(head)).await;
        Uploaded { stalls: upload.stalls, took: began.elapsed() }
    }

    /// Sends `piece` again and again until the server ends the connection, reading all the while.
    ///
    /// # Panics
    /// When the server bears it for as long as a test is patient.
    pub async fn flood(self, piece: &[u8]) -> Flooded {
        let (reader, writer) = tokio::io::split(self.into_duplex());
        let (sent_bytes, (go_away_code, ending)) =
            in_time("the end of a flood", async { tokio::join!(pour(writer, piece), frames(reader)) }).await;
        Flooded { sent_bytes, go_away_code, ending }
    }
}

/// How an upload went.
#[derive(Clone, Copy, Debug)]
pub struct Uploaded {
    /// How often nothing could be sent before the server had given more of a window: a round trip each, on a long way.
    pub stalls: usize,
    /// Time up to the head of the response.
    pub took: Duration,
}

/// An upload under way.
struct Upload<R, W> {
    reader: R,
    writer: W,
    left: usize,
    /// Windows of the connection and of the stream.
    windows: [i64; 2],
    stalls: usize,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Upload<R, W> {
    async fn run(&mut self, head: &H2Frame) {
        let (mut output, mut input) = (BytesMut::from(&*head.bytes()), BytesMut::new());
        let mut is_stalled = false;
        loop {
            let room =
                self.windows.into_iter().min().and_then(|room| usize::try_from(room).ok()).unwrap_or(0);
            if output.is_empty() && self.left > 0 && room > 0 {
                let count = room.min(self.left).min(DATA_BYTES);
                self.left -= count;
                self.windows = self.windows.map(|window| window - i64::try_from(count).unwrap_or(i64::MAX));
                let mut frame = H2Frame::data(1, vec![b'x'; count]);
                frame.flags = if self.left == 0 { END_STREAM } else { 0 };
                output.extend_from_slice(&frame.bytes());
            }
            let waits = output.is_empty() && self.left > 0;
            self.stalls += usize::from(waits && !is_stalled);
            is_stalled = waits;
            tokio::select! {
                biased;
                read = self.reader.read_buf(&mut input) => assert!(read.is_ok_and(|count| count > 0), "it ended"),
                written = self.writer.write_buf(&mut output), if !output.is_empty() => drop(written.expect("open")),
            }
            while let Some(frame) = split_frame(&mut input) {
                if (frame.kind, frame.flags & ACK) == (SETTINGS, 0) {
                    output.extend_from_slice(&H2Frame::new(SETTINGS, ACK, 0, []).bytes());
                }
                if self.take(&frame) {
                    return;
                }
            }
        }
    }

    /// Takes a frame of the server; returns whether it is the response.
    fn take(&mut self, frame: &H2Frame) -> bool {
        assert_eq!((frame.reset_code(), frame.go_away_code()), (None, None));
        let [connection, stream] = &mut self.windows;
        match (frame.kind, &*frame.payload) {
            (WINDOW_UPDATE, [a, b, c, d]) => {
                let window = if frame.stream == 0 { connection } else { stream };
                *window += i64::from(u32::from_be_bytes([*a, *b, *c, *d]));
            }
            (SETTINGS, settings) => {
                let is_window = |setting: &&[u8]| setting.starts_with(&INITIAL_WINDOW_SIZE.to_be_bytes());
                if let Some([_, _, a, b, c, d]) = settings.chunks(6).find(is_window) {
                    *stream += i64::from(u32::from_be_bytes([*a, *b, *c, *d])) - INITIAL_WINDOW;
                }
            }
            (HEADERS, _) => return true,
            _ => {}
        }
        false
    }
}

/// Splits a whole frame off the input; `None` if there is none yet.
fn split_frame(input: &mut BytesMut) -> Option<H2Frame> {
    let &[_, high, low, kind, flags, a, b, c, d] = input.first_chunk::<FRAME_HEAD_BYTES>()?;
    let length = FRAME_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let frame = (input.len() >= length).then(|| input.split_to(length))?;
    let payload = frame.get(FRAME_HEAD_BYTES..).unwrap_or_default().to_vec();
    Some(H2Frame { kind, flags, stream: u32::from_be_bytes([a, b, c, d]), payload })
}

/// Writes until that fails; how much was written.
async fn pour(mut writer: impl AsyncWrite + Unpin, piece: &[u8]) -> usize {
    let mut sent = 0;
    while writer.write_all(piece).await.is_ok() && writer.flush().await.is_ok() {
        sent += piece.len();
    }
    sent
}

/// Reads frames to the end; the code of a GOAWAY among them, and how it ended.
async fn frames(mut reader: impl AsyncRead + Unpin) -> (Option<u8>, Ending) {
    let (mut bytes, mut code) = (bytes::BytesMut::new(), None);
    loop {
        while let [_, high, low, kind, ..] = *bytes {
            let length = FRAME_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
            if bytes.len() < length {
                break;
            }
            let frame = bytes.split_to(length);
            if kind == GOAWAY {
                code = frame.get(FRAME_HEAD_BYTES + 7).copied();
            }
        }
        match reader.read_buf(&mut bytes).await {
            Ok(0) => return (code, Ending::Cut),
            Ok(_) => {}
            Err(_) => return (code, Ending::Reset),
        }
    }
}

fn static_status(block: &[u8]) -> u16 {
    // A change of the table's size may come first (RFC 7541 section 6.3).
    let first = block.iter().find(|byte| **byte & 0xe0 != 0x20);
    let index = first.and_then(|byte| usize::from(*byte).checked_sub(0x88));
    index.and_then(|index| STATUSES.get(index)).copied().unwrap_or(0)
}
