//! The state of a pod, which its server, its routes and its streams share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::watch;

use crate::control::DemoControl;
use crate::log::Log;
use crate::session::Sessions;

/// How a pod is started.
#[derive(Clone)]
pub struct PodSettings {
    /// The name that the pod gives itself in events and answers.
    pub name: String,
    /// Where it listens; port 0 chooses a free one.
    pub listen: SocketAddr,
    /// The log it serves from, shared with the other pods.
    pub log: Arc<Log>,
    /// The control of the demo page over the pods; `None` if the page gets a 404.
    pub control: Option<Arc<dyn DemoControl>>,
    /// A stream that is silent for so long gets a comment.
    pub keep_alive: Duration,
}

/// Well below any proxy's limit for silence (30 s in `deploy/example`, 60 s in nginx), and next to nothing to send.
const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(10);

impl PodSettings {
    /// A pod without demo control.
    #[must_use]
    pub fn new(name: &str, listen: SocketAddr, log: Arc<Log>) -> Self {
        Self { name: name.to_owned(), listen, log, control: None, keep_alive: KEEP_ALIVE_DEFAULT }
    }
}

/// How far a pod has come; never backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Not ready, but serving.
    Retiring,
    /// Streams end, nothing new is accepted.
    Ending,
    /// Everything is dropped where it stands.
    Cut,
    /// The server is done.
    Gone,
}

/// State of the pod that its routes share.
pub(crate) struct Pod {
    pub(crate) name: String,
    /// The name as a JSON string, for the event frames.
    pub(crate) name_json: String,
    pub(crate) log: Arc<Log>,
    pub(crate) control: Option<Arc<dyn DemoControl>>,
    pub(crate) keep_alive: Duration,
    pub(crate) sessions: Sessions,
    pub(crate) open_streams: AtomicUsize,
    pub(crate) phase: watch::Sender<Phase>,
}

impl Pod {
    pub(crate) fn new(settings: PodSettings) -> Self {
        Self {
            name_json: serde_json::Value::from(settings.name.as_str()).to_string(),
            name: settings.name,
            log: settings.log,
            control: settings.control,
            keep_alive: settings.keep_alive,
            sessions: Sessions::default(),
            open_streams: AtomicUsize::new(0),
            phase: watch::Sender::new(Phase::Serving),
        }
    }
}

/// Sets the phase unless it is later already; returns whether that changed anything.
pub(crate) fn advance(phase: &mut Phase, to: Phase) -> bool {
    let forward = *phase < to;
    if forward {
        *phase = to;
    }
    forward
}
