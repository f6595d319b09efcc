//! The frames of an HTTP/2 connection, counted: those that cost work and bring no request are bounded.
//!
//! The h2 library answers every SETTINGS and PING, skips every PRIORITY, and counts resets only of streams that were
//! not accepted yet: a client that opens a stream, waits until its request was forwarded, resets it and opens the next
//! has no limit (CVE-2023-44487, one request at a time), and the limit for resets that it makes us send (CVE-2025-8671)
//! is for the life of a connection, which a proxy in front of us may use for all of its clients and for weeks. Here
//! each such frame takes from a budget that fills again with time and with requests. Only frame heads are looked at
//! (RFC 9113 section 4.1), on their way to and from the library; what a frame means is its business, as is the size of
//! a head. Only the fields of trailers are counted besides (`http2_fields.rs`).

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use podpin_time::Millis;

use crate::http1::request_head::FIELDS_MAX;
use crate::http2_fields::FieldCounter;

/// Streams that a client may reset at once: every stream that it may have open (100), twice. Then so many a second:
/// people who leave pages behind one shared connection, not a program that asks a pod for nothing. Too low shows as
/// `http2_connections_cut_total{reason="resets"}` without an attack.
const RESETS: Rate = Rate { at_once: 200, per_second: 20, requests_each: 4 };
/// Resets that the client makes us send: requests that are malformed or break flow control. Clients that count never do.
const PROVOKED: Rate = Rate { at_once: 100, per_second: 5, requests_each: 10 };
/// Frames that say nothing: browsers send a few dozen priorities for a page and a PING now and then. Streams that are
/// refused for being too many count here as well: no pod hears of them, and before our SETTINGS a client cannot know.
const IDLE: Rate = Rate { at_once: 1000, per_second: 100, requests_each: 1 };
/// Two windows move for each frame that we send, and a frame with a byte in it has ten.
const BYTES_PER_WINDOW_UPDATE: u64 = 5;
/// Trailer sections of more than [`FIELDS_MAX`] fields for the life of a connection. The library holds each until its
/// stream ends, up to 240 KiB; so few weigh less than the heads that a connection may have. Proxies in front of us refuse such
/// trailers themselves, so that one client cannot use up what others share.
const LONG_TRAILERS_MAX: u32 = 4;
/// Windows that a client may move ahead of what it is sent; beyond, its updates say nothing.
const WINDOW_UPDATES_MAX: u64 = 100_000;

/// The preface of a client's connection (RFC 9113 section 3.4) has no frame head.
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const END_STREAM_OR_ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
/// REFUSED_STREAM, and the error codes that say that the client was wrong (RFC 9113 section 7): PROTOCOL_ERROR,
/// FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, COMPRESSION_ERROR.
const REFUSED: u8 = 7;
const CLIENT_ERRORS: [u8; 5] = [1, 3, 5, 6, 9];

/// The reason why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodKind {
    /// The client reset more streams than `RESETS` explains.
    Resets,
    /// The client made us reset more streams than `PROVOKED` explains.
    Provoked,
    /// More frames said nothing than `IDLE` explains.
    Frames,
    /// A frame, or a head of several, was begun and not finished in time.
    Unfinished,
    /// More than `LONG_TRAILERS_MAX` trailer sections had too many fields.
    Trailers,
}

impl FloodKind {
    /// Returns the label of the metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FloodKind::Resets => "resets",
            FloodKind::Provoked => "provoked",
            FloodKind::Frames => "frames",
            FloodKind::Unfinished => "unfinished",
            FloodKind::Trailers => "trailers",
        }
    }
}

/// Signal to the owner of a connection that it has to be cut.
#[derive(Debug, Default)]
pub struct FloodAlarm {
    excess: OnceLock<FloodKind>,
    waker: AtomicWaker,
}

impl FloodAlarm {
    /// Raises the alarm; only the first reason is kept.
    pub fn raise(&self, excess: FloodKind) {
        if self.excess.set(excess).is_ok() {
            self.waker.wake();
        }
    }

