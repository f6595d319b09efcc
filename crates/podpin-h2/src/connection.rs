//! The connection, which belongs to the owner of a socket.

use std::sync::Arc;

use crate::budget::{Excess, Trust};
use crate::deadline::Due;
use crate::error::{Cause, Closed, ErrorCode};
use crate::event::Event;
use crate::frame::FRAME_HEAD_BYTES;
use crate::receive::Receiver;
use crate::respond::StreamMut;
use crate::schedule::{FRAME_PAYLOAD_MAX, SMALL, SMALL_ROOM};
use crate::settings::Config;
use crate::state::{Call, Phase, State};
use crate::stream::StreamId;
use podpin_time::Millis;

/// Unsent output beyond which a connection is cut: answers to a client that goes on sending and reads nothing.
const OUTPUT_BYTES_MORE: usize = 256 * 1024;

/// The server side of one HTTP/2 connection.
///
/// Bytes of the client go into [`Connection::receive`], which returns what they mean; what has to be sent is
/// appended to the `out` of every call, in whole frames, and the caller writes that to the socket when its turn
/// ends. The connection keeps neither: between two calls it holds the state of its streams, HPACK's table, and the
/// bytes of at most one incomplete field.
///
/// ```
/// use std::sync::Arc;
/// use podpin_h2::{Config, Connection, End, Event, Field, Millis, Trust};
///
/// let mut out = Vec::new();
/// let mut connection = Connection::accept(Arc::new(Config::default()), Trust::Client, Millis(0), &mut out);
///
/// // Preface, SETTINGS, and GET / on stream 1.
/// let mut input: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
///     \0\0\x08\x01\x05\0\0\0\x01\x82\x86\x84\x41\x03app";
/// while let Some(event) = connection.receive(Millis(1), &mut input, &mut out) {
///     if let Event::Request { stream, head, ends } = event {
///         assert_eq!((head.method(), head.path(), ends), (&b"GET"[..], Some(&b"/"[..]), true));
///         let mut stream = connection.stream(stream, Millis(1), &mut out).expect("it is open");
///         stream.head(200, [Field::new("content-type", "text/plain")], End::No)?;
///         assert_eq!(stream.data(b"hello", End::Yes)?, 5);
///     }
/// }
/// assert!(out.ends_with(b"\0\0\x05\0\x01\0\0\0\x01hello"));
/// # Ok::<(), podpin_h2::SendError>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    state: State,
    receiver: Receiver,
}

impl Connection {
    /// Begins a connection: appends this side's preface.
    #[must_use]
    pub fn accept(config: Arc<Config>, trust: Trust, now: Millis, out: &mut Vec<u8>) -> Connection {
        let receiver = Receiver::new(&config);
        Connection { state: State::new(config, trust, &mut Call { now, out }), receiver }
    }

