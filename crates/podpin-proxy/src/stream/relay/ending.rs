//! How and when a stream ends: the goodbye, the death that is passed on, the moments at which silence means something.

use podpin_wire::http1::encode::CHUNK_PREFIX_BYTES;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use podpin_drain::{BudgetUse, Cause, DrainMember};
use podpin_endpoints::{Endpoint, Phase};
use podpin_sse::{End, KEEP_ALIVE, retry_line};
use podpin_time::Millis;

use crate::clock;
use crate::stream::relay::{Body, Finished, Relay};

use crate::net::scratch;
use crate::telemetry::labels::CloseReason;

/// How long an event that passed `sse.eventBytesMax` may delay the end of `sse.maxDuration` before the stream is cut within it.
const BOUNDARY_WAIT: Duration = Duration::from_secs(5);
/// How long a client may take for a goodbye that comes late: instead of a handover, or at the proxy's own end.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(300);
pub(super) const NEVER: Millis = Millis(u64::MAX);

/// What was wrong with the pod's side; a byte, where the words would be sixteen in every stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: its end came as it should.
    None,
    /// The connection ended within the body.
    Short,
    Reset,
    Malformed,
    Silent,
}

impl Fault {
    /// As the access log spells it.
    fn text(self) -> Option<&'static str> {
        match self {
            Fault::None => None,
            Fault::Short => Some("the connection ended within the body"),
            Fault::Reset => Some("the connection was reset"),
            Fault::Malformed => Some("a chunk is malformed"),
            Fault::Silent => Some("the pod was silent for too long"),
        }
    }
}

/// Why the stream is ending, once it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub reason: CloseReason,
    pub clean: bool,
    pub fault: Fault,
}

/// When and why the stream has to leave.
#[derive(Clone, Debug)]
pub(crate) struct Leave {
    pub at: Millis,
    /// Whatever it is in the middle of.
    pub by: Millis,
    /// When its drain is over, also for a stream that is on its way to another pod.
    pub deadline: Millis,
    pub reason: CloseReason,
    /// Where to, if that is not for `pick` to say: then it stays rather than end.
    pub target: Option<Arc<Endpoint>>,
    /// It is not to go on at another pod.
    pub for_good: bool,
    /// No budget was asked for it, as nobody was to be disconnected.
    pub is_free: bool,
}

impl Relay {
    pub(crate) fn asked_to_leave(&self, at: Millis) -> Option<Box<Leave>> {
        let order = self.record.drain().order()?;
        let is_withdrawn = self.record.route.is_withdrawn();
        let for_good = is_withdrawn || matches!(order.cause, Cause::Withdrawn | Cause::Shutdown);
        let reason = match order.cause {
            Cause::Drain | Cause::Withdrawn => CloseReason::Drain,
            Cause::Shutdown => CloseReason::Shutdown,
            Cause::Rebalance => CloseReason::Rebalance,
        };
        let (target, is_free) = (order.target, order.budget_use == BudgetUse::Free);
        let (by, deadline) = (order.by.max(at), order.deadline);
        Some(Box::new(Leave { at, by, deadline, reason, target, for_good, is_free }))
    }

    pub(crate) fn at_boundary(&self) -> bool {
        match &self.body {
            Body::Events(framer) => framer.at_boundary(),
            Body::Opaque => false,
        }
    }

    /// Ends well, once everything is written.
    pub(crate) fn end(&mut self, reason: CloseReason, last_words: Option<Vec<u8>>) {
        if self.ending.is_some() {
            return;
        }
        self.stop_passage();
        self.ending = Some(Ending { reason, clean: true, fault: Fault::None });
        // The client has its time for the end as for anything else.
        self.last_write = clock::now();
        let Some(downstream) = &self.downstream else { return };
        if let Some(words) = last_words {
            let mut piece = vec![0; CHUNK_PREFIX_BYTES];
            piece.extend_from_slice(&words);
            let from = downstream.frame(&mut piece);
            self.unsent.extend_from_slice(piece.get(from..).unwrap_or_default());
        }
        self.unsent.extend_from_slice(downstream.last_bytes());
    }

