//! Sends responses: heads, bodies in frames whose head stands before them in the same buffer, trailers, resets.

use crate::error::ErrorCode;
use crate::frame::{self, FRAME_HEAD_BYTES, FrameHead, Kind, flag};
use crate::head::Field;
use crate::hpack::Encoder;
use crate::schedule::{FRAME_PAYLOAD_MAX, SMALL, SMALL_ROOM};
use crate::state::{Call, State};
use crate::stream::{Outgoing, Stream, StreamId, Turn};

/// Whether a message ends with what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The message goes on.
    No,
    /// The message ends.
    Yes,
}

/// The reason why something was not sent: the caller asked for what its stream cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// A stream whose response has ended.
    #[error("the response has ended")]
    Ended,
    /// A body or trailers before the head.
    #[error("the response has no head yet")]
    NoHead,
    /// A second head.
    #[error("the response has a head already")]
    HasHead,
    /// A status outside 200 to 999 for a head, or outside 100 to 199 or 101 for an interim one.
    #[error("the status is not one for this head")]
    Status,
}

/// A frame of a body whose payload stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFrame {
    /// The frame's head, to be written before the payload; nothing is to be written if the payload is empty and the
    /// piece was not.
    pub head: [u8; FRAME_HEAD_BYTES],
    /// Bytes of the piece that are the frame's payload.
    pub payload: usize,
}

/// An open stream, borrowed together with the connection's output.
///
/// ```
/// # use std::sync::Arc;
/// # use podpin_h2::{Config, Connection, End, Event, Field, Millis, Trust};
/// # let mut out = Vec::new();
/// # let now = Millis(0);
/// # let mut connection = Connection::accept(Arc::new(Config::default()), Trust::Client, now, &mut out);
/// # let mut input: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
/// #     \0\0\x08\x01\x05\0\0\0\x01\x82\x86\x84\x41\x03app";
/// # let Some(Event::Request { stream: id, .. }) = connection.receive(now, &mut input, &mut out) else { panic!() };
/// let mut stream = connection.stream(id, now, &mut out).expect("it is open");
/// stream.interim(103, [Field::new("link", "</style.css>; rel=preload")])?;
/// stream.head(200, [Field::new("content-type", "text/event-stream")], End::No)?;
///
/// // An event, framed where it stands: the caller writes the frame's head, then so much of the payload.
/// let frame = stream.frame(b"data: hello\n\n".len(), End::No)?;
/// assert_eq!((frame.payload, &frame.head), (13, b"\0\0\x0d\0\0\0\0\0\x01"));
///
/// stream.trailers([Field::new("x-events", "1")])?;
/// assert_eq!(connection.open_streams(), 0);
/// # Ok::<(), podpin_h2::SendError>(())
/// ```
#[derive(Debug)]
pub struct StreamMut<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) id: StreamId,
    pub(crate) call: Call<'a>,
}

