//! Order and moments in which streams leave: drains of endpoints, withdrawn routes, shutdown and rebalancing, and the one state of a stream that may
//! have to leave.
//!
//! ```text
//!  discovery ── transitions ──▶ DrainInbox ──▶ DrainController ── facts ──▶ logs, metrics
//!                                   ▲                │ turn(now)
//!       opens, moves, stays, closes │                │ leave(at, by, deadline)
//!                                   │                ▼
//!  stream's task ── DrainRegistry ──┴──────────▶ DrainHandle: Staying, Queued, Leaving, Ended
//! ```
//!
//! - [`DrainHandle`] is the state of one stream and the only answer to "is this stream leaving?". All transitions are in
//!   `handle.rs`; a group's account changes in the same step.
//! - [`DrainRegistry`] holds all open streams of the process. A stream's task reports to it when the stream opens, moves,
//!   stays or closes.
//! - [`DrainController`] decides for one service, in turns. It returns facts: logs and metrics are the caller's.
//! - [`DrainMember`] is all that is known of a stream here. [`Pacer`] and [`plan_rebalance`] know of numbers only.
//!
//! Pure: time is a [`Millis`](podpin_time::Millis) argument, chance is an `rng` argument. Locks: the one of a
//! stream's state is held for one transition; the lock of a group's account is taken within it. Neither is held while a
//! task is woken, and the task of an idle stream takes neither.
//!
//! A group knows nothing of how its streams leave: goodbye, handover, or the close of an upgraded connection. A move that
//! is retried until the deadline keeps its stream `Leaving`; [`DrainHandle::take_target`] names one endpoint to go on at where
//! the choice is not the stream's.

mod claim;
mod controller;
mod fact;
mod group;
mod handle;
mod herd;
mod hung;
mod inbox;
mod member;
mod moved_pins;
mod pacer;
mod policy;
mod rebalance;
mod rebalance_plan;
mod reconnects;
mod registry;
mod report;
#[cfg(test)]
mod testing;
mod wake;

pub use controller::DrainController;
pub use fact::{DrainSubject, Fact, Turn};
pub use handle::{DrainHandle, DrainState, LeaveOrder, Mobility};
pub use herd::{ClientName, Comer, Herd, RetryBounds};
pub use inbox::DrainInbox;
pub use member::{Departure, DrainMember};
pub use moved_pins::MovedPins;
pub use pacer::{BudgetLimits, BudgetUse, DrainSchedule, InFlight, Pacer};
pub use policy::DrainPolicy;
pub use rebalance_plan::{Balance, EndpointShare, PlannedMove, plan_rebalance};
pub use reconnects::{ReconnectTracker, Session};
pub use registry::{DrainRegistry, ShutdownTimes};
pub use report::{Cause, DrainReport, EndKind, StreamEnd};
pub use wake::DrainWake;
