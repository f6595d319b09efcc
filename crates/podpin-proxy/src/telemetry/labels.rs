//! The values of metric labels that say why: each an enum, so that the compiler knows all of them.

use http::{Method, Version};
use podpin_sse::session::{HandoverCause as Cause, Outcome};

/// Only registered methods are labels: a client must not be able to make up time series.
pub fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Returns the protocol as the access log spells it.
pub fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// `upstream_errors_total{kind}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamErrorKind {
    Connect,
    Timeout,
    Reset,
    Protocol,
}

impl UpstreamErrorKind {
    pub const ALL: [UpstreamErrorKind; 4] = [Self::Connect, Self::Timeout, Self::Reset, Self::Protocol];

    pub fn label(self) -> &'static str {
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
pub enum RefusalKind {
    NoEndpoint,
    Full,
    ClientLimit,
    /// It waited for a place for `affinity.queue.timeout`, or the queue was full.
    QueueTimeout,
    /// No endpoint answered an event stream request well; the client was told to come back instead of a 502 or 504.
    Upstream,
    /// There was no room for the client's connection.
    Connections,
}

impl RefusalKind {
    pub const ALL: [RefusalKind; 6] = [
        Self::NoEndpoint,
        Self::Full,
        Self::ClientLimit,
        Self::QueueTimeout,
        Self::Upstream,
        Self::Connections,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::Full => "full",
            Self::ClientLimit => "client_limit",
            Self::QueueTimeout => "queue_timeout",
            Self::Upstream => "upstream",
            Self::Connections => "connections",
        }
    }
}

/// `streams_closed_total{reason}`: why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed its side.
    Client,
    /// The pod ended the stream with its last chunk.
    UpstreamEnd,
    /// The pod's side broke: reset, end without a last chunk, malformed framing.
    UpstreamReset,
    /// Its endpoint is leaving, and the client was told goodbye.
    Drain,
    /// Moved to a pod with fewer streams. Only a handover does that, so no stream ends for it; part of the contract.
    Rebalance,
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
    pub const ALL: [CloseReason; 10] = [
        Self::Client,
        Self::UpstreamEnd,
        Self::UpstreamReset,
        Self::Drain,
        Self::Rebalance,
        Self::MaxDuration,
        Self::Idle,
        Self::Shutdown,
        Self::SlowClient,
        Self::Error,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::UpstreamEnd => "upstream_end",
            Self::UpstreamReset => "upstream_reset",
            Self::Drain => "drain",
            Self::Rebalance => "rebalance",
            Self::MaxDuration => "max_duration",
            Self::Idle => "idle",
            Self::Shutdown => "shutdown",
            Self::SlowClient => "slow_client",
            Self::Error => "error",
        }
    }
}

/// `drain_departures_total{kind}`: how a stream left an endpoint that drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepartureKind {
    /// It goes on at another pod, and its client did not notice.
    Handover,
    /// `retry:` and a clean end between two events.
    Polite,
    /// Cut at the deadline: it was within an event, or the client did not take its goodbye.
    Forced,
}

impl DepartureKind {
    pub const ALL: [DepartureKind; 3] = [Self::Handover, Self::Polite, Self::Forced];

    pub fn label(self) -> &'static str {
        match self {
            Self::Handover => "handover",
            Self::Polite => "polite",
            Self::Forced => "forced",
        }
    }
}

/// `reconnects_total{outcome}`: what became of a client whose stream was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconnectOutcome {
    /// It was back within `drain.returnWindow`.
    Returned,
    /// It was not.
    Lost,
}

impl ReconnectOutcome {
    pub const ALL: [ReconnectOutcome; 2] = [Self::Returned, Self::Lost];

    pub fn label(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Lost => "lost",
        }
    }
}

/// `handovers_total{cause}`.
pub fn handover_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Planned => "planned",
        Cause::Crash => "crash",
    }
}

/// `handovers_total{result}`.
pub fn handover_result(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Refused => "refused",
        Outcome::Timeout => "timeout",
        Outcome::NoId => "no_id",
        Outcome::Limit => "limit",
    }
}
