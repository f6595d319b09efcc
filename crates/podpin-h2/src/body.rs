//! The DATA frame that is being received: its bytes go to the caller or nowhere, and return to the windows once.
//!
//! Every byte of a frame, padding included, is taken from both windows when the frame begins. The caller returns
//! what is delivered when it has consumed it; all else returns when the frame ends.

use crate::error::{Closed, ErrorCode};
use crate::event::Event;
use crate::frame::{self, FrameHead, Piece, flag};
use crate::head::Refusal;
use crate::message::{fail, refuse};
use crate::state::{Call, State};
use crate::stream::{Incoming, Stream, StreamId};
use crate::streams::Place;

/// The DATA frame that is being received.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Body {
    /// Delivery of the bytes to the caller; they are dropped otherwise.
    is_delivered: bool,
    /// Bytes of a body in it so far.
    content: u32,
    /// Bytes that count for windows and are not delivered.
    undelivered: u32,
}

impl Body {
    /// Begins a frame: windows are taken from here, whatever becomes of its bytes.
    pub(crate) fn begin<'a>(
        &mut self,
        state: &mut State,
        head: FrameHead,
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        if !state.receive.take(head.length) {
            return Err(Closed::framing(ErrorCode::FLOW_CONTROL_ERROR, "more than the connection's window"));
        }
        *self = Body { is_delivered: false, content: 0, undelivered: head.length };
        let place = match state.streams.place(head.stream) {
            Place::Open(place) => place,
            Place::Idle if !state.ignores(head.stream) => {
                return Err(Closed::protocol("DATA on a stream that was never opened"));
            }
            Place::Idle | Place::Recent => return Ok(None),
            Place::Closed => {
                state.budgets.charge_idle(call.now)?;
                frame::reset(call.out, head.stream, ErrorCode::STREAM_CLOSED);
                state.streams.remember(head.stream);
                return Ok(None);
            }
        };
        let Some(stream) = state.streams.at(place) else { return Ok(None) };
        match stream.incoming {
            Incoming::Ended => fail(state, StreamId(head.stream), ErrorCode::STREAM_CLOSED, call).map(Some),
            Incoming::Discarded | Incoming::Malformed => Ok(None),
            Incoming::Open if stream.receive.take(head.length) => {
                self.is_delivered = true;
                Ok(None)
            }
            Incoming::Open => {
                fail(state, StreamId(head.stream), ErrorCode::FLOW_CONTROL_ERROR, call).map(Some)
            }
        }
    }

    /// Takes a piece of the payload of the frame of `head`.
    pub(crate) fn content<'a>(
        &mut self,
        state: &mut State,
        head: FrameHead,
        piece: Piece<'a>,
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        let Piece { bytes, left, is_last } = piece;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.content += length;
        let id = StreamId(head.stream);
        let is_wanted = |stream: &&mut Stream| stream.incoming == Incoming::Open;
        let stream = state.streams.get(id).filter(is_wanted).filter(|_| self.is_delivered);
        let Some(stream) = stream else { return Ok(None) };
        if let Some(owed) = &mut stream.body_left {
            // Of the whole frame, so that none is delivered in part.
            let whole = u64::from(length) + u64::from(left);
            if whole > *owed {
                return refuse_body(state, id, "a body longer than content-length", call);
            }
            if head.has(flag::END_STREAM) && whole < *owed {
                return refuse_body(state, id, "a body shorter than content-length", call);
            }
            *owed -= u64::from(length);
        }
        let ends = is_last && head.has(flag::END_STREAM);
        self.undelivered -= length;
        if ends {
            stream.incoming = Incoming::Ended;
            state.settle(id, call);
        }
        Ok(Some(Event::Data { stream: id, bytes, ends }))
    }

    /// Ends a frame: it is charged, and what was not delivered of it goes back to the windows.
    pub(crate) fn end<'a>(
        &mut self,
        state: &mut State,
        head: FrameHead,
        call: &mut Call<'_>,
    ) -> Result<Option<Event<'a>>, Closed> {
        let ends = head.has(flag::END_STREAM);
        if self.content > 0 || !ends {
            state.budgets.charge_body(self.content, call.now)?;
        }
        let id = StreamId(head.stream);
        let Body { is_delivered, undelivered, .. } = *self;
        if is_delivered {
            // Padding, or what came of a body that turned out to be malformed. A stream that is gone has given it
            // back.
            state.consume(id, undelivered, call);
        } else {
            state.give_back(undelivered, call);
        }
        let Some(stream) = state.streams.get(id).filter(|_| ends) else { return Ok(None) };
        match stream.incoming {
            Incoming::Ended | Incoming::Malformed => Ok(None),
            Incoming::Discarded => {
                stream.incoming = Incoming::Ended;
                state.settle(id, call);
                Ok(None)
            }
            Incoming::Open if stream.body_left.is_some_and(|left| left > 0) => {
                refuse_body(state, id, "a body shorter than content-length", call)
            }
            Incoming::Open => {
                stream.incoming = Incoming::Ended;
                state.settle(id, call);
                Ok(Some(Event::Data { stream: id, bytes: &[], ends: true }))
            }
        }
    }
}

fn refuse_body<'a>(
    state: &mut State,
    id: StreamId,
    message: &'static str,
    call: &mut Call<'_>,
) -> Result<Option<Event<'a>>, Closed> {
    refuse(state, id, Refusal::Malformed(message), call).map(Some)
}