    /// Takes input up to the next event and moves it behind that; `None` if it is used up.
    ///
    /// Call this until it returns `None`. Read on only while [`Connection::wants_input`].
    pub fn receive<'a>(&mut self, now: Millis, input: &mut &'a [u8], out: &mut Vec<u8>) -> Option<Event<'a>> {
        if self.closed().is_some() {
            *input = &[];
            return None;
        }
        let call = &mut Call { now, out };
        let received = self.receiver.receive(&mut self.state, input, call);
        let is_flooded = call.out.len() > self.state.config.output_bytes_max + OUTPUT_BYTES_MORE;
        match received {
            Ok(_) if is_flooded => Some(self.end(Excess::Frames.into(), call)),
            Ok(event) => event,
            Err(closed) => Some(self.end(closed, call)),
        }
    }

    /// Returns an open stream with the output that its frames are appended to; `None` if it is gone.
    pub fn stream<'a>(
        &'a mut self,
        id: StreamId,
        now: Millis,
        out: &'a mut Vec<u8>,
    ) -> Option<StreamMut<'a>> {
        self.state.streams.find(id)?;
        Some(StreamMut { state: &mut self.state, id, call: Call { now, out } })
    }

    /// Returns the next stream that has bytes to send and room for them, behind `pending` bytes of unsent output;
    /// `None` if none has. It is expected to send now: each is named once for each time that it could not.
    ///
    /// Call this until it returns `None`, after every write to the socket and every input.
    pub fn next_writer(&mut self, pending: usize) -> Option<StreamId> {
        let room = self.state.config.output_room(pending + FRAME_HEAD_BYTES);
        // With less room a frame is not worth a turn, and a stream that cannot use its turn would be named for ever.
        if self.state.send.bytes() == 0 || room < SMALL {
            return None;
        }
        self.state.schedule.next(self.state.streams.all(), room.div_ceil(FRAME_PAYLOAD_MAX))
    }

    /// Whether more input is welcome behind `pending` bytes of unsent output: a client that does not read its
    /// answers is not read either.
    #[must_use]
    pub fn wants_input(&self, pending: usize) -> bool {
        pending <= self.state.config.output_bytes_max + SMALL_ROOM
    }

    /// Returns when [`Connection::handle_timeout`] has to be called; `None` if nothing is due.
    #[must_use]
    pub fn due(&self) -> Option<Millis> {
        self.first_due().map(|(moment, _)| moment)
    }

    /// Does what is due; returns the end of the connection if it ends by that.
    pub fn handle_timeout(&mut self, now: Millis, out: &mut Vec<u8>) -> Option<Closed> {
        let call = &mut Call { now, out };
        while let Some((moment, due)) = self.first_due()
            && moment <= now
        {
            let closed = match due {
                // Behind output that the socket does not take nothing is read: the silence is no news.
                Due::Ping | Due::PingAck if !call.out.is_empty() => {
                    self.state.deadlines.heard = now;
                    continue;
                }
                Due::Ping => {
                    self.state.ask_alive(call);
                    continue;
                }
                Due::GoAway => {
                    self.state.leave(call);
                    continue;
                }
                Due::Unfinished => Excess::Unfinished.into(),
                Due::SettingsAck => Closed { code: ErrorCode::SETTINGS_TIMEOUT, cause: Cause::Unanswered },
                Due::PingAck => Closed { code: ErrorCode::NO_ERROR, cause: Cause::Unanswered },
                Due::Idle => Closed { code: ErrorCode::NO_ERROR, cause: Cause::Idle },
            };
            self.state.close(closed, call);
            return Some(closed);
        }
        None
    }

    /// Replaces the configuration: bounds and times hold from the next header block on. Streams, windows and extended
    /// CONNECT stay as they were announced.
    pub fn reconfigure(&mut self, config: &Arc<Config>) {
        if Arc::ptr_eq(config, &self.state.config) {
            return;
        }
        let announced = &self.state.config;
        self.state.config = if config.announces_as(announced) {
            Arc::clone(config)
        } else {
            Arc::new(config.as_announced_by(announced))
        };
        self.receiver.reconfigure(config);
    }

    /// Begins the end in two steps (RFC 9113 section 6.8): a GOAWAY that still takes streams on their way, and
    /// another after a round trip or a second. Open streams go on; a second call takes the second step at once.
    pub fn shut_down(&mut self, now: Millis, out: &mut Vec<u8>) {
        self.state.leave(&mut Call { now, out });
    }

    /// Ends the connection at once, with all its streams.
    pub fn close(&mut self, code: ErrorCode, now: Millis, out: &mut Vec<u8>) {
        self.state.close(Closed { code, cause: Cause::Local }, &mut Call { now, out });
    }

    /// Returns how the connection ended, `None` if it did not.
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        match self.state.phase {
            Phase::Closed(closed) => Some(closed),
            Phase::Open | Phase::Leaving | Phase::Left(_) => None,
        }
    }

    /// Whether nothing more will happen: it ended, or one side left and no stream is open.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        match self.state.phase {
            Phase::Closed(_) => true,
            Phase::Left(_) => self.open_streams() == 0,
            Phase::Open | Phase::Leaving => self.state.is_peer_leaving && self.open_streams() == 0,
        }
    }

    /// Returns how many streams are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.state.streams.len()
    }

    /// Returns how many streams the client has opened, those that were refused included.
    #[must_use]
    pub fn opened_streams(&self) -> u32 {
        self.state.streams.opened()
    }

    /// Returns the bytes of heap that the connection occupies, the shared configuration left out.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.state.streams.heap_bytes() + self.receiver.heap_bytes()
    }

    fn first_due(&self) -> Option<(Millis, Due)> {
        let activity = self.state.activity(self.receiver.is_within_body());
        self.closed().is_none().then(|| self.state.deadlines.first(&self.state.config, activity)).flatten()
    }

    fn end<'a>(&mut self, closed: Closed, call: &mut Call<'_>) -> Event<'a> {
        self.state.close(closed, call);
        Event::Closed(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::End;
    use crate::work;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn get(stream: u32) -> Vec<u8> {
        frame(1, 5, stream, b"\x82\x86\x84\x41\x03app")
    }

    /// A connection with so many streams that wait for their window.
    fn waiting(count: u32, out: &mut Vec<u8>) -> Connection {
        let mut connection =
            Connection::accept(Arc::new(Config::default()), Trust::Proxy(1000), Millis(0), out);
        let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, b"\0\x04\0\0\0\0")[..]].concat();
        let streams = (0..count).flat_map(|number| get(2 * number + 1));
        let bytes: Vec<u8> = begin.into_iter().chain(streams).collect();
        let mut input = &bytes[..];
        while let Some(event) = connection.receive(Millis(0), &mut input, out) {
            let Event::Request { stream, .. } = event else { panic!("no request: {event:?}") };
            let mut stream = connection.stream(stream, Millis(0), out).unwrap();
            stream.head(200, [], End::No).unwrap();
            assert_eq!(stream.data(&[0; 10_000], End::No), Ok(0));
        }
        connection
    }

    /// The steps that each byte of these frames costs, turns included.
    fn steps_per_byte(frames: &[u8]) -> usize {
        let mut out = Vec::new();
        let mut connection = waiting(100, &mut out);
        work::taken();
        for piece in frames.chunks(16 * 1024) {
            let mut input = piece;
            while let Some(event) = connection.receive(Millis(0), &mut input, &mut out) {
                assert!(!matches!(event, Event::Closed(_)), "{event:?}");
            }
            while connection.next_writer(0).is_some() {}
            out.clear();
        }
        work::taken() / frames.len()
    }

    #[test]
    fn work_is_linear_in_what_a_client_sends_whatever_streams_wait() {
        let resets: Vec<u8> = (0..100).flat_map(|number| frame(3, 0, 2 * number + 1, &[0; 4])).collect();
        let reopened: Vec<u8> =
            (100..2000).flat_map(|number| [frame(3, 0, 1, &[0; 4]), get(2 * number + 1)].concat()).collect();
        let cases = [
            ("windows of streams", frame(8, 0, 7, &1_u32.to_be_bytes()).repeat(10_000)),
            ("windows of the connection", frame(8, 0, 0, &1_u32.to_be_bytes()).repeat(10_000)),
            ("settings that move every window", frame(4, 0, 0, b"\0\x04\0\0\0\x01").repeat(1_000)),
            ("many settings in a frame", frame(4, 0, 0, &b"\0\x04\0\0\0\x01".repeat(2_700)).repeat(10)),
            ("pings", frame(6, 0, 0, &[0; 8]).repeat(10_000)),
            ("resets", resets),
            ("streams above the limit", reopened),
            ("references", frame(1, 5, 201, &[&[0x82, 0x86, 0x84][..], &[0x90; 16_000]].concat())),
        ];
        for (what, frames) in cases {
            let steps = steps_per_byte(&frames);
            assert!(steps <= 8, "{what}: {steps} steps for each byte");
        }
    }
}
