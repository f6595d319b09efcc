//! The frames of an HTTP/2 client, counted: those that cost work and bring no request are bounded.
//!
//! The h2 library answers every SETTINGS and PING, skips every PRIORITY, and counts resets only of streams that nobody
//! had taken yet: a client that opens a stream, waits until its pod was asked, resets it and opens the next has no
//! limit (CVE-2023-44487, one request at a time). Here each such frame takes from a budget that fills again with time.
//! Only frame heads are looked at (RFC 9113 section 4.1), on their way to the library; what a frame means is its
//! business, as are the limits of one head and of the resets that a client provokes (`h2.rs`).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use podpin_endpoints::Millis;
use tokio::sync::Notify;

/// What a client of one connection may reset at once: every stream that it may have open (100), twice.
const RESETS_AT_ONCE: u64 = 200;
/// And each second from then on: people who leave pages behind one shared connection, not a program that asks a pod for
/// nothing. Too low shows as `http2_connections_cut_total{reason="resets"}` without an attack.
const RESETS_PER_SECOND: u64 = 20;
/// Frames that say nothing: browsers send a few dozen priorities for a page and a PING now and then.
const IDLE_FRAMES_AT_ONCE: u64 = 1000;
const IDLE_FRAMES_PER_SECOND: u64 = 100;
/// Two windows move for each frame that we send, and a frame with a byte in it has ten.
const BYTES_PER_WINDOW_UPDATE: u64 = 5;
/// Windows that a client may move ahead of what it is sent; beyond, its updates say nothing.
const WINDOW_UPDATES_MAX: u64 = 100_000;

/// The preface of a client's connection (RFC 9113 section 3.4) has no frame head.
pub(super) const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const END_STREAM_OR_ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// More streams were reset than [`RESETS_PER_SECOND`] explains.
    Resets,
    /// More frames said nothing than [`IDLE_FRAMES_PER_SECOND`] explains.
    Frames,
    /// A frame, or a head of several, was begun and not finished in time.
    Unfinished,
}

impl Excess {
    /// As the label of a metric.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Excess::Resets => "resets",
            Excess::Frames => "frames",
            Excess::Unfinished => "unfinished",
        }
    }
}

/// Where whoever owns the connection hears that it has to be cut.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    excess: OnceLock<Excess>,
    raised: Notify,
}

impl Alarm {
    /// Says it once.
    pub(crate) fn raise(&self, excess: Excess) {
        if self.excess.set(excess).is_ok() {
            self.raised.notify_one();
        }
    }

    /// Whether it was raised.
    pub(crate) fn is_raised(&self) -> bool {
        self.excess().is_some()
    }

    /// Why it was raised.
    pub(crate) fn excess(&self) -> Option<Excess> {
        self.excess.get().copied()
    }

    /// Resolves when it is raised.
    pub(super) async fn raised(&self) -> Excess {
        loop {
            if let Some(excess) = self.excess() {
                return excess;
            }
            self.raised.notified().await;
        }
    }
}

/// Follows what a client sends on one connection.
#[derive(Debug)]
pub(crate) struct FrameWatch {
    preface_left: usize,
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    payload_left: usize,
    /// Between HEADERS and the END_HEADERS that ends them.
    inside_block: bool,
    began: Option<Millis>,
    head_timeout: Duration,
    resets: Budget,
    idle: Budget,
    window_updates: u64,
    pub(crate) alarm: Arc<Alarm>,
}

impl FrameWatch {
    /// For a connection that begins `now`, each of whose heads may take `head_timeout`.
    pub(crate) fn new(alarm: Arc<Alarm>, head_timeout: Duration, now: Millis) -> FrameWatch {
        FrameWatch {
            preface_left: PREFACE_BYTES,
            head: [0; FRAME_HEAD_BYTES],
            head_bytes: 0,
            payload_left: 0,
            inside_block: false,
            began: None,
            head_timeout,
            resets: Budget::new(RESETS_AT_ONCE, RESETS_PER_SECOND, now),
            idle: Budget::new(IDLE_FRAMES_AT_ONCE, IDLE_FRAMES_PER_SECOND, now),
            window_updates: 0,
            alarm,
        }
    }

