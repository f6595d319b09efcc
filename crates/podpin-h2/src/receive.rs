//! Receives a client's bytes: every frame to an event, a change of state, an answer, or an error.
//!
//! The connection ends only where framing or HPACK's state is lost, or a budget is used up; errors of messages are in
//! `message.rs`.

use crate::block::{Block, Outcome};
use crate::body::Body;
use crate::budget::Excess;
use crate::deadline::Due;
use crate::error::{Closed, ErrorCode};
use crate::event::{Event, Side};
use crate::frame::{self, FrameHead, Kind, Part, Reader, flag};
use crate::hpack::Decoder;
use crate::message::{begin_stream, end_with_trailers, fail, open_request};
use crate::settings::{Config, Setting};
use crate::state::{Call, State};
use crate::stream::{Incoming, StreamId};
use crate::streams::Place;

/// Settings of one frame that cost as much as a frame.
const SETTINGS_PER_CHARGE: u32 = 16;

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) struct Receiver {
    reader: Reader,
    decoder: Decoder,
    block: Option<Box<Block>>,
    body: Body,
}

impl Receiver {
    /// Returns a receiver before the preface.
    pub(crate) fn new(config: &Config) -> Receiver {
        Receiver {
            reader: Reader::new(),
            decoder: Decoder::new(config.head_bytes_max),
            block: None,
            body: Body::default(),
        }
    }

