//! Flow-control windows in both directions (RFC 9113 section 5.2).
//!
//! A receive window is at any moment the sum of three: what the client may still send, what the caller holds, and
//! what it has consumed and is not given back yet. Nothing else takes from a window or adds to it.
//!
//! Streams begin with small windows and double while their consumer keeps up with a sender that waits for the window:
//! half a window that comes and is consumed within a round trip, or a whole one within two. All that streams are granted beyond their
//! beginning has to fit into the connection's window beside the beginnings of all others: one that stalls then
//! stops no other.

use crate::settings::{Config, INITIAL_WINDOW, WINDOW_MAX};
use podpin_time::Millis;

/// A round trip that is shorter is taken for this: a millisecond is as fine as the clock gets.
const ROUND_TRIP_MIN: u64 = 10;
/// The part of a connection's window that is consumed before it is given back.
const CONNECTION_PART: u32 = 8;

/// A window that the client grants and that may be below zero (RFC 9113 section 6.9.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWindow(i64);

/// A window above 2^31-1, which is an error of its stream or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl SendWindow {
    /// Returns a window of so many bytes.
    pub(crate) fn new(bytes: u32) -> SendWindow {
        SendWindow(bytes.into())
    }

    /// Returns the bytes that may be sent.
    pub(crate) fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Takes bytes that are sent, never more than [`SendWindow::bytes`].
    pub(crate) fn take(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Grows by an update, or moves with the initial window.
    pub(crate) fn shift(&mut self, bytes: i64) -> Result<(), TooLarge> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > i64::from(WINDOW_MAX) { Err(TooLarge) } else { Ok(()) }
    }
}

/// The window that the client has for all its streams together.
#[derive(Debug)]
pub(crate) struct ConnectionWindow {
    size: u32,
    available: u32,
    owed: u32,
    /// The growth that is left for all streams together.
    growth: u32,
}

impl ConnectionWindow {
    /// Returns the window of a configuration and the update that announces it, 0 if there is nothing to announce.
    pub(crate) fn new(config: &Config) -> (ConnectionWindow, u32) {
        let size = config.connection_window.clamp(INITIAL_WINDOW, WINDOW_MAX);
        let beginnings = config.streams_max.saturating_mul(config.stream_window);
        let growth = (size - size / CONNECTION_PART).saturating_sub(beginnings);
        (ConnectionWindow { size, available: size, owed: 0, growth }, size - INITIAL_WINDOW)
    }

    /// Takes bytes that came; false if they are more than the window has.
    #[must_use]
    pub(crate) fn take(&mut self, bytes: u32) -> bool {
        take(&mut self.available, bytes)
    }

    /// Takes note of bytes that were consumed; returns the update to send, 0 if it can wait.
    #[must_use]
    pub(crate) fn give_back(&mut self, bytes: u32) -> u32 {
        self.owed += bytes;
        if self.owed < self.size / CONNECTION_PART {
            return 0;
        }
        self.available += self.owed;
        std::mem::take(&mut self.owed)
    }

    /// Returns to the other streams what one that ended had grown by.
    pub(crate) fn release_growth(&mut self, bytes: u32) {
        self.growth += bytes;
    }

    #[cfg(test)]
    pub(crate) fn sum(&self, held: u32) -> bool {
        self.available + self.owed + held == self.size
    }
}

/// The window that the client has for one stream.
#[derive(Debug)]
pub(crate) struct StreamWindow {
    size: u32,
    available: u32,
    owed: u32,
    held: u32,
    /// The moment at which the half of the window that is being consumed began.
    since: Millis,
}

/// The circumstances under which a window may grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) now: Millis,
    /// The round trip in milliseconds, 0 if nothing is known of it.
    pub(crate) round_trip: u64,
    /// The size that no stream's window passes.
    pub(crate) size_max: u32,
}

impl StreamWindow {
    /// Returns the window of a stream that begins.
    pub(crate) fn new(size: u32, now: Millis) -> StreamWindow {
        StreamWindow { size, available: size, owed: 0, held: 0, since: now }
    }

    /// Takes bytes of a frame that came; false if they are more than the window has.
    #[must_use]
    pub(crate) fn take(&mut self, bytes: u32) -> bool {
        let is_within = take(&mut self.available, bytes);
        self.held += if is_within { bytes } else { 0 };
        is_within
    }

    /// Returns the bytes that were taken and not consumed.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }

    /// Consumes up to so many of the bytes that are held; returns how many those were.
    pub(crate) fn consume(&mut self, bytes: u32) -> u32 {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.owed += bytes;
        bytes
    }

    /// Returns the update to send, 0 if it can wait.
    #[must_use]
    pub(crate) fn update(&mut self, pace: Pace, connection: &mut ConnectionWindow) -> u32 {
        if self.owed < self.size / 2 {
            return 0;
        }
        // A consumer that takes all there is at once takes a window each round trip and a little more.
        let took = pace.now.since(self.since).as_millis();
        let round_trip = u128::from(pace.round_trip.max(ROUND_TRIP_MIN));
        let is_waited_for = took * u128::from(self.size) <= 2 * round_trip * u128::from(self.owed);
        let growth = self.size.min(pace.size_max.saturating_sub(self.size));
        let growth = if is_waited_for && growth <= connection.growth { growth } else { 0 };
        connection.growth -= growth;
        self.size += growth;
        self.since = pace.now;
        let update = self.owed + growth;
        self.available += update;
        self.owed = 0;
        update
    }

    /// Returns what the window has grown by since it began with `initial` bytes.
    pub(crate) fn growth(&self, initial: u32) -> u32 {
        self.size.saturating_sub(initial)
    }

