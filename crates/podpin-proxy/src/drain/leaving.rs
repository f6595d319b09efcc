//! Streams that leave together: their order, their moments, and the record that is written of them in the end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use podpin_config::Order as LeavingOrder;
use podpin_endpoints::{Departure, DrainTimes, Endpoint};
use podpin_time::Millis;

use crate::clock;
use crate::drain::controller::TURN;
use crate::drain::tally::Tally;
use crate::stream_registry::{Cause, Order, StreamRecord};

/// How long an event that passed `sse.eventBytesMax` may delay a goodbye before the stream is cut within it, where the
/// deadline allows.
const BOUNDARY_WAIT: Duration = Duration::from_secs(5);
/// What a handover that begins at the very end of a drain has all the same: most take milliseconds, and end no stream.
const HANDOVER_LEAST: Duration = Duration::from_millis(500);
/// How long after `shutdown.spread` a client may take for its goodbye, or an event for its end.
const SHUTDOWN_LAG: Duration = Duration::from_millis(300);
const NEVER: Millis = Millis(u64::MAX);

/// `drain` of a service, as far as it says when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    pub times: DrainTimes,
    /// `pinned: keep`.
    pub keeps: bool,
}

impl Terms {
    /// When streams of this endpoint begin to leave, and by when all have.
    pub fn schedule(self, endpoint: &Endpoint, began: Millis) -> (Millis, Millis) {
        let kept = self.keeps && endpoint.serving;
        let begins = if kept { self.times.last_departures(endpoint).max(began) } else { began };
        (begins, self.times.deadline(endpoint))
    }
}

/// Streams that leave together.
pub struct Leaving {
    /// As it was when it was seen last; `None` for those who do not leave on account of one.
    pub endpoint: Option<Arc<Endpoint>>,
    cause: Cause,
    /// What was asked of drains when it began: a reload changes nothing for those who leave already.
    pub terms: Terms,
    pub departure: Departure,
    /// Those that were not told yet, the next one first.
    pub streams: VecDeque<Arc<StreamRecord>>,
    /// Those that are left to finish until the deadline.
    pub finishing: VecDeque<Arc<StreamRecord>>,
    pub tally: Arc<Tally>,
    pub began: Millis,
    pub reordered: Millis,
    /// It was said that the budget was exceeded.
    pub exceeded_said: bool,
}

impl Leaving {
    pub fn of(endpoint: Option<Arc<Endpoint>>, terms: Terms, departure: Departure, now: Millis) -> Leaving {
        Leaving { endpoint, terms, ..Leaving::new(Cause::Drain, departure, now) }
    }

    pub fn new(cause: Cause, departure: Departure, now: Millis) -> Leaving {
        Leaving {
            endpoint: None,
            cause,
            terms: Terms::default(),
            departure,
            streams: VecDeque::new(),
            finishing: VecDeque::new(),
            tally: Arc::default(),
            began: now,
            reordered: now,
            exceeded_said: false,
        }
    }

    pub fn join(&mut self, record: Arc<StreamRecord>) {
        let (cause, tally) = (self.cause.clone(), Arc::clone(&self.tally));
        let order = Order { cause, by: NEVER, deadline: NEVER, tally, is_free: self.departure.is_free() };
        if record.is_closed() || !record.queue(order) {
            return;
        }
        // It may have ended in between, and settled its accounts without this one.
        match record.is_closed().then(|| record.take_order()).flatten() {
            Some(order) => order.tally.left(),
            None if record.finishes => self.finishing.push_back(record),
            None => self.streams.push_back(record),
        }
    }

    /// Whoever has not been told stays.
    pub fn release(&mut self) {
        self.streams.drain(..).chain(self.finishing.drain(..)).for_each(|record| record.unqueue());
    }

    /// Cuts what has not finished in time.
    pub fn cut(&mut self, now: Millis) {
        if now >= self.departure.deadline() {
            self.finishing.drain(..).for_each(|record| record.leave(&self.tally, now, (now, now)));
        }
    }

    pub fn put_in_order(&mut self, order: LeavingOrder, now: Millis) {
        self.reordered = now;
        let streams = self.streams.make_contiguous();
        match order {
            LeavingOrder::Oldest => streams.sort_by_key(|record| (record.since, record.id)),
            LeavingOrder::Idle => streams.sort_by_key(|record| (record.last_event(), record.id)),
            LeavingOrder::Random => fastrand::shuffle(streams),
        }
    }

    /// Tells those that are due their moments, evenly within the turn.
    pub fn tell(&mut self, now: Millis) {
        let due = self.departure.due;
        let turn = clock::duration_millis(TURN);
        for place in 0..u64::from(due) {
            let Some(record) = self.streams.pop_front() else { return };
            let deadline = self.departure.deadline();
            let at = Millis(now.0 + turn * place / u64::from(due)).min(deadline.max(now));
            // Not a moment before: until then the endpoint keeps its clients.
            let at = at.max(self.departure.begins().min(deadline));
            let latest = match self.cause {
                Cause::Drain | Cause::Withdrawn | Cause::Rebalance(_) => deadline.max(at),
                // The process waits for the last of them.
                Cause::Shutdown => clock::after(self.departure.ends().max(at), SHUTDOWN_LAG),
            };
            let by = clock::after(at, BOUNDARY_WAIT).min(latest);
            record.leave(&self.tally, at, (by, deadline.max(clock::after(at, HANDOVER_LEAST))));
        }
    }

    pub fn has_streams_to_tell_of(&self) -> bool {
        self.tally.sums().streams > 0
    }

    pub fn name(&self) -> &str {
        match (&self.endpoint, &self.cause) {
            (Some(endpoint), _) => &endpoint.name,
            (None, Cause::Withdrawn) => "(withdrawn routes)",
            (None, _) => "(all)",
        }
    }

    /// The one record of a drain.
    pub fn write_down(&self, service: &str) {
        let sums = self.tally.sums();
        if sums.streams == 0 {
            return;
        }
        let took = sums.last_end.since(self.began);
        let seconds = |millis: Option<u32>| millis.map(|millis| f64::from(millis) / 1_000.0);
        tracing::info!(
            service,
            endpoint = self.name(),
            streams = sums.streams,
            moved = sums.moved,
            polite = sums.polite,
            forced = sums.forced,
            broken = sums.broken,
            left = sums.left,
            returned = sums.returned,
            lost = sums.lost,
            gap_p50_seconds = seconds(sums.gap_millis(500)),
            gap_p99_seconds = seconds(sums.gap_millis(990)),
            took_seconds = took.as_secs_f64(),
            "drained"
        );
    }
}
