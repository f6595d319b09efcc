//! When an endpoint is left out although the cluster says it is ready: `health`.

use std::time::Duration;

use crate::{node::Node, section::Section, unit::DurationRange};

/// How failing endpoints are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Health by the requests that fail. `None` if off.
    pub passive: Option<PassiveHealth>,
    /// Health by probes. Default `None` if absent: no probes; in a cluster the kubelet does that.
    pub active: Option<ActiveHealth>,
}

/// Learning from failed requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassiveHealth {
    /// Failures in a row until an endpoint is ejected, 1 to 1,000, default 5.
    pub failures: u32,
    /// How long it is left out. 100 ms to 24 h, default 15 s.
    pub ejection: Duration,
    /// Answers that count as failures. 500 to 599, default none: an application's answer is not its pod's illness.
    pub statuses: Vec<u16>,
}

/// Asking every endpoint again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveHealth {
    /// The probe that is sent.
    pub probe: Probe,
    /// Between two checks of an endpoint. 100 ms to 1 h, default 5 s.
    pub interval: Duration,
    /// For a whole check. 10 ms to 1 min, default 1 s.
    pub timeout: Duration,
    /// Failed checks in a row until an endpoint is left out, 1 to 1,000, default 3.
    pub failures: u32,
    /// Good checks in a row until it is back, 1 to 1,000, default 1.
    pub successes: u32,
}

/// A way to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether a connection is accepted.
    Tcp,
    /// Whether a GET of this path is answered with a status from 200 to 399.
    Http {
        /// Begins with `/`.
        path: String,
    },
    /// Whether `grpc.health.v1.Health/Check` is answered with SERVING.
    Grpc {
        /// Service that is asked about; empty for the server as a whole.
        service: String,
    },
}

const EJECTION: DurationRange = DurationRange::new(Duration::from_millis(100), Duration::from_secs(86_400));
const INTERVAL: DurationRange = DurationRange::new(Duration::from_millis(100), Duration::from_secs(3_600));
const TIMEOUT: DurationRange = DurationRange::new(Duration::from_millis(10), Duration::from_secs(60));
const PATH_BYTES_MAX: usize = 1024;

impl Default for PassiveHealth {
    fn default() -> Self {
        Self { failures: 5, ejection: Duration::from_secs(15), statuses: Vec::new() }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { passive: Some(PassiveHealth::default()), active: None }
    }
}

impl Health {
    /// `health`: `off`, or a mapping whose parts may be `off`.
    pub(crate) fn read(health: Option<&Node<'_>>) -> Self {
        let Some(section) = health.map(|node| node.section_or_off("a mapping")) else {
            return Self::default();
        };
        match section {
            None => Self::default(),
            Some(None) => Self { passive: None, active: None },
            Some(Some(section)) => Self {
                passive: PassiveHealth::read(section.get("passive")),
                active: section.get("active").and_then(ActiveHealth::read),
            },
        }
    }
}

impl PassiveHealth {
    fn read(node: Option<&Node<'_>>) -> Option<Self> {
        let default = Self::default();
        let section = match node {
            None => return Some(default),
            Some(node) => node.section_or_off("a mapping")??,
        };
        Some(Self {
            failures: section.count("failures", 1..=1_000, default.failures),
            ejection: section.duration("ejection", EJECTION, default.ejection),
            statuses: section.statuses("statuses", default.statuses),
        })
    }
}

impl ActiveHealth {
    fn read(node: &Node<'_>) -> Option<Self> {
        let section = node.section_or_off("a mapping")??;
        Some(Self {
            probe: Probe::read(&section),
            interval: section.duration("interval", INTERVAL, Duration::from_secs(5)),
            timeout: section.duration("timeout", TIMEOUT, Duration::from_secs(1)),
            failures: section.count("failures", 1..=1_000, 3),
            successes: section.count("successes", 1..=1_000, 1),
        })
    }
}

impl Probe {
    fn read(section: &Section<'_>) -> Self {
        let path = section.get("path");
        let default = if path.is_some() { Kind::Http } else { Kind::Tcp };
        let kinds = [("tcp", Kind::Tcp), ("http", Kind::Http), ("grpc", Kind::Grpc)];
        let kind = section.choice("type", &kinds, default);
        let service = section.get("service");
        for (node, of) in [(path, Kind::Http), (service, Kind::Grpc)] {
            if let Some(node) = node.filter(|_| kind != of) {
                node.fail_at_key(format!("has no effect with `type: {}`", kind.name()));
            }
        }
        match kind {
            Kind::Tcp => Self::Tcp,
            Kind::Http => Self::Http { path: path.and_then(read_path).unwrap_or_else(|| "/".to_owned()) },
            Kind::Grpc => Self::Grpc { service: service.and_then(read_grpc_service).unwrap_or_default() },
        }
    }
}

/// The words for a kind of probe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Grpc,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

fn read_grpc_service(node: &Node<'_>) -> Option<String> {
    let name = node.text("a gRPC service such as chat.v1.Chat")?;
    let fits = name.len() <= PATH_BYTES_MAX && name.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        node.fail(format!(
            "expected a name without spaces, of at most {PATH_BYTES_MAX} bytes; found {name:?}"
        ));
    }
    fits.then(|| name.to_owned())
}

fn read_path(node: &Node<'_>) -> Option<String> {
    let path = node.text("a path such as /healthz")?;
    let fits =
        path.starts_with('/') && path.len() <= PATH_BYTES_MAX && path.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        node.fail(format!(
            "expected a path that begins with / and has no spaces, of at most {PATH_BYTES_MAX} bytes; found {path:?}"
        ));
    }
    fits.then(|| path.to_owned())
}