    /// Takes the bounds of another configuration.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.decoder.hold_at_most(config.head_bytes_max);
    }

    /// Whether DATA is awaited.
    pub(crate) fn is_within_body(&self) -> bool {
        self.reader.is_within_body()
    }

    /// Returns the bytes of heap that receiving occupies: HPACK's table, and a block that did not end.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.decoder.heap_bytes() + self.block.as_ref().map_or(0, |block| block.heap_bytes())
    }

    /// Takes input up to the next event; `None` if it is used up.
    pub(crate) fn receive<'a>(
        &mut self,
        state: &mut State,
        input: &mut &'a [u8],
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        if !input.is_empty() {
            state.deadlines.heard = call.now;
            let activity = state.activity(self.is_within_body());
            if let Some((moment, Due::Unfinished)) = state.deadlines.first(&state.config, activity)
                && moment <= call.now
            {
                return Err(Excess::Unfinished.into());
            }
        }
        loop {
            if !input.is_empty() && self.reader.is_between_frames() {
                state.deadlines.began.get_or_insert(call.now);
            }
            let Some(part) = self.reader.next(input)? else { return Ok(None) };
            if let Some(event) = self.part(state, part, call)? {
                return Ok(Some(event));
            }
        }
    }

    fn part<'a>(
        &mut self,
        state: &mut State,
        part: Part<'a>,
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        match part {
            Part::Begin(head) => self.begin(state, head, call),
            Part::Dependency(on) => self.depend(state, on, call),
            Part::Content(piece) => match &mut self.block {
                Some(block) => block.push(&mut self.decoder, piece.bytes).map(|()| None),
                None => self.body.content(state, self.reader.head(), piece, call),
            },
            Part::Setting { id, value } => state.peer.take(Setting { id, value }).map(|()| None),
            Part::Word(word) => self.word(state, word, call),
            Part::End(head) => self.end(state, head, call),
        }
    }

    fn begin<'a>(
        &mut self,
        state: &mut State,
        head: FrameHead,
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        if !state.deadlines.has_settings && (head.kind != Kind::Settings || head.has(flag::ACK)) {
            return Err(Closed::protocol("the first frame is not SETTINGS"));
        }
        match (&mut self.block, head.kind) {
            (Some(block), Kind::Continuation) if block.stream.0 == head.stream => block.go_on()?,
            (Some(_), _) => return Err(Closed::protocol("a header block is interrupted")),
            (None, Kind::Continuation) => return Err(Closed::protocol("a CONTINUATION continues nothing")),
            (None, Kind::Data) => return self.body.begin(state, head, call),
            (None, Kind::Headers) => self.begin_block(state, head, call)?,
            (None, Kind::Settings) if head.has(flag::ACK) => {}
            (None, Kind::Settings) => {
                let charges = head.length / 6 / SETTINGS_PER_CHARGE + u32::from(state.deadlines.has_settings);
                (0..charges).try_for_each(|_| state.budgets.charge_idle(call.now))?;
            }
            (None, Kind::ResetStream) => {
                // HAProxy resets streams that it never opened, or stream 0, where a client of it offers another protocol: that is no
                // reason to end the streams of all others (RFC 9113 section 5.4.1 has it end the connection).
                if !state.budgets.is_of_proxy() {
                    check_resettable(state, head)?;
                }
                state.budgets.charge_reset(call.now)?;
            }
            (None, Kind::WindowUpdate) => {
                if head.stream != 0 {
                    check_opened(state, head)?;
                }
                state.budgets.charge_window_update(call.now)?;
            }
            (None, Kind::Ping) if head.has(flag::ACK) => {}
            (None, Kind::Ping | Kind::Priority | Kind::GoAway | Kind::PushPromise | Kind::Unknown) => {
                state.budgets.charge_idle(call.now)?;
            }
        }
        Ok(None)
    }

    fn begin_block(&mut self, state: &mut State, head: FrameHead, call: &mut Call<'_>) -> Result<(), Closed> {
        let ends = head.has(flag::END_STREAM);
        let outcome = if head.stream.is_multiple_of(2) {
            return Err(Closed::protocol("a stream number is even"));
        } else if head.stream > state.streams.last() {
            begin_stream(state, head, call)?
        } else {
            match state.streams.place(head.stream) {
                Place::Open(place) => match state.streams.at(place).map(|stream| stream.incoming) {
                    Some(Incoming::Open) if ends => Outcome::Trailers,
                    Some(Incoming::Open) => Outcome::Reset(ErrorCode::PROTOCOL_ERROR),
                    Some(Incoming::Ended) => Outcome::Reset(ErrorCode::STREAM_CLOSED),
                    Some(Incoming::Discarded | Incoming::Malformed) | None => Outcome::Ignored,
                },
                Place::Recent => Outcome::Ignored,
                Place::Closed if state.streams.has_gaps() => {
                    return Err(Closed::protocol("a stream number goes backwards"));
                }
                Place::Closed | Place::Idle => Outcome::Reset(ErrorCode::STREAM_CLOSED),
            }
        };
        self.decoder.begin();
        self.block = Some(Box::new(Block::new(StreamId(head.stream), ends, outcome, &state.config)));
        Ok(())
    }

    /// Ends a header block: all that it is good for happens here.
    fn end_block<'a>(&mut self, state: &mut State, call: &mut Call<'_>) -> Result<Option<Event<'a>>, Closed> {
        let Some(block) = self.block.take() else { return Ok(None) };
        block.check_end(&mut self.decoder)?;
        let (id, ends) = (block.stream, block.ends);
        match block.outcome {
            Outcome::Ignored => {
                if ends && let Some(stream) = state.streams.get(id) {
                    stream.incoming = Incoming::Ended;
                    state.settle(id, call);
                }
                Ok(None)
            }
            Outcome::Refused => {
                state.budgets.charge_idle(call.now)?;
                frame::reset(call.out, id.0, ErrorCode::REFUSED_STREAM);
                state.streams.remember(id.0);
                Ok(None)
            }
            Outcome::Reset(code) => {
                let was_open = state.streams.find(id).is_some();
                let event = fail(state, id, code, call)?;
                Ok(was_open.then_some(event))
            }
            Outcome::Trailers => end_with_trailers(state, *block, call),
            Outcome::Request => open_request(state, *block, call).map(Some),
        }
    }

    /// A stream that depends on itself is an error of that stream (RFC 7540 section 5.3.1); all other priorities of
    /// that kind are ignored (RFC 9113 section 5.3.2).
    fn depend<'a>(
        &mut self,
        state: &mut State,
        on: u32,
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        let head = self.reader.head();
        if on != head.stream {
            return Ok(None);
        }
        if let Some(block) = &mut self.block {
            block.outcome = Outcome::Reset(ErrorCode::PROTOCOL_ERROR);
            return Ok(None);
        }
        match state.streams.place(head.stream) {
            Place::Open(_) => fail(state, StreamId(head.stream), ErrorCode::PROTOCOL_ERROR, call).map(Some),
            Place::Idle | Place::Recent | Place::Closed => Ok(None),
        }
    }

    fn word<'a>(
        &mut self,
        state: &mut State,
        word: [u8; 8],
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        let head = self.reader.head();
        let [number @ .., _, _, _, _] = word;
        let number = u32::from_be_bytes(number);
        let id = StreamId(head.stream);
        match head.kind {
            Kind::WindowUpdate => update_window(state, head, number & 0x7fff_ffff, call),
            Kind::ResetStream if state.streams.find(id).is_some() => {
                state.remove(id, call);
                Ok(Some(Event::Reset { stream: id, code: ErrorCode(number), by: Side::Client }))
            }
            Kind::Ping if head.has(flag::ACK) => {
                if !state.acknowledge_ping(word, call) {
                    state.budgets.charge_idle(call.now)?;
                }
                Ok(None)
            }
            Kind::Ping => {
                frame::ping(call.out, flag::ACK, word);
                Ok(None)
            }
            Kind::GoAway => {
                state.is_peer_leaving = true;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn end<'a>(
        &mut self,
        state: &mut State,
        head: FrameHead,
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        let event = match head.kind {
            Kind::Data => self.body.end(state, head, call)?,
            Kind::Headers | Kind::Continuation if head.has(flag::END_HEADERS) => {
                self.end_block(state, call)?
            }
            Kind::Settings if head.has(flag::ACK) => {
                if !state.deadlines.acknowledge_settings(call.now) {
                    state.budgets.charge_idle(call.now)?;
                }
                None
            }
            Kind::Settings => {
                take_settings(state)?;
                frame::settings_ack(call.out);
                None
            }
            _ => None,
        };
        if self.block.is_none() {
            state.deadlines.began = None;
        }
        Ok(event)
    }
}

