//! The example application behind the proxy: a small event stream service, deployable alone, of which the demo runs three.
//!
//! It shows what podpin expects of a pod and nothing more: an event log that every pod can replay
//! ([`Log`]), a stream that honours `Last-Event-ID`, no state that a client would miss on another pod. The choice of a
//! client's pod is the proxy's matter; the pod only reads `X-Podpin-Session` and `X-Podpin-Repinned`.
//!
//! | route | what it does |
//! |---|---|
//! | `GET /` | the demo page |
//! | `GET /events` | the event stream (WHATWG HTML, section 9.2) |
//! | `POST /publish` | appends the body as the text of a new event |
//! | `GET /whoami` | which pod answered, which session it was told, how often and since when that session was met |
//! | `GET /healthz` | 200, or 503 from the moment the pod is told to end and while it cannot read from Redis |
//! | `GET /demo/pods`, `POST /demo/pods/{name}/stop`, `.../kill`, `.../start` | only with a [`DemoControl`], else 404 |

mod control;
mod interval;
mod log;
mod pod;
mod routes;
mod server;
mod session;
mod stream;

pub use control::{ControlError, DemoControl, DemoPod, DemoPodState};
pub use interval::{ParseIntervalError, parse_interval};
pub use log::{
    Entry, EventId, HistoryLimits, Location, Log, Overtaken, Read, StoreError, follow, publish_ticks,
};
pub use pod::PodSettings;
pub use server::ExamplePod;
