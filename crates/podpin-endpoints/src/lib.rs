//! The endpoints of a service: their states, their stream counts and the choice among them.
//!
//! Discovery speaks in [`Update`]s, the one [`Table`] of a service turns them into [`Transition`]s and an immutable
//! [`Snapshot`], and [`pick()`] chooses on a snapshot without a lock. Pure: time is a
//! [`Millis`](podpin_time::Millis) argument, chance is an `rng` argument, the consistent-hash ring is the [`Ring`]
//! trait. Sockets, clocks, metrics and the ring's implementation are left to the crates around it.

mod endpoint;
mod generation;
mod heirs;
mod id;
mod leaver;
mod phase;
mod pick;
mod snapshot;
mod streams;
mod successors;
mod table;
mod tombstones;
mod update;
mod usage;
mod weighted_set;

pub use endpoint::{DrainTimes, Endpoint};
pub use generation::generation_of_pod;
pub use heirs::HeirPolicy;
pub use id::{EndpointId, IdHasher, IdMap};
pub use leaver::Departed;
pub use phase::Phase;
pub use pick::{MoveReason, Nowhere, Pick, PickRequest, Ring, Strategy, pick};
pub use snapshot::{Counts, Snapshot};
pub use streams::{EjectionPolicy, FailureSource, Load, Permit};
pub use table::{Applied, Refused, Table, Transition};
pub use update::{Condition, Observed, Update};
pub use usage::{Tier, Usage, UseReason, UsedBy};
