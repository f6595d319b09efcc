//! Results of a controller's turn: facts that the caller logs and counts, and when the next turn is due.

use std::sync::Arc;
use std::time::Duration;

use podpin_endpoints::Endpoint;
use podpin_time::Millis;

use crate::report::DrainReport;

/// Result of one turn.
#[derive(Clone, Debug)]
#[must_use]
pub struct Turn {
    /// Facts in the order in which they came about; empty in most turns.
    pub facts: Vec<Fact>,
    /// Time until the next turn; [`DrainWake`](crate::DrainWake) may call for an earlier one.
    pub next: Duration,
}

/// Name of a group of streams that leave together.
#[derive(Clone, Debug)]
pub enum DrainSubject {
    /// Streams of this endpoint, in the newest version known.
    Endpoint(Arc<Endpoint>),
    /// Streams of routes that a reload removed.
    WithdrawnRoutes,
    /// All streams of the service: the proxy shuts down.
    Shutdown,
}

impl DrainSubject {
    /// Returns the name for logs: the endpoint's, or words in parentheses.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            DrainSubject::Endpoint(endpoint) => &endpoint.name,
            DrainSubject::WithdrawnRoutes => "(withdrawn routes)",
            DrainSubject::Shutdown => "(all)",
        }
    }
}

/// Something that came about in a turn.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Beginning of a drain.
    Began {
        /// Group that leaves.
        subject: DrainSubject,
        /// Streams that are open now; more may join.
        streams: u32,
        /// Moment from which they leave.
        begins: Millis,
        /// Moment by which all have left.
        deadline: Millis,
    },
    /// Other times for a drain: the endpoint's deadline became known, or it stopped to serve.
    Rescheduled {
        /// Group that leaves.
        subject: DrainSubject,
        /// Moment from which streams leave.
        begins: Millis,
        /// Moment by which all have left.
        deadline: Millis,
    },
    /// Streams that got their moment in this turn.
    Notified {
        /// Group that leaves.
        subject: DrainSubject,
        /// Number of those streams.
        streams: u32,
        /// Streams of the group that still wait for their moment.
        remaining: u32,
    },
    /// Disconnects beyond `drain.budget` that this turn decided.
    BudgetExceeded {
        /// Number of disconnects.
        streams: u32,
    },
    /// First disconnects of a group beyond `drain.budget`: its streams could not leave before the deadline otherwise.
    BudgetTooSmall {
        /// Group that leaves.
        subject: DrainSubject,
    },
    /// End of a drain that was taken back: the endpoint stays, and so do the streams that have no moment yet.
    TakenBack {
        /// Endpoint as it is now.
        endpoint: Arc<Endpoint>,
    },
    /// Clients that did not come back within `drain.returnWindow`.
    ClientsLost {
        /// Number of clients.
        clients: u32,
    },
    /// Beginning of rebalancing: the endpoints' loads differ by the threshold.
    RebalanceBegan,
    /// End of a drain: all streams have left, and all clients are back or lost.
    Finished {
        /// Group that has left.
        subject: DrainSubject,
        /// Counts of the whole drain.
        report: Box<DrainReport>,
        /// Time from the beginning to the last stream's end.
        took: Duration,
    },
}
