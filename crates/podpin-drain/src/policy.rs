//! The part of a service's configuration that decides who leaves when.
//!
//! A group of streams keeps the policy that it began with: a reload changes nothing for streams that leave already.

use std::time::Duration;

use podpin_config::{Budget, Drain, Handover, Order, Pinned, Rebalance, RetryHint, Service, ServiceLimits};
use podpin_endpoints::{DrainTimes, Endpoint, EndpointId, Phase, Snapshot};
use podpin_time::Millis;

use crate::pacer::{BudgetLimits, BudgetUse};

/// Drain policy of one service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrainPolicy {
    /// Durations of `drain.spread`, `drain.timeout` and `drain.margin`.
    pub times: DrainTimes,
    /// Whether streams stay on an endpoint that drains and still serves (`drain.pinned`).
    pub pinned: Pinned,
    /// Streams that leave first (`drain.order`).
    pub order: Order,
    /// Disconnects that the service bears (`drain.budget`); any number if `None`.
    pub budget: Option<Budget>,
    /// Means by which streams leave (`drain.handover`).
    pub handover: Handover,
    /// Time within which a disconnected client counts as returned (`drain.returnWindow`).
    pub return_window: Duration,
    /// Average time between a goodbye and the client's next stream: the middle of `sse.retry.drain`.
    pub absence: Duration,
    /// Rebalancing (`balance.rebalance`); off if `None`.
    pub rebalance: Option<Rebalance>,
    /// Streams that an endpoint takes (`limits.streamsPerEndpoint`); any number if `None`.
    pub streams_per_endpoint: Option<u32>,
}

/// Times of one group of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainWindow {
    /// Moment from which streams leave.
    pub(crate) begins: Millis,
    /// Moment by which all streams have left.
    pub(crate) deadline: Millis,
}

/// Places of streams at the endpoints of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// Streams that each endpoint may have; any number if `None`.
    pub(crate) each: Option<u32>,
    /// Streams on their way to an endpoint.
    pub(crate) taken: u32,
}

/// Whether streams that leave an endpoint have another one to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refuge {
    /// At least one endpoint is ready and has a place.
    Ready,
    /// No endpoint is ready, or all of them are full.
    Awaited,
    /// Other endpoints are ready, but the heir is awaited until this moment.
    HeirAwaited(Millis),
}

impl Refuge {
    /// Returns what `snapshot` offers to the streams of the endpoint `left`, beyond the places that are taken.
    pub(crate) fn from(left: &EndpointId, snapshot: &Snapshot, now: Millis, places: Places) -> Refuge {
        match snapshot.held_until(left, now) {
            _ if !snapshot.has_places(places.each, places.taken) => Refuge::Awaited,
            Some(until) => Refuge::HeirAwaited(until),
            None => Refuge::Ready,
        }
    }
}

impl DrainPolicy {
    /// Takes the policy out of the configuration of a service.
    #[must_use]
    pub fn of(service: &Service) -> DrainPolicy {
        DrainPolicy {
            rebalance: service.balance.rebalance,
            ..DrainPolicy::of_sections(&service.drain, &service.sse.retry, &service.limits)
        }
    }

    fn of_sections(drain: &Drain, retry: &RetryHint, limits: &ServiceLimits) -> DrainPolicy {
        DrainPolicy {
            times: DrainTimes { spread: drain.spread, timeout: drain.timeout, margin: drain.margin },
            pinned: drain.pinned,
            order: drain.order,
            budget: drain.budget,
            handover: drain.handover,
            return_window: drain.return_window,
            absence: (retry.drain_min + retry.drain_max) / 2,
            rebalance: None,
            streams_per_endpoint: limits.streams_per_endpoint,
        }
    }

    /// Returns the times of a drain of `endpoint` that began at `began`. While no endpoint is ready and has a place for its
    /// streams, or while its heir is awaited, they stay as long as they can.
    pub(crate) fn window(&self, endpoint: &Endpoint, began: Millis, refuge: Refuge) -> DrainWindow {
        let keeps = self.pinned == Pinned::Keep && endpoint.serving;
        let last = self.times.last_departures(endpoint);
        let begins = match refuge {
            _ if keeps => last,
            Refuge::Awaited if endpoint.phase < Phase::Gone => last,
            Refuge::HeirAwaited(until) if endpoint.phase < Phase::Gone => until.min(last),
            Refuge::Awaited | Refuge::HeirAwaited(_) | Refuge::Ready => began,
        };
        let begins = begins.max(began);
        DrainWindow { begins, deadline: self.times.deadline(endpoint) }
    }

    /// Returns the times of streams that leave without a deadline of their endpoint's own.
    pub(crate) fn window_from(&self, now: Millis) -> DrainWindow {
        DrainWindow { begins: now, deadline: now.after(self.times.timeout) }
    }

    /// Returns whether departures from an endpoint are disconnects.
    pub(crate) fn budget_use(&self) -> BudgetUse {
        match self.handover {
            Handover::None => BudgetUse::Charged,
            Handover::LastEventId | Handover::Overlap => BudgetUse::Free,
        }
    }

    /// Returns the limits of the pacer.
    pub(crate) fn budget_limits(&self) -> BudgetLimits {
        let limits = |budget: Budget| BudgetLimits { per_second: budget.per_second, percent: budget.percent };
        self.budget.map(limits).unwrap_or_default()
    }
}

impl Default for DrainPolicy {
    /// Returns the policy of a service that configures nothing about drains.
    fn default() -> DrainPolicy {
        DrainPolicy::of_sections(&Drain::default(), &RetryHint::default(), &ServiceLimits::default())
    }
}
