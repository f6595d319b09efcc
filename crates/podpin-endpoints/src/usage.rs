//! Which endpoint states are used, by which clients, in which order, when the better ones are not there.
//!
//! | state | EndpointSlice | clients that are not pinned | clients pinned to it |
//! |---|---|---|---|
//! | ready | `ready`, `serving` | first | stay |
//! | terminating or drained, and serving | `serving`, `terminating` | second: while none is ready | stay while none is ready or the heir is awaited, or as `drain.pinned: keep` says; else move |
//! | published although not ready | `ready` without `serving` | third: while none serves | stay while none serves; else move |
//! | not ready, serving | `serving` alone | never | stay |
//! | not serving | neither, or `terminating` alone | never | move |
//!
//! The second line is KEP-1669: a rollout with a gap (`Recreate`, a single replica) is no outage while the old pod answers. The
//! third is `publishNotReadyAddresses`, by which a Service asks to disregard readiness. Only these states choose the line:
//! when more than half of its endpoints are ejected, ejection is disregarded, and when all of them are full, the request
//! waits or is refused.

use crate::endpoint::Endpoint;
use crate::phase::Phase;

/// A rank of endpoints for clients that are not pinned: a tier is used while no endpoint is in a better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Ready endpoints.
    Ready,
    /// Endpoints that terminate or are drained, and still serve.
    Terminating,
    /// Endpoints that are published although they are not ready.
    Published,
}

impl Tier {
    /// All tiers, the best first.
    pub const ALL: [Tier; 3] = [Tier::Ready, Tier::Terminating, Tier::Published];
}

/// The clients that are sent to an endpoint now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UsedBy {
    /// All clients.
    All,
    /// Clients that are pinned to it.
    Pinned,
    /// No client.
    Nobody,
}

impl UsedBy {
    /// The word for it in the admin API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            UsedBy::All => "all",
            UsedBy::Pinned => "pinned",
            UsedBy::Nobody => "nobody",
        }
    }
}

/// Why an endpoint is used, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UseReason {
    /// Ready.
    Ready,
    /// Ready or the best there is, and ejected, like more than half of them.
    EjectionDisregarded,
    /// Put aside by failures.
    Ejected,
    /// Terminating and serving, beside none that is ready.
    NobodyIsReady,
    /// Published although not ready, beside none that serves.
    NobodyServes,
    /// Terminating or drained, beside ready ones.
    Draining,
    /// Terminating or drained; pinned clients are kept (`drain.pinned: keep`).
    DrainKeepsPinned,
    /// Terminating; pinned clients stay until its heir is there.
    AwaitsHeir,
    /// Not ready, but serving.
    NotReadyButServing,
    /// Not serving.
    NotServing,
}

impl UseReason {
    /// The words for it in the admin API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            UseReason::Ready => "ready",
            UseReason::EjectionDisregarded => "ejected, which is disregarded: so are more than half",
            UseReason::Ejected => "ejected",
            UseReason::NobodyIsReady => "draining but serving: nobody is ready",
            UseReason::NobodyServes => "published although not ready: nobody serves",
            UseReason::Draining => "draining",
            UseReason::DrainKeepsPinned => "draining, and keeps pinned clients",
            UseReason::AwaitsHeir => "draining, and keeps pinned clients until its heir is ready",
            UseReason::NotReadyButServing => "not ready, but serving",
            UseReason::NotServing => "not serving",
        }
    }
}

/// The clients that are sent to an endpoint now, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Usage {
    /// The clients that are sent there.
    pub by: UsedBy,
    /// The reason.
    pub why: UseReason,
}

impl Endpoint {
    /// Returns the tier of the endpoint's state; `None` if only pinned clients are ever sent there.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        match self.phase {
            Phase::Ready => Some(Tier::Ready),
            Phase::Draining if self.serving => Some(Tier::Terminating),
            Phase::NotReady if self.published => Some(Tier::Published),
            Phase::NotReady | Phase::Draining | Phase::Gone => None,
        }
    }
}
