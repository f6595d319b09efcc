//! The control of the demo page over the pods around it: list, stop, kill and start them.
//!
//! The pods serve these routes so that the page needs no port but the proxy's; the demo, which owns the pods,
//! does the work. A pod that is deployed alone has no control and answers 404.

use std::net::SocketAddr;

use serde::Serialize;

/// A pod of the demo as the page shows it.
#[derive(Debug, Clone, Serialize)]
pub struct DemoPod {
    /// The pod's name, which it keeps over restarts.
    pub name: String,
    /// Whether it runs.
    pub state: DemoPodState,
    /// Where it listens; a stopped pod has no address.
    pub address: Option<SocketAddr>,
    /// Event streams that the pod holds now.
    pub streams: usize,
}

/// Whether one of the demo's pods runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DemoPodState {
    /// Open to clients.
    Ready,
    /// Closed to new clients; its streams move away, and then it is gone.
    Draining,
    /// About to be cut without a warning to anything.
    Dying,
    /// Not running.
    Stopped,
}

/// Why a wish of the page is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlError {
    /// No pod has this name (404).
    UnknownPod,
    /// The pod is already what was asked for, or on its way (409).
    AlreadySo,
    /// The last pod that runs, and the page itself comes from it (409).
    LastPod,
    /// The pod could not be started or its endpoints not written (500).
    Failed,
}

impl std::fmt::Display for ControlError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::UnknownPod => "there is no pod of this name",
            Self::AlreadySo => "the pod is already in that state",
            Self::LastPod => "the last running pod stays: this page is served by it",
            Self::Failed => "the pod could not be started or stopped; the demo's output says why",
        })
    }
}

impl std::error::Error for ControlError {}

/// The demo's hold on its pods. Calls must return at once: they run on a pod's own thread.
pub trait DemoControl: Send + Sync {
    /// All pods, in a fixed order, stopped ones too.
    fn pods(&self) -> Vec<DemoPod>;

    /// Begins to drain a pod; it is stopped when its streams have moved away.
    ///
    /// # Errors
    /// [`ControlError`] says why not.
    fn stop(&self, name: &str) -> Result<(), ControlError>;

    /// Lets a pod die in the middle of whatever it does; returns before its connections are cut, because the request may
    /// have come through one.
    ///
    /// # Errors
    /// [`ControlError`] says why not.
    fn kill(&self, name: &str) -> Result<(), ControlError>;

    /// Starts a stopped pod on a new port.
    ///
    /// # Errors
    /// [`ControlError`] says why not.
    fn start(&self, name: &str) -> Result<(), ControlError>;

    /// Base URL of the proxy's admin port, shown on the page.
    fn admin_url(&self) -> Option<String> {
        None
    }

    /// Base URL of a plain proxy before the same pods, with which the page compares.
    fn plain_url(&self) -> Option<String> {
        None
    }
}
