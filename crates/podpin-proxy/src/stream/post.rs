//! An event stream that is the answer to something else than an event stream request: an LLM's completion, most often to
//! a POST, which cannot be asked for again elsewhere.
//!
//! Its bytes pass as they come, like any answer's. Here it is counted as a stream and takes the places of one. It is never
//! handed over, and is left to finish while its pod drains; at the end of that time `transfer.rs` cuts it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use podpin_drain::{Cause, DrainMember, Mobility};
use podpin_time::Millis;

use crate::affinity::select::{Admission, Placement};
use crate::balance::service::Kind;
use crate::clock;
use crate::http::reply::Failure;
use crate::request::serve::Request;
use crate::stream::account::{Accounts, Finished, Permits};
use crate::stream_registry::{Opening, StreamRecord};
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::{CloseReason, OpenedStream, Resumption};

/// A stream that is open.
pub(crate) struct PostStream {
    pub accounts: Option<Accounts>,
    pub record: Arc<StreamRecord>,
    pub events: Events,
    pub first_event: Option<Millis>,
    pub _permits: Permits,
}

/// Counts events in bytes as they come: every empty line behind one that says something (WHATWG HTML, section 9.2.6).
#[derive(Debug, Default)]
struct Events {
    after_return: bool,
    line: Line,
    /// The event so far has a field.
    says_something: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Empty,
    Comment,
    Field,
}

impl PostStream {
    /// Takes a place for the stream that `request` turns out to be.
    pub(crate) fn open(
        request: &Request<'_>,
        admission: &Admission,
        placement: &Placement,
    ) -> Result<PostStream, Failure> {
        let (shared, client) = (request.shared, request.client);
        let service = admission.service();
        let of_client = admission.client_permit(client)?;
        let limit = service.configuration.limits.streams_per_endpoint;
        let permit = placement.endpoint.load.try_open(limit).ok_or(Failure::Full)?;
        let opening = Opening {
            kind: Kind::Stream,
            route: Arc::clone(&admission.route),
            endpoint: Arc::clone(&placement.endpoint),
            client: client.address,
            // Nobody comes back for the rest of it.
            session: None,
            since: request.began,
            mobility: Mobility::Finishes,
        };
        let record = shared.streams.open(|id| opening.into_record(id));
        admission.count(Some(placement));
        let decision = admission.decision(Some(placement));
        service.metrics.streams_opened.inc(OpenedStream::of(decision, Resumption::Fresh));
        Ok(PostStream {
            accounts: Some(Accounts::new(Arc::clone(shared), Arc::clone(&record), None)),
            record,
            events: Events::default(),
            first_event: None,
            _permits: Permits::new(permit, of_client, service),
        })
    }

    /// Counts what goes to the client.
    pub(crate) fn carry(&mut self, bytes: &[u8]) {
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

    /// It has to leave now.
    pub(crate) fn has_to_leave(&self, context: &Context<'_>) -> bool {
        self.record.drain().poll(context).is_some()
    }

    /// Accounts for its end, which came for this reason if it was not told to leave.
    pub(crate) fn settle(mut self, reason: CloseReason, log: Option<Record>) {
        let reason = self.cut_for().unwrap_or(reason);
        let finished = self.finished(reason);
        if let Some(mut accounts) = self.accounts.take() {
            accounts.set_log(log);
            accounts.settle(finished);
        }
    }

    pub(crate) fn cut_for(&self) -> Option<CloseReason> {
        let order = self.record.drain().order()?;
        Some(match order.cause {
            Cause::Drain | Cause::Withdrawn => CloseReason::Drain,
            Cause::Shutdown => CloseReason::Shutdown,
            Cause::Rebalance => CloseReason::Rebalance,
        })
    }

    pub(crate) fn finished(&self, reason: CloseReason) -> Finished {
        let forced = matches!(reason, CloseReason::Drain | CloseReason::Shutdown);
        Finished { reason, forced, first_event: self.first_event, ..Finished::client_gone() }
    }
}

impl Events {
    fn count(&mut self, bytes: &[u8]) -> u64 {
        let mut events = 0;
        for byte in bytes {
            let is_end = matches!(byte, b'\r' | b'\n');
            // CR LF is one end of a line.
            let is_second_half = *byte == b'\n' && self.after_return;
            self.after_return = *byte == b'\r';
            if is_second_half {
                continue;
            }
            match (is_end, &self.line) {
                (true, Line::Empty) => events += u64::from(std::mem::take(&mut self.says_something)),
                (true, line) => {
                    self.says_something |= *line == Line::Field;
                    self.line = Line::Empty;
                }
                (false, Line::Empty) => self.line = if *byte == b':' { Line::Comment } else { Line::Field },
                (false, _) => {}
            }
        }
        events
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
        ];
        for (text, expected) in table {
            assert_eq!(Events::default().count(text.as_bytes()), expected, "{text:?}");
            let mut pieces = Events::default();
            let sum: u64 = text.as_bytes().chunks(1).map(|piece| pieces.count(piece)).sum();
            assert_eq!(sum, expected, "{text:?} byte by byte");
        }
    }
}
