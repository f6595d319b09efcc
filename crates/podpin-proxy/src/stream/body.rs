//! Body of a stream on its way from the upstream to the client: HTTP framing removed, events kept whole.

use std::sync::atomic::Ordering;

use podpin_sse::session::{Fault, Held, Position, ResumePoint, UpstreamEnd};
use podpin_sse::{Framer, KnownIds, Pushed, ReplayStart, Resumption};
use podpin_time::Millis;
use podpin_wire::http1::body::{BodyDecoder, Piece};

use crate::stream_registry::StreamRecord;

/// Content of a response body.
pub(crate) enum Body {
    /// `text/event-stream`, forwarded by whole events.
    Events(Framer),
    /// The same, compressed: forwarded as it comes.
    Encoded,
}

/// Result of decoding one read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Events that became whole.
    pub events: u32,
    /// Events that were dropped, because a successor replayed what the client has.
    pub dropped: u32,
    /// End of the body; `None` if more is to come.
    pub end: Option<UpstreamEnd>,
    /// Place in the event stream after the bytes that were forwarded last.
    pub position: Position,
    /// Lines of the trailer section that came.
    pub trailers: Vec<u8>,
}

impl Decoded {
    /// Counts the events of a stream, the last of which had this id.
    pub(crate) fn count(&self, record: &StreamRecord, last_event_id: Option<&[u8]>, now: Millis) {
        let metrics = &record.route.service.metrics;
        if self.dropped > 0 {
            metrics.handover_duplicates.inc_by(u64::from(self.dropped));
        }
        if self.events == 0 {
            return;
        }
        if record.note_first_event(now) {
            metrics.stream_first_event.observe(now.since(record.since).as_secs_f64());
        }
        record.set_last_event(now);
        record.events.fetch_add(u64::from(self.events), Ordering::Relaxed);
        metrics.stream_events.add(u64::from(self.events));
        if let Some(id) = last_event_id {
            record.set_last_event_id(id);
        }
    }
}

impl Decoded {
    /// Records that this many of the events were dropped after all.
    pub(crate) fn drop_events(&mut self, count: u32) {
        self.events = self.events.saturating_sub(count);
        self.dropped += count;
    }
}

impl Body {
    /// Returns the place in the event stream after the bytes that were forwarded last.
    fn position(&self) -> Position {
        match self {
            Body::Events(framer) => Position::of(framer.at_boundary()),
            Body::Encoded => Position::WithinEvent,
        }
    }

    /// Returns whether the next bytes may be a successor's replay.
    pub(crate) fn awaits_replay(&self) -> bool {
        matches!(self, Body::Events(framer) if framer.awaits_replay())
    }

    /// Returns the id of the last event; `None` if it is not known.
    pub(crate) fn last_event_id(&self) -> Option<&[u8]> {
        match self {
            Body::Events(framer) => framer.last_event_id(),
            Body::Encoded => None,
        }
    }

    /// Returns whether a successor can be requested for exactly what follows.
    pub(crate) fn resume_point(&self) -> ResumePoint {
        match self.resumption() {
            Resumption::After(id) if is_field_value(id) => ResumePoint::Known,
            Resumption::Now => ResumePoint::Known,
            Resumption::After(_) | Resumption::Unknown if self.may_overlap() => ResumePoint::Overlap,
            Resumption::After(_) | Resumption::Unknown => ResumePoint::Unknown,
        }
    }

    fn may_overlap(&self) -> bool {
        matches!(self, Body::Events(framer) if framer.may_overlap())
    }

