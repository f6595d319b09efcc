//! Event streams that stay on the path of ordinary requests: those that are encoded and answer anything but a GET, and those
//! that begin while their request body is still being sent.
//!
//! The bytes pass as they come, like any response's. Here such a stream is counted and takes the slots of one. A handover
//! is out of the question, and it may finish while its endpoint drains; at the end of that time `request/transfer.rs` cuts
//! it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use podpin_drain::{DrainMember, Mobility};
use podpin_sse::session::{LeaveCause, Reason};
use podpin_time::Millis;

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::balance::service::Kind;
use crate::clock;
use crate::request_context::RequestContext;
use crate::stream::account::{Accounts, Failure, Finished, Permits, close_reason};
use crate::stream_registry::{Opening, StreamRecord};
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::CloseReason;
use crate::telemetry::labels::{OpenedStream, Resumption};

/// An open event stream in response to an ordinary request.
pub(crate) struct PostStream {
    accounts: Option<Accounts>,
    record: Arc<StreamRecord>,
    events: Events,
    first_event: Option<Millis>,
    _permits: Permits,
}

/// End of a stream, as the transfer of its body saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostEnd {
    /// The stream had to leave its endpoint and was cut.
    Drained,
    /// Any other end.
    Ended {
        /// Reason to be counted.
        reason: CloseReason,
        /// Failure that the stream ended with; `None` if there was none.
        failure: Option<Failure>,
    },
}

/// A counter of events in bytes as they come: an empty line behind a `data` field ends one (WHATWG HTML, section 9.2.6).
#[derive(Debug, Default)]
struct Events {
    after_return: bool,
    line: Line,
    /// Whether the event so far has data.
    has_data: bool,
    /// Bytes of a byte order mark at the beginning of the stream that have come; three of anything if there is none.
    mark: usize,
}

/// The part of a line that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// So many bytes of the name `data`.
    Name(usize),
    /// A `data` field, up to its colon or beyond.
    Data,
    /// Any other field, or a comment.
    Other,
}

impl Default for Line {
    fn default() -> Line {
        Line::Name(0)
    }
}

/// Name of the field that an event has at least one of.
const DATA: &[u8] = b"data";
/// Byte order mark, which clients skip at the beginning of a stream.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl PostStream {
    /// Registers a response that turns out to be a stream.
    pub(crate) fn open(
        context: &RequestContext,
        request: &RoutedRequest,
        selected: &Selected,
        permits: Permits,
    ) -> PostStream {
        let shared = &context.shared;
        let service = request.service();
        let opening = Opening {
            kind: Kind::Stream,
            route: Arc::clone(&request.route),
            endpoint: Arc::clone(&selected.endpoint),
            client: context.client.address,
            // No client comes back for the rest of it.
            session: None,
            since: context.began,
            mobility: Mobility::CutAtDeadline,
        };
        let record = shared.streams.open(|id| opening.into_record(id));
        request.count_decision(Some(selected));
        let decision = request.decision(Some(selected));
        service.metrics.streams_opened.inc(OpenedStream::of(decision, Resumption::Fresh));
        PostStream {
            accounts: Some(Accounts::new(Arc::clone(shared), Arc::clone(&record), None)),
            record,
            events: Events::default(),
            first_event: None,
            _permits: permits,
        }
    }

    /// Counts bytes that go to the client.
    pub(crate) fn deliver(&mut self, bytes: &[u8]) {
        let count = u64::try_from(bytes.len()).unwrap_or(0);
        let events = self.events.count(bytes);
        self.record.bytes.fetch_add(count, Ordering::Relaxed);
        self.record.events.fetch_add(events, Ordering::Relaxed);
        let metrics = &self.record.route.service.metrics;
        metrics.stream_bytes.add(count);
        metrics.stream_events.add(events);
        if events == 0 {
            return;
        }
        let now = clock::now();
        self.record.set_last_event(now);
        if self.first_event.is_none() {
            self.first_event = Some(now);
            metrics.stream_first_event.observe(now.since(self.record.since).as_secs_f64());
        }
    }

    /// Whether the stream has to leave now; registers the task for the moment when it has.
    pub(crate) fn has_to_leave(&self, context: &Context<'_>) -> bool {
        self.record.drain().poll(context).is_some()
    }

    /// Accounts for the end of the stream; `log` is the access log line, as far as it is known.
    pub(crate) fn settle(mut self, end: PostEnd, log: Option<Record>) {
        let (reason, forced, failure) = match end {
            PostEnd::Drained => (self.drain_reason(), true, None),
            PostEnd::Ended { reason, failure } => (reason, false, failure),
        };
        let first_event = self.first_event;
        let finished = Finished { reason, forced, failure, first_event, ..Finished::client_gone() };
        if let Some(mut accounts) = self.accounts.take() {
            accounts.set_log(log);
            accounts.settle(finished);
        }
    }

    /// Returns why the stream had to leave.
    fn drain_reason(&self) -> CloseReason {
        let order = self.record.drain().order();
        let cause = order.map_or(LeaveCause::Drain, |order| self.record.leave_cause(order.cause));
        close_reason(Reason::of(cause))
    }
}

impl Events {
    fn count(&mut self, bytes: &[u8]) -> u64 {
        let mut events = 0;
        for byte in bytes {
            if self.skips_mark(*byte) {
                continue;
            }
            let is_end = matches!(byte, b'\r' | b'\n');
            // CR LF is one end of a line.
            let is_second_half = *byte == b'\n' && self.after_return;
            self.after_return = *byte == b'\r';
            if is_second_half {
                continue;
            }
            if !is_end {
                self.line = self.line.followed_by(*byte);
                continue;
            }
            match std::mem::take(&mut self.line) {
                Line::Name(0) => events += u64::from(std::mem::take(&mut self.has_data)),
                line => self.has_data |= matches!(line, Line::Data | Line::Name(4)),
            }
        }
        events
    }

    /// Whether a byte belongs to the byte order mark of the stream.
    fn skips_mark(&mut self, byte: u8) -> bool {
        let is_mark = BYTE_ORDER_MARK.get(self.mark) == Some(&byte);
        self.mark = if is_mark { self.mark + 1 } else { BYTE_ORDER_MARK.len() };
        is_mark
    }
}

impl Line {
    fn followed_by(self, byte: u8) -> Line {
        match self {
            Line::Name(count) if DATA.get(count) == Some(&byte) => Line::Name(count + 1),
            Line::Name(count) if count == DATA.len() && byte == b':' => Line::Data,
            Line::Name(_) | Line::Other => Line::Other,
            Line::Data => Line::Data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_whatever_the_line_ends_and_the_pieces() {
        let table = [
            ("data: a\n\ndata: b\n\n", 2),
            ("data: a\r\n\r\ndata: b\r\n\r\n", 2),
            ("data: a\r\rdata: b\r\r", 2),
            (": ping\n\n\n\n", 0),
            (": ping\ndata\n\ndata: x", 1),
            ("id: 1\ndata: a\ndata: b\n\n", 1),
            // A block without data is no event.
            ("id: 1\n\nretry: 5\n\nevent: x\n\n", 0),
            ("database: 1\n\ndat\n\n data: a\n\n", 0),
            ("data\n\ndata:\r\rdata: data\n\n", 3),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", 1),
        ];
        for (text, expected) in table {
            assert_eq!(Events::default().count(text.as_bytes()), expected, "{text:?}");
            let mut pieces = Events::default();
            let sum: u64 = text.as_bytes().chunks(1).map(|piece| pieces.count(piece)).sum();
            assert_eq!(sum, expected, "{text:?} byte by byte");
        }
    }
}
