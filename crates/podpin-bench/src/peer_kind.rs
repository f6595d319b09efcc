//! The kinds of peers: podpin and the programs beside it.

use clap::ValueEnum;

use crate::protocol::Protocol;

/// A program that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum PeerKind {
    /// The TCP copy loop of this crate.
    Relay,
    /// Debian's `haproxy`.
    Haproxy,
    /// Debian's `nginx-light`.
    Nginx,
    /// `envoy`, which Debian does not have (`scripts/setup.sh envoy`).
    Envoy,
    /// Our own, with every default.
    Podpin,
    /// Our own, with streams that may go on at another pod.
    PodpinHandover,
}

impl PeerKind {
    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Podpin => "podpin",
            Self::PodpinHandover => "podpin-handover",
        }
    }

    /// Whether it knows HTTP, so that it can give a session to a client.
    pub(crate) fn knows_http(self) -> bool {
        self != Self::Relay
    }

    /// Whether it serves other pods without a restart as it is set up here; Envoy's endpoints are static.
    pub(crate) fn is_reloaded(self) -> bool {
        !matches!(self, Self::Relay | Self::Envoy)
    }

    /// Whether clients may speak `protocol` with it.
    pub(crate) fn speaks(self, protocol: Protocol) -> bool {
        self.knows_http() || protocol == Protocol::Http1
    }
}