impl StreamMut<'_> {
    /// Sends an interim response (RFC 9110 section 15.2): any number before the head.
    ///
    /// # Errors
    /// `Err` if the head was sent, or the status is not a 1xx or is 101, which HTTP/2 does not have.
    pub fn interim<'f>(
        &mut self,
        status: u16,
        fields: impl IntoIterator<Item = Field<'f>>,
    ) -> Result<(), SendError> {
        if !(100..200).contains(&status) || status == 101 {
            return Err(SendError::Status);
        }
        self.expect(Outgoing::Head)?;
        self.headers(Some(status), fields, 0);
        Ok(())
    }

    /// Sends the head. Names are written in lower case; fields of an HTTP/1.1 connection are left out.
    ///
    /// # Errors
    /// `Err` if there was one, or the status is below 200.
    pub fn head<'f>(
        &mut self,
        status: u16,
        fields: impl IntoIterator<Item = Field<'f>>,
        end: End,
    ) -> Result<(), SendError> {
        if !(200..1000).contains(&status) {
            return Err(SendError::Status);
        }
        self.expect(Outgoing::Head)?.outgoing = Outgoing::Body;
        self.headers(Some(status), fields, end_flag(end));
        self.finish_if(end);
        Ok(())
    }

    /// Sends a piece of the body; returns how much of it went. The rest is the caller's to keep: the stream waits,
    /// and [`crate::Connection::next_writer`] names it when there is room for more.
    ///
    /// # Errors
    /// `Err` if there was no head yet, or the response has ended.
    pub fn data(&mut self, bytes: &[u8], end: End) -> Result<usize, SendError> {
        self.expect(Outgoing::Body)?;
        let count = self.grant(bytes.len());
        let payload = bytes.get(..count).unwrap_or_default();
        let is_all = count == bytes.len();
        if count > 0 || (is_all && end == End::Yes) {
            let end = if is_all { end } else { End::No };
            self.call.out.reserve(FRAME_HEAD_BYTES + count);
            self.call.out.extend_from_slice(&data_head(count, self.id, end));
            self.call.out.extend_from_slice(payload);
            self.sent(count, end);
        }
        Ok(count)
    }

    /// Frames a piece of the body that the caller writes itself: the frame's head, then that much of the piece, after all
    /// output before them. The rest of the piece is the caller's to keep, as with [`StreamMut::data`].
    ///
    /// # Errors
    /// `Err` if there was no head yet, or the response has ended.
    pub fn frame(&mut self, bytes: usize, end: End) -> Result<DataFrame, SendError> {
        self.expect(Outgoing::Body)?;
        let payload = self.grant(bytes);
        let end = if payload == bytes { end } else { End::No };
        if payload > 0 || end == End::Yes {
            self.sent(payload, end);
        }
        Ok(DataFrame { head: data_head(payload, self.id, end), payload })
    }

    /// Ends the response with trailers.
    ///
    /// # Errors
    /// `Err` if there was no head yet, or the response has ended.
    pub fn trailers<'f>(&mut self, fields: impl IntoIterator<Item = Field<'f>>) -> Result<(), SendError> {
        self.expect(Outgoing::Body)?;
        self.headers(None, fields, flag::END_STREAM);
        self.finish_if(End::Yes);
        Ok(())
    }

    /// Resets the stream, which is gone then. NO_ERROR behind a complete response asks the client to stop its upload
    /// (RFC 9113 section 8.1).
    pub fn reset(self, code: ErrorCode) {
        let StreamMut { state, id, mut call } = self;
        if state.streams.find(id).is_some() {
            frame::reset(call.out, id.0, code);
            state.streams.remember(id.0);
            state.remove(id, &mut call);
        }
    }

    /// Gives back the windows of so many bytes of [`crate::Event::Data`], which the caller holds no more.
    pub fn consumed(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.state.consume(self.id, bytes, &mut self.call);
    }

    /// Returns how much of so many bytes could be sent now.
    #[must_use]
    pub fn capacity(&mut self, wanted: usize) -> usize {
        let pending = self.call.out.len();
        let Some(place) = self.state.streams.find(self.id) else { return 0 };
        let (frame_max, connection) = (self.state.peer.frame_bytes_max, self.state.send.bytes());
        let Some((stream, all)) = at(self.state.streams.all(), place) else { return 0 };
        let is_small = wanted <= SMALL;
        if !is_small && self.state.schedule.yields(stream, all) {
            return 0;
        }
        let taken = (pending + FRAME_HEAD_BYTES).saturating_sub(if is_small { SMALL_ROOM } else { 0 });
        let room = self.state.config.output_room(taken);
        // A frame that is cut short by room alone would be followed by many such.
        let room = if room < wanted.min(SMALL) { 0 } else { room };
        let frame = FRAME_PAYLOAD_MAX.min(usize::try_from(frame_max).unwrap_or(usize::MAX));
        wanted.min(room).min(frame).min(connection).min(stream.send.bytes())
    }

    /// Changes the urgency, from 0, which goes first, to 7; requests begin with that of their `priority` field.
    pub fn set_urgency(&mut self, urgency: u8) {
        if let Some(stream) = self.state.streams.get(self.id) {
            stream.urgency = urgency.min(7);
        }
    }

    /// Returns the stream if its response is where it has to be.
    fn expect(&mut self, outgoing: Outgoing) -> Result<&mut Stream, SendError> {
        let stream = self.state.streams.get(self.id).ok_or(SendError::Ended)?;
        match (stream.outgoing, outgoing) {
            (Outgoing::Ended, _) => Err(SendError::Ended),
            (Outgoing::Head, Outgoing::Body) => Err(SendError::NoHead),
            (Outgoing::Body, Outgoing::Head) => Err(SendError::HasHead),
            _ => Ok(stream),
        }
    }

    /// Returns how many of these bytes go now, and lets the stream wait with the rest.
    fn grant(&mut self, wanted: usize) -> usize {
        let count = self.capacity(wanted);
        let turn = if count < wanted { Turn::Waiting } else { Turn::Content };
        if let Some(stream) = self.state.streams.get(self.id) {
            self.state.schedule.set(stream, turn);
        }
        count
    }

    /// Takes note of a frame of the body.
    fn sent(&mut self, count: usize, end: End) {
        self.state.send.take(count);
        self.state.budgets.earn_sent(FRAME_HEAD_BYTES + count);
        if let Some(stream) = self.state.streams.get(self.id) {
            stream.send.take(count);
        }
        self.finish_if(end);
    }

    fn headers<'f>(&mut self, status: Option<u16>, fields: impl IntoIterator<Item = Field<'f>>, flags: u8) {
        let out = &mut *self.call.out;
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
        self.state.encoder.begin(out);
        if let Some(status) = status {
            Encoder::status(status, out);
        }
        for field in fields {
            if !is_of_connection(field.name) {
                Encoder::field(field.name, field.value, out);
            }
        }
        frame::seal_headers(out, start, self.id.0, flags);
        self.state.budgets.earn_sent(out.len() - start);
    }

    fn finish_if(&mut self, end: End) {
        if end == End::No {
            return;
        }
        if let Some(stream) = self.state.streams.get(self.id) {
            stream.outgoing = Outgoing::Ended;
            self.state.schedule.set(stream, Turn::Content);
        }
        self.state.settle(self.id, &mut self.call);
    }
}

fn at(streams: &[Stream], place: usize) -> Option<(&Stream, &[Stream])> {
    streams.get(place).map(|stream| (stream, streams))
}

fn data_head(length: usize, stream: StreamId, end: End) -> [u8; FRAME_HEAD_BYTES] {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    FrameHead { length, kind: Kind::Data, flags: end_flag(end), stream: stream.0 }.bytes()
}

fn end_flag(end: End) -> u8 {
    match end {
        End::No => 0,
        End::Yes => flag::END_STREAM,
    }
}

/// Whether a field belongs to one connection of HTTP/1.1 (RFC 9113 section 8.2.2).
fn is_of_connection(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 5] =
        [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];
    NAMES.iter().any(|of_connection| name.eq_ignore_ascii_case(of_connection))
}