    #[cfg(test)]
    fn is_whole(&self) -> bool {
        self.available + self.owed + self.held == self.size
    }
}

fn take(available: &mut u32, bytes: u32) -> bool {
    let left = available.checked_sub(bytes);
    *available = left.unwrap_or(*available);
    left.is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_send_window_shrinks_below_zero_and_has_an_end() {
        let mut window = SendWindow::new(100);
        window.take(60);
        window.shift(-90).unwrap();
        assert_eq!(window.bytes(), 0);
        window.shift(60).unwrap();
        assert_eq!(window.bytes(), 10);
        assert_eq!(window.shift(WINDOW_MAX.into()), Err(TooLarge));
    }

    /// Sends as much as the window allows each round trip, for so many milliseconds; returns the bytes.
    fn upload(config: &Config, [round_trip, milliseconds, consumes_after, piece]: [u32; 4]) -> (u64, u32) {
        let [round_trip, milliseconds, consumes_after] =
            [round_trip, milliseconds, consumes_after].map(u64::from);
        let (mut connection, _) = ConnectionWindow::new(config);
        let mut stream = StreamWindow::new(config.stream_window, Millis(0));
        let mut sent = 0;
        let mut now = round_trip;
        while now < milliseconds {
            let bytes = stream.available;
            assert!(stream.take(bytes) && connection.take(bytes));
            sent += u64::from(bytes);
            for _ in 0..bytes.div_ceil(piece) {
                let consumed = stream.consume(piece);
                now += consumes_after;
                let pace = Pace { now: Millis(now), round_trip, size_max: config.stream_window_max };
                let _updates = (stream.update(pace, &mut connection), connection.give_back(consumed));
            }
            now += round_trip;
        }
        (sent, stream.size)
    }

    #[test]
    fn an_upload_of_3_mb_over_100_ms_takes_what_bandwidth_says() {
        // Frames of 16 KiB that are consumed as they come; all that is there at once, and a little late.
        for (piece, late) in [(16_384, 0), (u32::MAX, 1)] {
            let (sent, size) = upload(&Config::default(), [100, 900, late, piece]);
            assert!(sent >= 3_000_000, "{sent} bytes in 900 ms, window {size}, pieces of {piece}");
            assert_eq!(size, 1 << 20);
        }
    }

    #[test]
    fn a_window_does_not_grow_for_a_consumer_that_is_slower_than_its_sender() {
        for piece in [16_384, u32::MAX] {
            let (_, size) = upload(&Config::default(), [10, 10_000, 200, piece]);
            assert_eq!(size, INITIAL_WINDOW);
        }
    }

    #[test]
    fn streams_that_stall_after_they_grew_never_stop_the_others() {
        let config = Config::default();
        let (mut connection, _) = ConnectionWindow::new(&config);
        let pace = Pace { now: Millis(0), round_trip: 100, size_max: config.stream_window_max };
        let mut streams: Vec<_> =
            (0..config.streams_max).map(|_| StreamWindow::new(config.stream_window, Millis(0))).collect();
        // All grow as far as they may, and then every one holds all that it has.
        for stream in &mut streams {
            for _ in 0..10 {
                let bytes = stream.available;
                assert!(stream.take(bytes) && connection.take(bytes));
                stream.consume(bytes);
                let _updates = (stream.update(pace, &mut connection), connection.give_back(bytes));
            }
        }
        let mut held = 0;
        for stream in &mut streams {
            let bytes = stream.available;
            assert!(
                stream.take(bytes) && connection.take(bytes),
                "the connection's window never comes first"
            );
            held += bytes;
        }
        assert!(held > 12 << 20, "{held}");
    }

    proptest! {
        #[test]
        fn what_is_given_back_is_what_was_consumed(
            steps in prop::collection::vec((0_usize..3, 0_u32..40_000, 0_u32..40_000, 0_u64..50), 1..200),
        ) {
            let config = Config { connection_window: 200_000, streams_max: 3, stream_window: 30_000, stream_window_max: 90_000, ..Config::default() };
            let (mut connection, announced) = ConnectionWindow::new(&config);
            let mut streams: Vec<_> = (0..3).map(|_| StreamWindow::new(config.stream_window, Millis(0))).collect();
            // As the client sees them.
            let mut client = [30_000_u64; 3];
            let mut client_connection = u64::from(announced + INITIAL_WINDOW);
            let (mut consumed, mut given, mut now) = (0_u64, 0_u64, 0);
            for (which, sent, eaten, wait) in steps {
                now += wait;
                let sent = u64::from(sent).min(client[which]).min(client_connection);
                let stream = &mut streams[which];
                let bytes = u32::try_from(sent).unwrap();
                prop_assert!(stream.take(bytes) && connection.take(bytes), "a client that keeps to its windows");
                client[which] -= sent;
                client_connection -= sent;
                let eaten = stream.consume(eaten);
                consumed += u64::from(eaten);
                let pace = Pace { now: Millis(now), round_trip: 20, size_max: config.stream_window_max };
                client[which] += u64::from(stream.update(pace, &mut connection));
                let update = u64::from(connection.give_back(eaten));
                client_connection += update;
                given += update;
                prop_assert!(streams.iter().all(StreamWindow::is_whole));
                prop_assert!(connection.sum(streams.iter().map(StreamWindow::held).sum()));
                prop_assert_eq!(given + u64::from(connection.owed), consumed);
                let grown: u32 = streams.iter().map(|stream| stream.growth(30_000)).sum();
                prop_assert!(grown + 90_000 <= 175_000);
            }
        }
    }
}