    fn resumption(&self) -> Resumption<'_> {
        match self {
            Body::Events(framer) => framer.resumption(),
            Body::Encoded => Resumption::Unknown,
        }
    }

    /// Returns the id to resume from, for a successor's request; `None` if the client has seen nothing, or no such id. No id
    /// is forgotten from here on: the successor replays what the old upstream still sends.
    pub(crate) fn begin_handover(&mut self) -> Option<Vec<u8>> {
        let point = self.resume_point();
        match self {
            Body::Events(_) if point == ResumePoint::Overlap => None,
            Body::Events(framer) => framer.mark_resume_point().id().map(<[u8]>::to_vec),
            Body::Encoded => None,
        }
    }

    /// Records that no successor is requested any more.
    pub(crate) fn stay(&mut self) {
        if let Body::Events(framer) = self {
            framer.stay();
        }
    }

    /// Returns the ids that the client has seen lately.
    pub(crate) fn known_ids(&self) -> KnownIds {
        match self {
            Body::Events(framer) => framer.known_ids(),
            Body::Encoded => KnownIds::default(),
        }
    }

    /// Whether the endpoint uses one id for several events, so that nothing of a replay is dropped.
    pub(crate) fn repeats_ids(&self) -> bool {
        matches!(self, Body::Events(framer) if framer.repeats_ids())
    }

    /// Makes `id` the client's last one, if it has none: the event before the successor's first.
    pub(crate) fn seed(&mut self, id: &[u8]) {
        if let Body::Events(framer) = self
            && framer.last_event_id().is_none()
        {
            framer.seed(id);
        }
    }

    /// Returns the reconnection time that the client was told last, in milliseconds; `None` if it was told none.
    pub(crate) fn told_retry(&self) -> Option<u64> {
        match self {
            Body::Events(framer) => framer.told_retry().map(u64::from),
            Body::Encoded => None,
        }
    }

    /// Returns what is kept back of the bytes that came.
    pub(crate) fn held(&self) -> Held {
        match self {
            Body::Events(framer) if framer.has_undecided() => Held::Undecided,
            Body::Events(framer) if framer.holds_block() => Held::Block,
            Body::Events(_) | Body::Encoded => Held::Nothing,
        }
    }

    /// Appends to `out` what is kept back, since the rest of it did not come in time. Returns the number of events, and the
    /// place where they end.
    pub(crate) fn pass_held(&mut self, out: &mut Vec<u8>) -> Decoded {
        let pushed = match self {
            Body::Events(framer) => framer.pass_on(out),
            Body::Encoded => Pushed::default(),
        };
        let (events, dropped) = (pushed.events, pushed.dropped);
        Decoded { events, dropped, end: None, position: self.position(), trailers: Vec::new() }
    }

    /// Whether an event has begun that a close of the connection would tear, on a stream that is known to have events.
    pub(crate) fn is_within_event(&self) -> bool {
        match self {
            Body::Events(framer) => {
                let is_held = framer.holds_block() || !framer.at_boundary();
                is_held && framer.may_be_handed_over() && framer.last_event_id().is_some()
            }
            Body::Encoded => false,
        }
    }

    /// Takes out the bytes behind the last whole event, because the body ends cleanly behind them.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        match self {
            Body::Events(framer) => framer.take_held(),
            Body::Encoded => Vec::new(),
        }
    }

    /// Continues with the body of a successor: half an event is dropped, and so is what is replayed.
    pub(crate) fn adopt(&mut self, start: ReplayStart) {
        if let Body::Events(framer) = self {
            framer.adopt(start);
        }
    }

    /// Takes bytes without framing, and appends to `out` what may go to the client.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Decoded {
        let pushed = match self {
            Body::Events(framer) => framer.push(bytes, out),
            Body::Encoded => Pushed::default(),
        };
        let (events, dropped) = (pushed.events, pushed.dropped);
        Decoded { events, dropped, end: None, position: self.position(), trailers: Vec::new() }
    }

    /// Removes the framing of one read with `decoder`, and appends to `out` what may go to the client.
    pub(crate) fn decode(
        &mut self,
        decoder: &mut BodyDecoder,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Decoded {
        let (mut events, mut dropped, mut trailers) = (0, 0, Vec::new());
        // A successor's replay is judged by all that one read brought.
        let mut replay = self.awaits_replay().then(Vec::new);
        let end = loop {
            match decoder.decode_padded(&mut bytes) {
                Ok(Piece::Data(data)) => match (&mut *self, &mut replay) {
                    (Body::Events(_), Some(replay)) => replay.extend_from_slice(data),
                    (Body::Events(framer), None) => events += framer.push(data, out).events,
                    (Body::Encoded, _) => out.extend_from_slice(data),
                },
                Ok(Piece::Trailers(lines)) => trailers.extend_from_slice(lines),
                Ok(Piece::More) if *decoder == BodyDecoder::Done => break Some(UpstreamEnd::Clean),
                Ok(Piece::More) => break None,
                Ok(Piece::End) => break Some(UpstreamEnd::Clean),
                Err(_) => break Some(UpstreamEnd::Broken(Fault::Malformed)),
            }
        };
        if let (Some(replay), Body::Events(framer)) = (replay, &mut *self) {
            let pushed = framer.push(&replay, out);
            (events, dropped) = (pushed.events, pushed.dropped);
        }
        Decoded { events, dropped, end, position: self.position(), trailers }
    }
}

