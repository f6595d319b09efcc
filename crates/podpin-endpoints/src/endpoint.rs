//! An endpoint: a port of a pod, or an address from a list.
//!
//! An [`Endpoint`] never changes: a new fact is a new `Arc<Endpoint>` in the next snapshot. Only its [`Load`] is
//! shared between the versions, so that streams and failures counted on an old version count on the new one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::EndpointId;
use crate::phase::Phase;
use crate::streams::Load;
use crate::update::{Condition, Observed};
use podpin_time::Millis;

/// The facts about one endpoint at one moment. A clone is the same endpoint: it counts on the same [`Load`].
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The identity, which no fact about the endpoint changes.
    pub id: EndpointId,
    /// The name in logs and on the admin port: the pod's name, or the name in the list.
    pub name: Arc<str>,
    /// The pod's uid, where there is a pod.
    pub uid: Option<Arc<str>>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Topology zone.
    pub zone: Option<Arc<str>>,
    /// The zones that its clients should come from, where the cluster hints at any (EndpointSlice `hints.forZones`,
    /// KEP-2433).
    pub zone_hints: Option<Arc<[Arc<str>]>>,
    /// Node that it runs on.
    pub node: Option<Arc<str>>,
    /// The rollout that made it, where that is known.
    pub generation: Option<Arc<str>>,
    /// Share of new clients beside the others, at least 1.
    pub weight: u32,
    /// Whether it takes new clients, keeps the pinned ones, or is leaving.
    pub phase: Phase,
    /// Whether it still answers those that it has; true for every ready one.
    pub serving: bool,
    /// Whether it is to be used although it is not ready, while no endpoint serves.
    pub published: bool,
    /// When `phase` began.
    pub phase_since: Millis,
    /// When it will be killed, where that is known: the end of a terminating pod's grace period.
    pub deadline: Option<Millis>,
    /// When this identity was first seen.
    pub added: Millis,
    /// Whether new clients come to it gradually; false for members of the very first list.
    pub slow_start: bool,
    /// Streams and failures, shared by all versions of this identity.
    pub load: Arc<Load>,
}

/// How long a drain may take (`drain`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainTimes {
    /// Streams leave evenly over this time.
    pub spread: Duration,
    /// The deadline, counted from the drain's beginning, of an endpoint that does not know its own.
    pub timeout: Duration,
    /// How long before its end an endpoint that knows it is to be empty.
    pub margin: Duration,
}

impl DrainTimes {
    /// By when everything has left this draining endpoint.
    #[must_use]
    pub fn deadline(&self, endpoint: &Endpoint) -> Millis {
        let margin = u64::try_from(self.margin.as_millis()).unwrap_or(u64::MAX);
        let known = endpoint.deadline.map(|end| Millis(end.0.saturating_sub(margin)));
        known.unwrap_or_else(|| endpoint.phase_since.after(self.timeout))
    }

    /// When streams must begin to leave at the latest, to do so evenly.
    #[must_use]
    pub fn last_departures(&self, endpoint: &Endpoint) -> Millis {
        let spread = u64::try_from(self.spread.as_millis()).unwrap_or(u64::MAX);
        Millis(self.deadline(endpoint).0.saturating_sub(spread))
    }
}

impl Endpoint {
    /// A member that is seen for the first time.
    pub(crate) fn joining(observed: Observed, now: Millis, slow_start: bool, load: Arc<Load>) -> Endpoint {
        Endpoint {
            id: observed.id,
            name: observed.name,
            uid: observed.uid,
            address: observed.address,
            zone: observed.zone,
            zone_hints: observed.zone_hints,
            node: observed.node,
            generation: observed.generation,
            // Zero would be an endpoint that no draw can choose, and a ring without a point.
            weight: observed.weight.max(1),
            phase: observed.condition.phase(),
            serving: observed.condition.serving(),
            published: observed.condition == Condition::Published,
            phase_since: now,
            deadline: observed.deadline,
            added: now,
            slow_start,
            load,
        }
    }

    /// The next version, with the facts of `observed`; its condition is not taken over, see [`Endpoint::entering`].
    pub(crate) fn described(&self, observed: Observed) -> Endpoint {
        Endpoint {
            phase: self.phase,
            serving: self.serving,
            published: self.published,
            phase_since: self.phase_since,
            // A pod's end is never taken back; who observes it may not know of it yet.
            deadline: observed.deadline.or(self.deadline),
            ..Endpoint::joining(observed, self.added, self.slow_start, Arc::clone(&self.load))
        }
    }

    /// Whether `observed` says nothing new, its condition aside.
    pub(crate) fn is_described_by(&self, observed: &Observed) -> bool {
        self.name == observed.name
            && self.address == observed.address
            && self.uid == observed.uid
            && self.zone == observed.zone
            && self.zone_hints == observed.zone_hints
            && self.node == observed.node
            && self.generation == observed.generation
            && self.weight == observed.weight.max(1)
            && (observed.deadline.is_none() || observed.deadline == self.deadline)
    }

    /// The next version, in `phase` since `now` unless it was in it before, and serving as `condition` says.
    pub(crate) fn entering(self, phase: Phase, condition: Condition, now: Millis) -> Endpoint {
        let phase_since = if phase == self.phase { self.phase_since } else { now };
        let (serving, published) = (condition.serving(), condition == Condition::Published);
        Endpoint { phase, serving, published, phase_since, ..self }
    }

    /// Whether `other` says anything new about the same identity.
    pub(crate) fn differs(&self, other: &Endpoint) -> bool {
        self.phase != other.phase
            || self.serving != other.serving
            || self.published != other.published
            || self.reachability_differs(other)
            || self.name != other.name
            || self.uid != other.uid
            || self.zone != other.zone
            || self.zone_hints != other.zone_hints
            || self.node != other.node
            || self.generation != other.generation
            || self.deadline != other.deadline
    }

    /// Whether a ring built for this version is wrong for `other`.
    pub(crate) fn reachability_differs(&self, other: &Endpoint) -> bool {
        self.address != other.address || self.weight != other.weight
    }
}
