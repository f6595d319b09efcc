//! Endpoints that leave or have left, and the standing of those that are listed, as the rule for heirs sees them.

use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::id::EndpointId;
use podpin_time::Millis;

/// An endpoint that drains or is gone, as people see it.
#[derive(Clone, Debug)]
pub struct Departed {
    /// Name of the endpoint.
    pub name: Arc<str>,
    /// Generation of the endpoint; `None` if it has none.
    pub generation: Option<Arc<str>>,
    /// Heir, listed or gone in turn; `None` if there is none.
    pub heir: Option<EndpointId>,
    /// Moment since when the endpoint is not listed any more; `None` if it drains.
    pub gone_since: Option<Millis>,
}

/// A listed endpoint among the others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// The update that listed it first.
    pub(crate) joined: u64,
    /// The endpoints that it is the heir of.
    pub(crate) inheritances: u32,
    /// The endpoints that it is or was the heir of: an inheritance that another one took over has left sessions here.
    pub(crate) received: u32,
    /// Whether it can have had clients.
    pub(crate) has_been_ready: bool,
}

/// An endpoint that leaves, or has left.
#[derive(Debug)]
pub(crate) struct Leaver {
    pub(crate) sequence: u64,
    pub(crate) name: Arc<str>,
    pub(crate) generation: Option<Arc<str>>,
    /// The update that listed it first.
    pub(crate) joined: u64,
    pub(crate) heir: Option<EndpointId>,
    pub(crate) stage: Stage,
    pub(crate) wait: Wait,
    /// Whether a successor of its own is listed and not ready yet: it takes no other heir that has inherited already.
    pub(crate) is_promised: bool,
}

/// The successors that the sessions of a draining endpoint wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// No successor: an operator drains the endpoint, and nothing replaces it.
    Nothing,
    /// A successor that is listed: the endpoint drained already when it was listed first, and so what replaces it is listed as well.
    Listed,
    /// A successor that is listed, or will be.
    Any,
}

/// How far a leaver has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Listed, with clients that have to leave.
    Draining,
    /// Not listed any more since then; its heir, if any, was chosen afterwards.
    Gone(Millis),
    /// Not listed any more since then, when no endpoint was ready.
    Orphaned(Millis),
    /// Not listed any more since then; its sessions are at its heir.
    Settled(Millis),
}

impl Standing {
    /// Counts one inheritance more.
    pub(crate) fn inherit(&mut self) {
        self.inheritances = self.inheritances.saturating_add(1);
        self.received = self.received.saturating_add(1);
    }
}

impl Leaver {
    /// Returns the leaver as people see it.
    pub(crate) fn departed(&self) -> Departed {
        Departed {
            name: Arc::clone(&self.name),
            generation: self.generation.clone(),
            heir: self.heir,
            gone_since: match self.stage {
                Stage::Draining => None,
                Stage::Gone(since) | Stage::Orphaned(since) | Stage::Settled(since) => Some(since),
            },
        }
    }

    /// Returns whether a ready endpoint that was listed first by update `joined` may inherit.
    pub(crate) fn may_be_succeeded_by(&self, endpoint: &Endpoint, joined: u64) -> bool {
        let is_other = match (&self.generation, &endpoint.generation) {
            (Some(own), Some(other)) => own != other,
            (None, None) => self.name == endpoint.name,
            (Some(_), None) | (None, Some(_)) => false,
        };
        is_other && joined > self.joined
    }
}