    /// Takes note of what the client sent next.
    pub(crate) fn read(&mut self, mut bytes: &[u8], now: Millis) {
        skip(&mut bytes, &mut self.preface_left);
        while !bytes.is_empty() && !self.alarm.is_raised() {
            if self.began.is_none() {
                self.began = Some(now);
            }
            while self.head_bytes < FRAME_HEAD_BYTES
                && let Some((byte, rest)) = bytes.split_first()
            {
                if let Some(slot) = self.head.get_mut(self.head_bytes) {
                    *slot = *byte;
                }
                self.head_bytes += 1;
                bytes = rest;
                if self.head_bytes == FRAME_HEAD_BYTES {
                    self.begin(now);
                }
            }
            skip(&mut bytes, &mut self.payload_left);
            if self.head_bytes == FRAME_HEAD_BYTES && self.payload_left == 0 {
                self.head_bytes = 0;
                if !self.inside_block {
                    self.began = None;
                }
            }
        }
        if self.deadline().is_some_and(|due| due <= now) {
            self.alarm.raise(Excess::Unfinished);
        }
    }

    /// Takes note of bytes that the client was sent.
    pub(crate) fn wrote(&mut self, count: usize) {
        let more = u64::try_from(count).unwrap_or(0);
        self.grant(more);
    }

    /// When the time of a frame or head that was begun is up. A body's frame has none: how long a body may stall is the
    /// business of the request that has it.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        let [_, _, _, kind, ..] = self.head;
        let is_body = self.head_bytes == FRAME_HEAD_BYTES && kind == Kind::DATA;
        self.began.filter(|_| !is_body).map(|began| began.after(self.head_timeout))
    }

    /// A frame head is complete.
    fn begin(&mut self, now: Millis) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.payload_left = usize::try_from(length).unwrap_or(usize::MAX);
        let has = |flag: u8| flags & flag != 0;
        match kind {
            Kind::DATA if length > 0 || has(END_STREAM_OR_ACK) => {}
            Kind::HEADERS => {
                self.inside_block = !has(END_HEADERS);
                // A stream may be opened together with its window.
                self.grant(2 * BYTES_PER_WINDOW_UPDATE);
            }
            // How many of them a head may have is the library's to say.
            Kind::CONTINUATION => self.inside_block &= !has(END_HEADERS),
            Kind::RST_STREAM => {
                if !self.resets.take(now) {
                    self.alarm.raise(Excess::Resets);
                }
            }
            Kind::WINDOW_UPDATE if self.window_updates >= BYTES_PER_WINDOW_UPDATE => {
                self.window_updates -= BYTES_PER_WINDOW_UPDATE;
            }
            _ => {
                if !self.idle.take(now) {
                    self.alarm.raise(Excess::Frames);
                }
            }
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

/// So many at once, so many a second.
#[derive(Debug)]
struct Budget {
    most: u64,
    per_second: u64,
    /// In thousandths.
    left: u64,
    at: Millis,
}

impl Budget {
    fn new(most: u64, per_second: u64, now: Millis) -> Budget {
        Budget { most, per_second, left: most * 1000, at: now }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Millis) -> bool {
        let grown = now.0.saturating_sub(self.at.0).saturating_mul(self.per_second);
        self.at = now;
        self.left = self.left.saturating_add(grown).min(self.most * 1000);
        match self.left.checked_sub(1000) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
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
    fn let_through(frame: &[u8], pause: u64, chunk: usize) -> (usize, Option<Excess>) {
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
                assert_eq!(let_through(&bytes, 0, chunk), (1000, Some(Excess::Frames)), "type {kind}");
                assert_eq!(let_through(&bytes, 10, chunk), (5_000, None), "100 a second of type {kind}");
            }
            assert_eq!(let_through(&frame(3, 0, 4), 0, chunk), (200, Some(Excess::Resets)));
            assert_eq!(let_through(&frame(3, 0, 4), 50, chunk), (5_000, None), "20 resets a second");
            assert_eq!(let_through(&frame(0, 0, 100), 0, chunk), (5_000, None), "a body");
            assert_eq!(let_through(&frame(1, END_HEADERS, 30), 0, chunk), (5_000, None), "requests");
        }
    }

    #[test]
    fn windows_may_move_as_often_as_they_are_used() {
        let update = frame(Kind::WINDOW_UPDATE, 0, 4);
        assert_eq!(let_through(&update, 0, 1000), (1000, Some(Excess::Frames)), "nothing was sent");
        let mut watch = watch();
        for _ in 0..20_000 {
            watch.wrote(10);
            watch.read(&update, Millis(0));
            watch.read(&update, Millis(0));
        }
        assert!(!watch.alarm.is_raised(), "two for each frame of one byte");
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
        assert_eq!(watch.alarm.excess(), Some(Excess::Unfinished));
    }
}