fn update_window<'a>(
    state: &mut State,
    head: FrameHead,
    increment: u32,
    call: &mut Call<'_>,
) -> Result<Option<Event<'a>>, Closed> {
    if head.stream == 0 {
        if increment == 0 {
            return Err(Closed::protocol("a window update of nothing"));
        }
        let grown = state.send.shift(increment.into());
        let too_large =
            |_| Closed::framing(ErrorCode::FLOW_CONTROL_ERROR, "the connection's window is too large");
        return grown.map(|()| None).map_err(too_large);
    }
    let id = StreamId(head.stream);
    let Some(stream) = state.streams.get(id) else { return Ok(None) };
    if increment == 0 {
        return fail(state, id, ErrorCode::PROTOCOL_ERROR, call).map(Some);
    }
    match stream.send.shift(increment.into()) {
        Ok(()) => Ok(None),
        Err(_) => fail(state, id, ErrorCode::FLOW_CONTROL_ERROR, call).map(Some),
    }
}

/// Puts settings into force.
fn take_settings(state: &mut State) -> Result<(), Closed> {
    state.deadlines.has_settings = true;
    let Some(window) = state.peer.next_window.take() else { return Ok(()) };
    let change = i64::from(window) - i64::from(state.peer.initial_window);
    state.peer.initial_window = window;
    crate::work::count(state.streams.len());
    let moved = state.streams.all().iter_mut().try_for_each(|stream| stream.send.shift(change));
    moved.map_err(|_| Closed::framing(ErrorCode::FLOW_CONTROL_ERROR, "a window is too large"))
}

/// A reset of no stream, or of one that was never opened, is an error of the connection (RFC 9113 section 6.4).
fn check_resettable(state: &State, head: FrameHead) -> Result<(), Closed> {
    if head.stream == 0 {
        return Err(Closed::protocol("a reset on stream 0"));
    }
    check_opened(state, head)
}

/// A frame of a stream that was never opened is an error of the connection (RFC 9113 section 5.1).
fn check_opened(state: &State, head: FrameHead) -> Result<(), Closed> {
    match state.streams.place(head.stream) {
        Place::Idle if !state.ignores(head.stream) => {
            Err(Closed::protocol("a frame on a stream that was never opened"))
        }
        _ => Ok(()),
    }
}
