//! The drain's view of a stream: everything that decides who leaves when, and nothing of how.

use std::sync::Arc;

use podpin_endpoints::{Endpoint, Phase};
use podpin_time::Millis;

use crate::handle::DrainHandle;
use crate::inbox::DrainInbox;
use crate::reconnects::Session;

/// Way in which a stream would leave its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Handover, where the service has that: the client notices nothing.
    Handover,
    /// Goodbye, after which the client comes back: a disconnect, which the budget counts.
    Goodbye,
    /// End that the client cannot repair: the answer is left to finish as long as possible.
    Cut,
}

/// Open stream, or whatever else has to leave an endpoint: an event stream today, an upgraded connection as well.
///
/// All methods are called on any thread and must not wait.
pub trait DrainMember: Send + Sync {
    /// Returns the stream's drain state.
    fn drain(&self) -> &DrainHandle;

    /// Returns the inbox of the stream's service.
    fn inbox(&self) -> &DrainInbox;

    /// Returns the way in which the stream would leave its endpoint now.
    fn departure(&self) -> Departure {
        Departure::Handover
    }

    /// Returns the stream's number, as given by [`DrainRegistry::open`](crate::DrainRegistry::open).
    fn id(&self) -> u64;

    /// Returns the endpoint that the stream runs on.
    fn endpoint(&self) -> Arc<Endpoint>;

    /// Returns the phase of that endpoint in the newest list; [`Phase::Gone`] if it is not listed.
    fn endpoint_phase(&self) -> Phase;

    /// Returns whether a reload removed the stream's route.
    fn is_withdrawn(&self) -> bool;

    /// Returns the session by which the client is recognised when it comes back; `None` if it cannot be.
    fn session(&self) -> Option<Session>;

    /// Returns the moment when the stream began.
    fn since(&self) -> Millis;

    /// Returns the moment of the last event; the beginning before the first.
    fn last_event(&self) -> Millis;
}
