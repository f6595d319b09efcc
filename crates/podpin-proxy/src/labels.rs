//! The values of metric labels that say why: each an enum, so that the compiler knows all of them.

/// `upstream_errors_total{kind}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamErrorKind {
    Connect,
    Timeout,
    Reset,
    Protocol,
}

impl UpstreamErrorKind {
    pub(crate) const ALL: [UpstreamErrorKind; 4] =
        [Self::Connect, Self::Timeout, Self::Reset, Self::Protocol];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
        }
    }
}

/// `refusals_total{kind}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    NoEndpoint,
    Full,
    ClientLimit,
}

impl RefusalKind {
    pub(crate) const ALL: [RefusalKind; 3] = [Self::NoEndpoint, Self::Full, Self::ClientLimit];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::Full => "full",
            Self::ClientLimit => "client_limit",
        }
    }
}

/// `streams_closed_total{reason}`: why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The client closed its side.
    Client,
    /// The pod ended the stream with its last chunk.
    UpstreamEnd,
    /// The pod's side broke: reset, end without a last chunk, malformed framing.
    UpstreamReset,
    /// `sse.maxDuration`.
    MaxDuration,
    /// `timeouts.upstreamIdle`.
    Idle,
    /// The proxy itself is leaving.
    Shutdown,
    /// The client did not read for `timeouts.clientWrite`.
    SlowClient,
    /// Anything else; the access log says what.
    Error,
}

impl CloseReason {
    pub(crate) const ALL: [CloseReason; 8] = [
        Self::Client,
        Self::UpstreamEnd,
        Self::UpstreamReset,
        Self::MaxDuration,
        Self::Idle,
        Self::Shutdown,
        Self::SlowClient,
        Self::Error,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::UpstreamEnd => "upstream_end",
            Self::UpstreamReset => "upstream_reset",
            Self::MaxDuration => "max_duration",
            Self::Idle => "idle",
            Self::Shutdown => "shutdown",
            Self::SlowClient => "slow_client",
            Self::Error => "error",
        }
    }
}