    /// Returns whether the alarm was raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.excess().is_some()
    }

    /// Returns the reason; `None` if the alarm was not raised.
    #[must_use]
    pub fn excess(&self) -> Option<FloodKind> {
        self.excess.get().copied()
    }

    /// Polls for the reason: ready when the alarm is raised; wakes the one task that polled it last.
    pub fn poll_raised(&self, context: &Context<'_>) -> Poll<FloodKind> {
        self.waker.register(context.waker());
        self.excess().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Follows one connection, in both directions.
#[derive(Debug)]
pub struct FrameWatch {
    preface_left: usize,
    inbound: Cursor,
    outbound: Cursor,
    /// Between HEADERS and the END_HEADERS that ends them.
    inside_block: bool,
    fields: FieldCounter,
    /// The highest stream with a head so far.
    last_stream: u32,
    /// The block is a trailer section that was not found too long yet.
    counts_trailers: bool,
    long_trailers: u32,
    began: Option<Millis>,
    head_timeout: Duration,
    resets: Budget,
    provoked: Budget,
    idle: Budget,
    window_updates: u64,
    /// FloodAlarm that is raised once the connection has to end.
    pub alarm: Arc<FloodAlarm>,
}

impl FrameWatch {
    /// For a connection that begins `now`, each of whose heads may take `head_timeout`.
    pub fn new(alarm: Arc<FloodAlarm>, head_timeout: Duration, now: Millis) -> FrameWatch {
        FrameWatch {
            preface_left: PREFACE_BYTES,
            inbound: Cursor::default(),
            outbound: Cursor::default(),
            inside_block: false,
            fields: FieldCounter::default(),
            last_stream: 0,
            counts_trailers: false,
            long_trailers: 0,
            began: None,
            head_timeout,
            resets: Budget::new(RESETS, now),
            provoked: Budget::new(PROVOKED, now),
            idle: Budget::new(IDLE, now),
            window_updates: 0,
            alarm,
        }
    }

    /// Takes note of what the client sent next.
    pub fn read(&mut self, mut bytes: &[u8], now: Millis) {
        skip(&mut bytes, &mut self.preface_left);
        while !self.alarm.is_raised() {
            if self.began.is_none() && !bytes.is_empty() {
                self.began = Some(now);
            }
            let (payload, before) = (self.inbound.is_within_payload(), bytes);
            let mark = self.inbound.advance(&mut bytes);
            if payload && self.counts_trailers {
                self.count_trailers(before.get(..before.len() - bytes.len()).unwrap_or_default());
            }
            match mark {
                Some(Mark::Head) => self.begin(now),
                Some(Mark::End) if !self.inside_block => self.began = None,
                Some(Mark::End) => {}
                None => break,
            }
        }
        if self.deadline().is_some_and(|due| due <= now) {
            self.alarm.raise(FloodKind::Unfinished);
        }
    }

    /// Takes note of what the client was sent.
    pub fn wrote(&mut self, mut bytes: &[u8], now: Millis) {
        self.grant(u64::try_from(bytes.len()).unwrap_or(0));
        while let Some(mark) = self.outbound.advance(&mut bytes) {
            if mark == Mark::End && self.outbound.kind() == Kind::RST_STREAM {
                self.sent_reset(self.outbound.last, now);
            }
        }
    }

    fn sent_reset(&mut self, code: u8, now: Millis) {
        if code == REFUSED {
            self.count_idle(now);
        } else if CLIENT_ERRORS.contains(&code) && !self.provoked.take(now) {
            self.alarm.raise(FloodKind::Provoked);
        }
    }

    /// When the time of a frame or head that was begun is up. A body's frame has none: how long a body may stall is the
    /// business of the request that has it.
    pub fn deadline(&self) -> Option<Millis> {
        let is_body = self.inbound.is_within_payload() && self.inbound.kind() == Kind::DATA;
        self.began.filter(|_| !is_body).map(|began| began.after(self.head_timeout))
    }

    /// The head of a frame of the client is complete.
    fn begin(&mut self, now: Millis) {
        let [.., flags, a, b, c, d] = self.inbound.head;
        let has = |flag: u8| flags & flag != 0;
        match self.inbound.kind() {
            Kind::DATA if self.inbound.payload_left > 0 || has(END_STREAM_OR_ACK) => {}
            Kind::HEADERS => {
                self.inside_block = !has(END_HEADERS);
                let stream = u32::from_be_bytes([a & 0x7f, b, c, d]);
                self.counts_trailers = stream <= self.last_stream;
                self.last_stream = self.last_stream.max(stream);
                self.fields.begin(flags, self.inbound.payload_left);
                for budget in [&mut self.resets, &mut self.provoked, &mut self.idle] {
                    budget.earn();
                }
                // A stream may be opened together with its window.
                self.grant(2 * BYTES_PER_WINDOW_UPDATE);
            }
            // How many of them a head may have is the library's to say.
            Kind::CONTINUATION => {
                self.inside_block &= !has(END_HEADERS);
                self.fields.resume(self.inbound.payload_left);
            }
            Kind::RST_STREAM => {
                if !self.resets.take(now) {
                    self.alarm.raise(FloodKind::Resets);
                }
            }
            Kind::WINDOW_UPDATE if self.window_updates >= BYTES_PER_WINDOW_UPDATE => {
                self.window_updates -= BYTES_PER_WINDOW_UPDATE;
            }
            _ => self.count_idle(now),
        }
    }

    /// Counts a trailer section as soon as it has too many fields.
    fn count_trailers(&mut self, payload: &[u8]) {
        let is_block = matches!(self.inbound.kind(), Kind::HEADERS | Kind::CONTINUATION);
        if is_block && self.fields.push(payload) > FIELDS_MAX {
            self.counts_trailers = false;
            self.long_trailers += 1;
            if self.long_trailers > LONG_TRAILERS_MAX {
                self.alarm.raise(FloodKind::Trailers);
            }
        }
    }

    fn count_idle(&mut self, now: Millis) {
        if !self.idle.take(now) {
            self.alarm.raise(FloodKind::Frames);
        }
    }

    /// Window updates are counted in bytes, so that a small write grants its part of one.
    fn grant(&mut self, bytes: u64) {
        let most = WINDOW_UPDATES_MAX * BYTES_PER_WINDOW_UPDATE;
        self.window_updates = self.window_updates.saturating_add(bytes).min(most);
    }
}

/// The types of frames that are told apart (RFC 9113 section 6).
struct Kind;

impl Kind {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
}

/// Where one direction is, within a frame or between two.
#[derive(Debug, Default)]
struct Cursor {
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    payload_left: usize,
    /// The last byte of payload so far: of an error code the one that tells.
    last: u8,
}

/// A point in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// The head of the frame is complete.
    Head,
    /// The frame is complete.
    End,
}