/// Returns whether an id can stand in a header field (RFC 9110 section 5.5), by which a successor learns it.
fn is_field_value(id: &[u8]) -> bool {
    id.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use podpin_wire::http1::body::FIRST_CHUNK;

    use super::*;

    fn chunked() -> BodyDecoder {
        BodyDecoder::Chunked(FIRST_CHUNK)
    }

    fn events() -> Body {
        Body::Events(Framer::with_cursor(1_024, 64))
    }

    #[test]
    fn whole_events_come_out_of_chunks() {
        let (mut body, mut decoder, mut out) = (events(), chunked(), Vec::new());
        let decoded = body.decode(&mut decoder, b"f\r\nid: 1\ndata: a\n\n\r\n4\r\ndata\r\n", &mut out);
        let expected =
            Decoded { events: 1, dropped: 0, end: None, position: Position::Boundary, trailers: Vec::new() };
        assert_eq!(decoded, expected);
        assert_eq!(out, b"id: 1\ndata: a\n\n");
        assert_eq!(body.last_event_id(), Some(&b"1"[..]));
        let decoded = body.decode(&mut decoder, b"0\r\n\r\n", &mut out);
        assert_eq!(decoded.end, Some(UpstreamEnd::Clean));
    }

    #[test]
    fn a_malformed_chunk_is_a_fault_after_the_events_before_it() {
        let (mut body, mut decoder, mut out) = (events(), chunked(), Vec::new());
        let decoded = body.decode(&mut decoder, b"9\r\ndata: a\n\n\r\nx\r\n", &mut out);
        assert_eq!((decoded.events, decoded.end), (1, Some(UpstreamEnd::Broken(Fault::Malformed))));
        assert_eq!(out, b"data: a\n\n");
    }

    #[test]
    fn a_replay_is_dropped_and_counted() {
        let (mut body, mut decoder, mut out) = (events(), chunked(), Vec::new());
        body.decode(&mut decoder, b"f\r\nid: 1\ndata: a\n\n\r\n", &mut out);
        assert_eq!((body.resume_point(), body.begin_handover()), (ResumePoint::Known, Some(b"1".to_vec())));
        body.adopt(ReplayStart::Unnamed);
        assert!(body.awaits_replay());
        out.clear();
        let replay = b"f\r\nid: 1\ndata: a\n\n\r\nf\r\nid: 2\ndata: b\n\n\r\n";
        let decoded = body.decode(&mut chunked(), replay, &mut out);
        assert_eq!((decoded.events, decoded.dropped), (1, 1));
        assert_eq!(out, b"id: 2\ndata: b\n\n");
    }

    #[test]
    fn an_id_that_fits_no_header_field_is_no_point_to_resume_from() {
        for (id, point) in [("1 \u{e4}\t", ResumePoint::Known), ("1\u{7f}", ResumePoint::Unknown)] {
            let mut body = events();
            let Body::Events(framer) = &mut body else { unreachable!("made above") };
            framer.push(format!("id: {id}\ndata: a\n\n").as_bytes(), &mut Vec::new());
            assert_eq!(body.resume_point(), point, "{id:?}");
        }
        assert_eq!(Body::Encoded.resume_point(), ResumePoint::Unknown);
    }

    #[test]
    fn anything_else_passes_as_it_comes_and_has_no_boundary() {
        let (mut body, mut decoder, mut out) = (Body::Encoded, chunked(), Vec::new());
        let decoded = body.decode(&mut decoder, b"5\r\nhello\r\n", &mut out);
        assert_eq!((decoded.events, decoded.end, &out[..]), (0, None, &b"hello"[..]));
        assert_eq!((decoded.position, body.held()), (Position::WithinEvent, Held::Nothing));
    }
}