    /// Ends as a death of the pod: after the last whole event, without a last chunk.
    pub(crate) fn broken(&mut self, fault: Fault) {
        self.stop_passage();
        self.ending = Some(Ending { reason: CloseReason::UpstreamReset, clean: false, fault });
    }

    /// The polite goodbye: `retry:` drawn from `sse.retry.drain`, then a clean end.
    pub(crate) fn goodbye(&mut self, reason: CloseReason) {
        let (min, max) = self.times.goodbye_retry;
        let (min, max) = (clock::duration_millis(min), clock::duration_millis(max));
        let retry = retry_line(fastrand::u64(min..=max.max(min)));
        let words = self.at_boundary().then(|| retry.into_bytes());
        self.end(reason, words);
    }

    /// Does what is due, and sets the timer for what comes next. `Ready` when the stream must end now.
    pub(crate) fn poll_times(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let due = self.due();
            let now = clock::now();
            if due <= now {
                if let Poll::Ready(reason) = self.act(context, now) {
                    return Poll::Ready(reason);
                }
                // What has begun just now knows nobody to wake yet.
                self.poll_passage(context);
                if let Poll::Ready(reason) = self.poll_downstream(context) {
                    return Poll::Ready(reason);
                }
                continue;
            }
            if due == NEVER {
                return Poll::Pending;
            }
            if due < self.armed || self.armed <= now {
                self.armed = due;
                self.timer.as_mut().reset(clock::instant(due));
                self.polled = false;
            }
            // Pending without a waker when the task's budget is used up: then it is polled again.
            if !self.polled {
                self.polled = self.timer.as_mut().poll(context).is_pending()
                    && tokio::task::coop::has_budget_remaining();
            }
            return Poll::Pending;
        }
    }

    /// The next moment at which silence itself means something.
    fn due(&self) -> Millis {
        let mut due = NEVER;
        if !self.is_blocked() && self.ending.is_none() {
            if let Some(silence) = self.times.keep_alive.filter(|_| self.at_boundary()) {
                due = due.min(clock::after(self.last_write, silence));
            }
            if let Some(silence) = self.times.upstream_idle.filter(|_| self.upstream.is_some()) {
                due = due.min(clock::after(self.last_read, silence));
            }
        } else if let Some(limit) = self.times.client_write {
            due = due.min(clock::after(self.last_write, limit));
        }
        if self.ending.is_none() && matches!(self.body, Body::Events(_)) {
            due = due.min(self.leaves_at().unwrap_or(due)).min(self.ends_by().unwrap_or(due));
        }
        if let Some(leave) = self.leave.as_ref().filter(|_| self.is_leaving()) {
            due = due.min(leave.by);
        }
        due.min(self.passage_due()).min(self.passage_ends())
    }

    /// Its goodbye was said, and waits to be taken.
    fn is_leaving(&self) -> bool {
        self.leave.is_some() && self.ending.is_some()
    }

    /// Within an event that is passed through, a goodbye waits for its boundary as long as there is time.
    fn leaves_at(&self) -> Option<Millis> {
        // Whoever is on his way has his own deadline.
        let leave = self.leave.as_ref().filter(|_| self.passage_due() == NEVER)?;
        Some(if self.at_boundary() { leave.at } else { leave.by })
    }

    fn ends_by(&self) -> Option<Millis> {
        self.times.ends_at.map(|at| self.at_a_boundary_from(at))
    }

    /// Within an event that is passed through, an end waits for its boundary, but not for ever.
    fn at_a_boundary_from(&self, moment: Millis) -> Millis {
        if self.at_boundary() { moment } else { clock::after(moment, BOUNDARY_WAIT) }
    }

    fn act(&mut self, context: &mut Context<'_>, now: Millis) -> Poll<CloseReason> {
        let passed = |moment: Option<Millis>| moment.is_some_and(|moment| moment <= now);
        let since =
            |moment: Millis, limit: Option<Duration>| passed(limit.map(|limit| clock::after(moment, limit)));
        let by = self.leave.as_ref().filter(|_| self.is_leaving()).map(|leave| leave.by);
        if self.is_blocked() && since(self.last_write, self.times.client_write) {
            return Poll::Ready(CloseReason::SlowClient);
        }
        if let (Some(ending), true) = (&mut self.ending, passed(by)) {
            ending.clean = false;
            self.forced = true;
            return Poll::Ready(ending.reason);
        }
        if self.ending.is_some() {
            return Poll::Pending;
        }
        let streams = matches!(self.body, Body::Events(_));
        if passed(Some(self.passage_ends())) {
            self.forced = !self.at_boundary();
            let by = clock::after(now, LAST_WORDS);
            self.leave = Some(Box::new(Leave {
                at: now,
                by,
                deadline: by,
                reason: CloseReason::Shutdown,
                target: None,
                for_good: true,
                is_free: false,
            }));
            self.goodbye(CloseReason::Shutdown);
        } else if passed(Some(self.passage_due())) {
            self.passage_time(now);
        } else if streams && passed(self.leaves_at()) {
            self.depart(now);
        } else if streams && passed(self.ends_by()) {
            self.end(CloseReason::MaxDuration, None);
        } else if !self.is_blocked()
            && self.upstream.is_some()
            && since(self.last_read, self.times.upstream_idle)
        {
            self.upstream_ended(End::Silent, Fault::Silent);
        } else if !self.is_blocked() && since(self.last_write, self.times.keep_alive) {
            self.keep_alive(context, now);
        }
        Poll::Pending
    }

    /// It is this stream's turn: to another pod if that can be done, else with a goodbye.
    fn depart(&mut self, now: Millis) {
        let Some(leave) = self.leave.clone() else { return };
        if !leave.for_good && leave.reason == CloseReason::Drain && self.may_stay() {
            return self.stay();
        }
        if leave.for_good || !self.leave_for_another(&leave, now) {
            self.forced = !self.at_boundary();
            if leave.is_free {
                self.record.inbox().charge();
            }
            self.goodbye(leave.reason);
        }
    }

    /// The drain was taken back after this stream was told to leave.
    fn may_stay(&self) -> bool {
        let endpoint = self.record.route.service.endpoint(&self.record.endpoint().id);
        endpoint.is_some_and(|endpoint| endpoint.phase < Phase::Draining)
    }

    fn keep_alive(&mut self, context: &mut Context<'_>, now: Millis) {
        self.record.route.service.metrics.stream_keepalives.add(1);
        scratch::with(|scratch| {
            scratch.write.clear();
            scratch.write.resize(CHUNK_PREFIX_BYTES, 0);
            scratch.write.extend_from_slice(KEEP_ALIVE);
            self.forward(context, &mut scratch.write);
        });
        self.last_write = now;
    }

    pub(crate) fn close(&mut self, reason: CloseReason) -> Finished {
        let clean = self.ending.filter(|ending| ending.reason == reason);
        let downstream = self.downstream.take();
        self.leave_pod();
        let mut dying = None;
        let tcp = match (downstream, clean) {
            (Some(downstream), Some(Ending { clean: true, .. })) => downstream.finish(),
            (Some(downstream), _) => {
                dying = downstream.abort();
                None
            }
            (None, _) => None,
        };
        let fault = self.ending.map_or(Fault::None, |ending| ending.fault);
        Finished {
            reason,
            error: fault.text(),
            protocol: fault == Fault::Malformed,
            forced: self.forced,
            first_event: self.first_event,
            dying,
            tcp,
        }
    }
}