impl Cursor {
    /// Takes bytes up to the next mark; `None` if they end first.
    fn advance(&mut self, bytes: &mut &[u8]) -> Option<Mark> {
        while let Some(slot) = self.head.get_mut(self.head_bytes) {
            let (byte, rest) = bytes.split_first()?;
            (*slot, *bytes) = (*byte, rest);
            self.head_bytes += 1;
            if self.head_bytes == FRAME_HEAD_BYTES {
                let [high, middle, low, ..] = self.head;
                let length = u32::from_be_bytes([0, high, middle, low]);
                self.payload_left = usize::try_from(length).unwrap_or(usize::MAX);
                return Some(Mark::Head);
            }
        }
        let count = bytes.len().min(self.payload_left);
        self.last = bytes.get(..count).and_then(<[u8]>::last).copied().unwrap_or(self.last);
        skip(bytes, &mut self.payload_left);
        (self.payload_left == 0).then(|| {
            self.head_bytes = 0;
            Mark::End
        })
    }

    fn is_within_payload(&self) -> bool {
        self.head_bytes == FRAME_HEAD_BYTES
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.head;
        kind
    }
}

/// So many at once, so many a second, and one more for each so many requests.
#[derive(Clone, Copy, Debug)]
struct Rate {
    at_once: u64,
    per_second: u64,
    requests_each: u64,
}

