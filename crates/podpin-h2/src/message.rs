//! Effects of whole messages, and of errors in them, on their streams.
//!
//! An error of a message ends its stream alone (RFC 9113 section 8.1.1): by an answer where one can still be given,
//! and by RST_STREAM else. Each is charged, since it costs work that no pod asked for.

use crate::block::{Block, Outcome};
use crate::budget::Excess;
use crate::error::{Closed, ErrorCode};
use crate::event::{Event, Side};
use crate::frame::FrameHead;
use crate::head::Refusal;
use crate::state::{Call, Phase, State};
use crate::stream::{Incoming, Outgoing, StreamId};

/// Opens a stream number: what becomes of its block.
pub(crate) fn begin_stream(
    state: &mut State,
    head: FrameHead,
    call: &mut Call<'_>,
) -> Result<Outcome, Closed> {
    if matches!(state.phase, Phase::Left(_)) {
        state.budgets.charge_idle(call.now)?;
        return Ok(Outcome::Ignored);
    }
    state.streams.open_number(head.stream);
    let streams_max = usize::try_from(state.config.streams_max).unwrap_or(usize::MAX);
    if state.streams.len() >= streams_max {
        return Ok(Outcome::Refused);
    }
    state.budgets.earn_request();
    Ok(Outcome::Request)
}

/// Opens the stream of a request, for its answer if it is malformed.
pub(crate) fn open_request<'a>(
    state: &mut State,
    block: Block,
    call: &mut Call<'_>,
) -> Result<Event<'a>, Closed> {
    let (id, ends) = (block.stream, block.ends);
    let head = block.head(state.config.extended_connect);
    let incoming = match (ends, &head) {
        (_, Err(refusal)) if refusal.is_malformed() => Incoming::Malformed,
        (true, _) => Incoming::Ended,
        (false, Ok(_)) => Incoming::Open,
        (false, Err(_)) => Incoming::Discarded,
    };
    let stream = state.open(id, incoming, call.now);
    match head {
        Ok(head) => {
            if let Some(stream) = stream {
                stream.body_left = head.content_length();
                stream.urgency = head.urgency();
            }
            Ok(Event::Request { stream: id, head: Box::new(head), ends })
        }
        Err(refusal) => {
            charge_refusal(state, refusal, call)?;
            Ok(Event::Refused { stream: id, refusal })
        }
    }
}

/// Ends a request with its trailers.
pub(crate) fn end_with_trailers<'a>(
    state: &mut State,
    block: Block,
    call: &mut Call<'_>,
) -> Result<Option<Event<'a>>, Closed> {
    let id = block.stream;
    // Between two frames of the block this side may have reset the stream.
    let Some(stream) = state.streams.get(id) else { return Ok(None) };
    let is_short = stream.body_left.is_some_and(|left| left > 0);
    let trailers = match block.trailers() {
        Ok(_) if is_short => Err(Refusal::Malformed("a body shorter than content-length")),
        trailers => trailers,
    };
    let event = match trailers {
        Ok(trailers) => Event::Trailers { stream: id, trailers },
        Err(refusal) => refuse(state, id, refusal, call)?,
    };
    if let Some(stream) = state.streams.get(id) {
        if stream.incoming != Incoming::Malformed {
            stream.incoming = Incoming::Ended;
        }
        state.settle(id, call);
    }
    Ok(Some(event))
}

/// Ends a request that turned out to be malformed: by an answer if none has begun, else by a reset.
pub(crate) fn refuse<'a>(
    state: &mut State,
    id: StreamId,
    refusal: Refusal,
    call: &mut Call<'_>,
) -> Result<Event<'a>, Closed> {
    match state.streams.get(id) {
        Some(stream) if stream.outgoing == Outgoing::Head => {
            stream.incoming = if refusal.is_malformed() { Incoming::Malformed } else { Incoming::Discarded };
            charge_refusal(state, refusal, call)?;
            Ok(Event::Refused { stream: id, refusal })
        }
        _ => fail(state, id, ErrorCode::PROTOCOL_ERROR, call),
    }
}

fn charge_refusal(state: &mut State, refusal: Refusal, call: &Call<'_>) -> Result<(), Excess> {
    // Large heads of honest clients (cookies) come again and again.
    if refusal.is_malformed() { state.budgets.charge_provoked(call.now) } else { Ok(()) }
}

/// Resets a stream for an error of the client.
pub(crate) fn fail<'a>(
    state: &mut State,
    id: StreamId,
    code: ErrorCode,
    call: &mut Call<'_>,
) -> Result<Event<'a>, Closed> {
    state.reset(id, code, call)?;
    Ok(Event::Reset { stream: id, code, by: Side::Server })
}
