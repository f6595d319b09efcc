//! The only words that discovery may say to a table.
//!
//! Small on purpose: a static list, a file and a cluster speak the same three sentences, so a table can be tested
//! without any of them. What may be believed (phases never run backwards) is decided in the table, not here.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::id::EndpointId;
use crate::phase::{Drain, Phase};
use podpin_time::Millis;

/// A report of discovery about the endpoints of one service.
#[derive(Clone, Debug)]
pub enum Update {
    /// The full list: an endpoint that is not in it is gone. The first one, even an empty one, makes the table "seen".
    /// If an identity stands in it twice, the last entry counts.
    Replace(Vec<Observed>),
    /// These joined or changed; the others stay as they are.
    Upsert(Vec<Observed>),
    /// These are gone; unknown ones are ignored.
    Remove(Vec<EndpointId>),
}

/// An endpoint as discovery reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The identity.
    pub id: EndpointId,
    /// The pod's name, or the name in the list.
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
    /// The rollout that made it, where that is known; see [`generation_of_pod`](crate::generation_of_pod).
    pub generation: Option<Arc<str>>,
    /// Share of new clients; 0 is taken as 1.
    pub weight: u32,
    /// The reported readiness.
    pub condition: Condition,
    /// Whether "draining" may be taken back: true for states that a person writes into a file, false for pods.
    pub reversible_drain: bool,
    /// When it will be killed, where that is known: the end of a terminating pod's grace period.
    pub deadline: Option<Millis>,
}

impl Observed {
    /// Returns a ready endpoint of which no more is known: of weight 1, and its drain is final.
    #[must_use]
    pub fn ready(id: EndpointId, name: impl Into<Arc<str>>, address: SocketAddr) -> Observed {
        Observed {
            id,
            name: name.into(),
            uid: None,
            address,
            zone: None,
            zone_hints: None,
            node: None,
            generation: None,
            weight: 1,
            condition: Condition::Ready,
            reversible_drain: false,
            deadline: None,
        }
    }

    pub(crate) fn drain(&self) -> Drain {
        if self.reversible_drain { Drain::Reversible } else { Drain::Final }
    }
}

/// The readiness of an endpoint (the triple of KEP-1672: ready, serving, terminating).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Ready for new clients.
    Ready,
    /// Not ready, not terminating.
    NotReady {
        /// Whether it still answers those that it has.
        serving: bool,
    },
    /// Neither ready nor serving, but published all the same: readiness is to be disregarded
    /// (`publishNotReadyAddresses`).
    Published,
    /// Terminating, or marked as draining.
    Draining {
        /// Whether it still answers those that it has.
        serving: bool,
    },
}

impl Condition {
    /// The phase that this condition asks for.
    #[must_use]
    pub fn phase(self) -> Phase {
        match self {
            Condition::Ready => Phase::Ready,
            Condition::NotReady { .. } | Condition::Published => Phase::NotReady,
            Condition::Draining { .. } => Phase::Draining,
        }
    }

    /// Whether it still answers those that it has; a ready one always does.
    #[must_use]
    pub fn serving(self) -> bool {
        match self {
            Condition::Ready => true,
            Condition::Published => false,
            Condition::NotReady { serving } | Condition::Draining { serving } => serving,
        }
    }
}
