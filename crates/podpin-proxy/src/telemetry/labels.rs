//! Metric labels with a fixed set of values: each set an enum, so that a wrong label does not compile.
//!
//! A [`Label`] knows all of its values, so every time series of it shows as 0 before it moves, and its name on the wire.
//! Labels with open values (service, route, listener, endpoint) stay strings: they come from the configuration or the
//! cluster, never from a client.

use http::{Method, Version};
use podpin_endpoints::MoveReason;
use podpin_h2::Excess;
use podpin_sse::session::{HandoverCause as Cause, Outcome};

/// A metric label with a fixed set of values.
pub trait Label: Copy + Eq + 'static {
    /// The name of the label in Prometheus' text format.
    const NAME: &'static str;
    /// Every value of the label.
    const ALL: &'static [Self];

    /// Returns the value as Prometheus' text format has it.
    fn label(self) -> &'static str;
}

/// Implements [`Label`] by one list, so that no value of the enum can be missing in it: the match is exhaustive.
macro_rules! impl_label {
    ($label:ty, $name:literal, { $($variant:ident => $text:literal,)* }) => {
        impl Label for $label {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

/// Declares an enum and its [`Label`] in one list; it is serialised as its label.
macro_rules! labels {
    (
        $(#[$doc:meta])*
        $set:ident, $name:literal, {
            $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $set {
            $($(#[$variant_doc])* $variant,)*
        }

        impl_label!($set, $name, { $($variant => $text,)* });

        impl serde::Serialize for $set {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.label())
            }
        }
    };
}

labels! {
    /// `requests_total{method}`. Unregistered methods share one value: a client must not be able to make up time series.
    MethodLabel, "method", {
        /// `GET`.
        Get => "GET",
        /// `HEAD`.
        Head => "HEAD",
        /// `POST`.
        Post => "POST",
        /// `PUT`.
        Put => "PUT",
        /// `DELETE`.
        Delete => "DELETE",
        /// `PATCH`.
        Patch => "PATCH",
        /// `OPTIONS`.
        Options => "OPTIONS",
        /// Any other method.
        Other => "other",
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

impl From<&Method> for MethodLabel {
    fn from(method: &Method) -> MethodLabel {
        match *method {
            Method::GET => MethodLabel::Get,
            Method::HEAD => MethodLabel::Head,
            Method::POST => MethodLabel::Post,
            Method::PUT => MethodLabel::Put,
            Method::DELETE => MethodLabel::Delete,
            Method::PATCH => MethodLabel::Patch,
            Method::OPTIONS => MethodLabel::Options,
            _ => MethodLabel::Other,
        }
    }
}

labels! {
    /// `upstream_errors_total{kind}`: failures of endpoints.
    UpstreamErrorKind, "kind", {
        /// No connection.
        Connect => "connect",
        /// No response head, or no progress, in time.
        Timeout => "timeout",
        /// A connection closed or reset before the response was complete.
        Reset => "reset",
        /// A response that is not HTTP.
        Protocol => "protocol",
    }
}

labels! {
    /// `upstream_retries_total{reason}`: failures for which another endpoint was tried.
    RetryReason, "reason", {
        /// No connection.
        Connect => "connect",
        /// A connection closed before the response head.
        Reset => "reset",
        /// A 502, 503 or 504.
        Status => "status",
    }
}

labels! {
    /// `refusals_total{kind}`: reasons for which nothing could serve a request.
    RefusalKind, "kind", {
        /// No usable endpoint.
        NoEndpoint => "no_endpoint",
        /// Every usable endpoint at `limits.streamsPerEndpoint`.
        Full => "full",
        /// The client at `limits.streamsPerClient`.
        ClientLimit => "client_limit",
        /// More clients that come back than `sse.reconnect` allows.
        ReconnectRate => "reconnect_rate",
        /// No place within `affinity.queue.timeout`, or a full queue.
        QueueTimeout => "queue_timeout",
        /// No good answer to an event stream request; the client got `retry:` instead of a 502 or 504.
        Upstream => "upstream",
        /// No room for the client's connection.
        Connections => "connections",
        /// The process at `limits.requests`.
        Requests => "requests",
    }
}

labels! {
    /// `streams_closed_total{reason}`: the ends of event streams.
    CloseReason, "reason", {
        /// The client closed its side.
        Client => "client",
        /// The endpoint ended the stream with its last chunk.
        UpstreamEnd => "upstream_end",
        /// The endpoint's side broke: reset, end without a last chunk, malformed framing.
        UpstreamReset => "upstream_reset",
        /// The endpoint drains, and the stream was closed between two events.
        Drain => "drain",
        /// A move to an endpoint with fewer streams. Only handovers do that, so no stream ends for it; part of the contract.
        Rebalance => "rebalance",
        /// `sse.maxDuration`, or the deadline of a gRPC call.
        MaxDuration => "max_duration",
        /// `timeouts.upstreamIdle`.
        Idle => "idle",
        /// The shutdown of this process.
        Shutdown => "shutdown",
        /// A client that did not read for `timeouts.clientWrite`.
        SlowClient => "slow_client",
        /// Anything else; the access log has the error.
        Error => "error",
    }
}

labels! {
    /// `drain_departures_total{kind}`: ways in which streams leave an endpoint that drains.
    DepartureKind, "kind", {
        /// A move to another endpoint that the client did not notice.
        Handover => "handover",
        /// `retry:` and a clean end between two events.
        Polite => "polite",
        /// A cut at the deadline, within an event or with a client that did not take the close.
        Forced => "forced",
    }
}

labels! {
    /// `reconnects_total{outcome}`: clients whose stream was ended.
    ReconnectOutcome, "outcome", {
        /// A return within `drain.returnWindow`.
        Returned => "returned",
        /// No return within it.
        Lost => "lost",
    }
}

labels! {
    /// `handover_joins_total{result}`: the seam between two endpoints in one response.
    Join, "result", {
        /// The successor began after the client's last event, or both were at the present moment.
        Exact => "exact",
        /// Both endpoints were read until the same event came from both.
        Overlap => "overlap",
        /// The successor said that it begins after another event than the client's last.
        Gap => "gap",
        /// Nothing says what came between: the upstream died before any event, or ids name no events.
        Unknown => "unknown",
    }
}

labels! {
    /// `affinity_decisions_total{result}`: the worth of a request's affinity token.
    AffinityDecision, "result", {
        /// A valid pin that was followed.
        Pinned => "pinned",
        /// No pin.
        New => "new",
        /// A valid pin whose endpoint could not be used.
        Repinned => "repinned",
        /// A signature that does not verify.
        Forged => "forged",
        /// A token past its lifetime.
        Expired => "expired",
        /// Bytes that are no token.
        Malformed => "malformed",
        /// A signature by a key that is not configured.
        UnknownKey => "unknown_key",
    }
}

labels! {
    /// `streams_opened_total{result}`: the state of the clients of new event streams.
    OpenedStream, "result", {
        /// No pin and no `Last-Event-ID`.
        New => "new",
        /// A pin that was followed.
        Pinned => "pinned",
        /// A pin whose endpoint could not be used.
        Repinned => "repinned",
        /// `Last-Event-ID` without a valid pin.
        Resumed => "resumed",
    }
}

/// Whether a client resumes an event stream, by `Last-Event-ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// The request has no `Last-Event-ID`.
    Fresh,
    /// The request has one.
    Resumed,
}

impl OpenedStream {
    /// Returns the label of a stream whose request was decided upon in this way.
    #[must_use]
    pub fn of(decision: AffinityDecision, resumption: Resumption) -> OpenedStream {
        match (decision, resumption) {
            (AffinityDecision::Pinned, _) => OpenedStream::Pinned,
            (AffinityDecision::Repinned, _) => OpenedStream::Repinned,
            (_, Resumption::Resumed) => OpenedStream::Resumed,
            (_, Resumption::Fresh) => OpenedStream::New,
        }
    }
}

mod discovery;

pub use discovery::{DiscoveryError, MismatchReason, RelistReason};

labels! {
    /// `connections_total{protocol}`.
    ConnectionProtocol, "protocol", {
        /// HTTP/1.1.
        Http1 => "h1",
        /// HTTP/2.
        Http2 => "h2",
    }
}

labels! {
    /// `connections_refused_total{limit}`.
    ConnectionLimit, "limit", {
        /// `limits.connections`.
        All => "connections",
        /// `limits.connectionsPerClientIP`.
        Client => "connections_per_client_ip",
    }
}

labels! {
    /// `tls_handshakes_failed_total{reason}`.
    HandshakeError, "reason", {
        /// A client that left, speaks no TLS, or none that is accepted.
        Failed => "failed",
        /// No handshake within `limits.requestHeaderTimeout`.
        Timeout => "timeout",
    }
}

labels! {
    /// `tls_failures_total{reason}`.
    TlsFailure, "reason", {
        /// No handshake in time.
        Timeout => "timeout",
        /// A peer that left before the end of its handshake.
        Closed => "closed",
        /// HTTP in plain text on a port of TLS.
        PlainHttp => "plain_http",
        /// Bytes that are no TLS.
        NotTls => "not_tls",
        /// No version in common.
        Version => "version",
        /// No cipher, key exchange, signature or protocol (ALPN) in common.
        Parameters => "parameters",
        /// No certificate where one is required.
        CertificateMissing => "certificate_missing",
        /// A certificate that has expired.
        CertificateExpired => "certificate_expired",
        /// A certificate that is not valid yet.
        CertificateNotYetValid => "certificate_not_yet_valid",
        /// A certificate for another name.
        CertificateName => "certificate_name",
        /// A certificate of an authority that is not trusted.
        CertificateAuthority => "certificate_authority",
        /// A certificate with another fault.
        CertificateInvalid => "certificate_invalid",
        /// A peer that refuses our certificate, or something else of ours, by an alert.
        RefusedByPeer => "refused_by_peer",
        /// A peer that breaks the protocol.
        Misbehaved => "misbehaved",
        /// Anything else.
        Other => "other",
    }
}

labels! {
    /// `tls_handshakes_total{version}`.
    HandshakeVersion, "version", {
        /// RFC 5246.
        Tls12 => "1.2",
        /// RFC 8446.
        Tls13 => "1.3",
    }
}

labels! {
    /// `tls_handshakes_total{resumed}`.
    HandshakeResumed, "resumed", {
        /// A full handshake.
        No => "false",
        /// A session that goes on.
        Yes => "true",
    }
}

labels! {
    /// `proxy_protocol_errors_total{reason}`.
    ProxyHeaderError, "reason", {
        /// A peer that is not in `trustedProxies`.
        Untrusted => "untrusted",
        /// A connection that begins with something else.
        Missing => "missing",
        /// A header that does not parse.
        Malformed => "malformed",
        /// A header longer than the limit.
        TooLong => "too_long",
        /// No header within `limits.requestHeaderTimeout`.
        Timeout => "timeout",
        /// An end within the header.
        CutShort => "cut_short",
    }
}

labels! {
    /// `config_reloads_total{result}` and the same for keys and certificates.
    ReloadResult, "result", {
        /// The new one is in force.
        Success => "success",
        /// The old one stays in force.
        Failure => "failure",
    }
}

labels! {
    /// `endpoints{state}`.
    EndpointState, "state", {
        /// Takes new clients.
        Ready => "ready",
        /// Takes no new clients, keeps pinned ones.
        Resting => "resting",
        /// Takes no new clients; its streams leave.
        Draining => "draining",
        /// Out of use for a while after failures, whatever its phase.
        Ejected => "ejected",
    }
}

labels! {
    /// `streams_active{state}`.
    StreamState, "state", {
        /// A stream of an endpoint that serves.
        Active => "active",
        /// A stream of an endpoint that drains or is no longer listed.
        Draining => "draining",
    }
}

impl_label!(MoveReason, "reason", {
    Draining => "draining",
    Gone => "gone",
    Unready => "unready",
    Ejected => "ejected",
    Full => "full",
});

impl_label!(Cause, "cause", {
    Planned => "planned",
    Crash => "crash",
});

impl_label!(Outcome, "result", {
    Ok => "ok",
    Refused => "refused",
    Status4xx => "status_4xx",
    Status5xx => "status_5xx",
    Cap => "cap",
    NoEndpoint => "no_endpoint",
    Connect => "connect",
    Timeout => "timeout",
    NoId => "no_id",
    NoOverlap => "no_overlap",
    Limit => "limit",
});

impl_label!(Excess, "reason", {
    Resets => "resets",
    Provoked => "provoked",
    Frames => "frames",
    Unfinished => "unfinished",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_opened_by_what_its_client_had() {
        let table = [
            (AffinityDecision::Pinned, Resumption::Resumed, OpenedStream::Pinned),
            (AffinityDecision::Repinned, Resumption::Resumed, OpenedStream::Repinned),
            (AffinityDecision::Forged, Resumption::Resumed, OpenedStream::Resumed),
            (AffinityDecision::New, Resumption::Resumed, OpenedStream::Resumed),
            (AffinityDecision::New, Resumption::Fresh, OpenedStream::New),
            (AffinityDecision::Expired, Resumption::Fresh, OpenedStream::New),
        ];
        for (decision, resumption, expected) in table {
            assert_eq!(OpenedStream::of(decision, resumption), expected, "{decision:?} {resumption:?}");
        }
    }

    #[test]
    fn a_made_up_method_makes_no_time_series() {
        assert_eq!(MethodLabel::from(&Method::GET).label(), "GET");
        assert_eq!(MethodLabel::from(&"BREW".parse().unwrap()).label(), "other");
    }
}
