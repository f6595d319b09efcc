//! A call of gRPC as a stream: it has a place under the limits, is listed with the other streams, and ends with the drain of its
//! endpoint.
//!
//! Nothing of a call tells whether it is one message each way or goes on for hours, so each of them counts.

use std::sync::Arc;

use podpin_drain::{EndKind, Mobility, StreamEnd};
use podpin_endpoints::Endpoint;

use crate::clock;
use crate::request_context::RequestContext;
use crate::shared::Shared;
use crate::stream_registry::{Opening, StreamRecord};
use crate::telemetry::labels::{CloseReason, DepartureKind, OpenedStream, Resumption};
use crate::upstream::attempts::Attempts;

/// An open call.
pub(crate) struct Call {
    shared: Arc<Shared>,
    record: Arc<StreamRecord>,
    /// Whether an endpoint has answered it, and it counts as opened.
    is_answered: bool,
    is_ended: bool,
}

impl Call {
    /// Registers a call at the endpoint of its first attempt.
    pub(crate) fn open(context: &RequestContext, attempts: &Attempts, endpoint: &Arc<Endpoint>) -> Call {
        let opening = Opening {
            route: Arc::clone(&attempts.request.route),
            endpoint: Arc::clone(endpoint),
            client: context.client.address,
            // A client that calls again is not one that comes back with a stream.
            session: None,
            since: context.began,
            mobility: Mobility::CutAtDeadline,
            upgrade: None,
        };
        let record = context.shared.streams.open(|id| opening.into_record(id));
        Call { shared: Arc::clone(&context.shared), record, is_answered: false, is_ended: false }
    }

    /// Returns the record of the call.
    pub(crate) fn record(&self) -> &Arc<StreamRecord> {
        &self.record
    }

    /// Notes that the next attempt is at this endpoint.
    pub(crate) fn try_at(&self, endpoint: &Arc<Endpoint>) {
        if self.record.endpoint().id != endpoint.id {
            let from = self.record.move_to(Arc::clone(endpoint));
            self.shared.streams.moved(&self.record, from, clock::now());
        }
    }

    /// Counts the call as an open stream: its endpoint has answered.
    pub(crate) fn answered(&mut self, attempts: &Attempts) {
        self.is_answered = true;
        let decision = attempts.request.decision(attempts.selected());
        attempts.service().metrics.streams_opened.inc(OpenedStream::of(decision, Resumption::Fresh));
    }

    /// Accounts for the end of the call.
    pub(crate) fn end(mut self, reason: CloseReason) {
        self.close(reason);
    }

    fn close(&mut self, reason: CloseReason) {
        self.is_ended = true;
        let kind = match reason {
            CloseReason::Drain | CloseReason::Shutdown => EndKind::Forced,
            CloseReason::UpstreamReset => EndKind::Broken,
            _ => EndKind::Left,
        };
        let now = clock::now();
        self.shared.streams.close(&self.record, StreamEnd { kind, is_awaited: false }, now);
        let metrics = &self.record.route.service.metrics;
        if reason == CloseReason::Drain {
            metrics.drain_departures.inc(DepartureKind::Forced);
        }
        if self.is_answered {
            metrics.streams_closed.inc(reason);
            metrics.stream_duration.observe(now.since(self.record.since).as_secs_f64());
        }
    }
}

impl Drop for Call {
    /// Closes a call whose task was dropped: at the shutdown's deadline, or by a bug.
    fn drop(&mut self) {
        if !self.is_ended {
            let is_draining = self.shared.lifecycle.is_draining();
            self.close(if is_draining { CloseReason::Shutdown } else { CloseReason::Error });
        }
    }
}