/// The unused part of a rate.
#[derive(Debug)]
struct Budget {
    rate: Rate,
    /// In thousandths.
    left: u64,
    at: Millis,
}

impl Budget {
    fn new(rate: Rate, now: Millis) -> Budget {
        Budget { rate, left: rate.at_once * 1000, at: now }
    }

    /// A request came.
    fn earn(&mut self) {
        self.grow(1000 / self.rate.requests_each);
    }

    fn grow(&mut self, thousandths: u64) {
        self.left = self.left.saturating_add(thousandths).min(self.rate.at_once * 1000);
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Millis) -> bool {
        self.grow(now.0.saturating_sub(self.at.0).saturating_mul(self.rate.per_second));
        self.at = now;
        let left = self.left.checked_sub(1000);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// Drops as much of `bytes` as is `left` to be dropped.
fn skip(bytes: &mut &[u8], left: &mut usize) {
    let count = bytes.len().min(*left);
    *bytes = bytes.get(count..).unwrap_or_default();
    *left -= count;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(bytes.len() + payload, 0xff);
        bytes
    }

    fn watch() -> FrameWatch {
        let mut watch = FrameWatch::new(Arc::default(), Duration::from_millis(1), Millis(0));
        watch.read(&[b'P'; PREFACE_BYTES], Millis(0));
        watch
    }

    /// How many of these frames in a row, each after `pause`, are let through; at most 5,000.
    fn let_through(frame: &[u8], pause: u64, chunk: usize) -> (usize, Option<FloodKind>) {
        let mut watch = watch();
        for count in 0..5_000 {
            let now = Millis(count * pause);
            frame.chunks(chunk).for_each(|piece| watch.read(piece, now));
            if watch.alarm.is_raised() {
                return (usize::try_from(count).unwrap(), watch.alarm.excess());
            }
        }
        (5_000, None)
    }

    #[test]
    fn frames_that_bring_nothing_are_bounded_however_they_are_cut() {
        for chunk in [1, 7, 1000] {
            for (kind, flags, payload) in [(SETTINGS, 0, 6), (PING, 0, 8), (2, 0, 5), (0, 0, 0), (0x10, 0, 9)]
            {
                let bytes = frame(kind, flags, payload);
                assert_eq!(let_through(&bytes, 0, chunk), (1000, Some(FloodKind::Frames)), "type {kind}");
                assert_eq!(let_through(&bytes, 10, chunk), (5_000, None), "100 a second of type {kind}");
            }
            assert_eq!(let_through(&frame(3, 0, 4), 0, chunk), (200, Some(FloodKind::Resets)));
            assert_eq!(let_through(&frame(3, 0, 4), 50, chunk), (5_000, None), "20 resets a second");
            assert_eq!(let_through(&frame(0, 0, 100), 0, chunk), (5_000, None), "a body");
            assert_eq!(let_through(&frame(1, END_HEADERS, 30), 0, chunk), (5_000, None), "requests");
        }
    }

    #[test]
    fn windows_may_move_as_often_as_they_are_used() {
        let update = frame(Kind::WINDOW_UPDATE, 0, 4);
        assert_eq!(let_through(&update, 0, 1000), (1000, Some(FloodKind::Frames)), "nothing was sent");
        let mut watch = watch();
        for _ in 0..20_000 {
            watch.wrote(&frame(Kind::DATA, 0, 1), Millis(0));
            watch.read(&update, Millis(0));
            watch.read(&update, Millis(0));
        }
        assert!(!watch.alarm.is_raised(), "two for each frame of one byte");
    }

    /// How many requests, each followed by this frame of ours, are let through at once; at most 5,000.
    fn answered_with(code: u8) -> (u64, Option<FloodKind>) {
        let mut watch = watch();
        let reset = [frame(Kind::RST_STREAM, 0, 3), vec![code]].concat();
        let reset = [&[0, 0, 4], &reset[3..]].concat();
        for count in 0..5_000 {
            watch.read(&frame(Kind::HEADERS, END_HEADERS, 5), Millis(0));
            reset.chunks(5).for_each(|piece| watch.wrote(piece, Millis(0)));
            if watch.alarm.is_raised() {
                return (count, watch.alarm.excess());
            }
        }
        (5_000, None)
    }

    #[test]
    fn resets_that_the_client_provokes_are_bounded_and_others_are_not() {
        for code in CLIENT_ERRORS {
            assert_eq!(answered_with(code), (111, Some(FloodKind::Provoked)), "code {code}");
        }
        for code in [0, 2, 8, REFUSED] {
            assert_eq!(answered_with(code), (5_000, None), "code {code}");
        }
    }

    #[test]
    fn trailers_with_too_many_fields_end_a_connection_after_a_few_and_heads_do_not() {
        let fields = |count: usize, stream: u8| {
            let mut bytes = frame(Kind::HEADERS, END_HEADERS, count);
            bytes[8] = stream;
            bytes[FRAME_HEAD_BYTES..].fill(0xbe);
            bytes
        };
        for chunk in [1, 7, 1000] {
            let mut watch = watch();
            let mut read = |bytes: Vec<u8>| {
                bytes.chunks(chunk).for_each(|piece| watch.read(piece, Millis(0)));
                watch.alarm.excess()
            };
            for stream in 0..20 {
                assert_eq!(read(fields(900, 2 * stream + 1)), None, "a head");
                assert_eq!(read(fields(FIELDS_MAX, 2 * stream + 1)), None, "trailers");
            }
            for left in (0..LONG_TRAILERS_MAX).rev() {
                assert_eq!(read(fields(FIELDS_MAX + 1, 1)), None, "{left} more");
            }
            assert_eq!(read(fields(FIELDS_MAX + 1, 1)), Some(FloodKind::Trailers));
        }
    }

    #[test]
    fn whoever_gets_answers_may_leave_some_of_them() {
        let mut watch = watch();
        for _ in 0..5_000 {
            watch.read(&frame(Kind::HEADERS, END_HEADERS, 5).repeat(4), Millis(0));
            watch.read(&frame(Kind::RST_STREAM, 0, 4), Millis(0));
        }
        assert!(!watch.alarm.is_raised(), "one of four");
    }

    #[test]
    fn a_head_has_so_long_from_its_first_byte_to_its_last_and_a_body_has_not() {
        let limit = Duration::from_millis(100);
        let mut watch = FrameWatch::new(Arc::default(), limit, Millis(0));
        watch.read(&[b'P'; PREFACE_BYTES], Millis(0));
        let headers = frame(Kind::HEADERS, 0, 10);
        watch.read(&headers[..4], Millis(5));
        assert_eq!(watch.deadline(), Some(Millis(105)), "within the frame's head");
        watch.read(&headers[4..], Millis(6));
        assert_eq!(watch.deadline(), Some(Millis(105)), "before END_HEADERS");
        watch.read(&frame(Kind::CONTINUATION, 0, 0), Millis(7));
        assert_eq!(watch.deadline(), Some(Millis(105)), "an empty continuation changes nothing");
        watch.read(&frame(Kind::CONTINUATION, END_HEADERS, 3), Millis(8));
        assert_eq!(watch.deadline(), None);
        let data = frame(Kind::DATA, 0, 100);
        watch.read(&data[..50], Millis(9));
        assert_eq!(watch.deadline(), None, "within a body");
        watch.read(&data[50..], Millis(10));
        watch.read(&frame(PING, 0, 8)[..12], Millis(11));
        assert_eq!(watch.deadline(), Some(Millis(111)));
        watch.read(&[0], Millis(111));
        assert_eq!(watch.alarm.excess(), Some(FloodKind::Unfinished));
    }
}
