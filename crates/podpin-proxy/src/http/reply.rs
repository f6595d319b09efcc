//! Every failure that a client can see: status, body, `Retry-After`, and the metric that counts it.
//!
//! Nothing else in the proxy invents a status code. The match is exhaustive on purpose: a new failure must say here
//! what it is on the wire.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use podpin_wire::http1::encode::{self, Persistence};

use crate::telemetry::labels::RefusalKind;
use podpin_wire::http1::request_head::HeadError;

/// Why a client gets an answer of ours instead of a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request head is refused.
    #[error("{0}")]
    Head(#[from] HeadError),
    /// The request head did not come within `limits.requestHeaderTimeout`.
    #[error("the request head took too long")]
    HeadTimeout,
    /// The request body stalled for `limits.requestBodyTimeout`.
    #[error("the request body took too long")]
    BodyTimeout,
    /// The request body breaks its framing.
    #[error("malformed request body")]
    Body,
    /// `limits.connections` is reached.
    #[error("too many connections")]
    Connections,
    /// `limits.connectionsPerClientIP` is reached.
    #[error("too many connections of this client")]
    ClientConnections,
    /// No route matches host and path.
    #[error("no route matches host and path")]
    NoRoute,
    /// The service has no endpoint that may be used.
    #[error("no endpoint is available")]
    NoEndpoint,
    /// Every usable endpoint is at `limits.streamsPerEndpoint`.
    #[error("every endpoint is at its limit")]
    Full,
    /// The client is at `limits.streamsPerClient`.
    #[error("too many streams of this client")]
    ClientLimit,
    /// No place became free within `affinity.queue.timeout`, or too many were waiting.
    #[error("no place became free in time")]
    QueueTimeout,
    /// Every endpoint that was asked for an event stream answered 502, 503 or 504.
    #[error("the endpoints answer {0}")]
    UpstreamStatus(u16),
    /// No connection to an endpoint within `retries`.
    #[error("the endpoint cannot be reached")]
    UpstreamConnect,
    /// No response head within `timeouts.responseHeader`.
    #[error("the endpoint did not answer in time")]
    UpstreamTimeout,
    /// The endpoint closed before its response head was complete.
    #[error("the endpoint closed the connection")]
    UpstreamReset,
    /// The endpoint's response is not HTTP.
    #[error("the endpoint's answer is malformed")]
    UpstreamProtocol,
    /// The client is gone: nobody is there to answer.
    #[error("the client went away")]
    ClientGone,
    /// A state that should not be; logged as an error.
    #[error("internal error")]
    Internal,
}

/// Seconds after which a client may ask again when nothing can serve it: about what a pod takes to become ready.
const RETRY_AFTER_SECONDS: u32 = 5;

impl Failure {
    /// The status on the wire; `None` when nobody is there to read it.
    pub fn status(self) -> Option<StatusCode> {
        Some(match self {
            Failure::Head(HeadError::Malformed(_)) | Failure::Body => StatusCode::BAD_REQUEST,
            Failure::Head(HeadError::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Failure::Head(HeadError::TargetTooLong) => StatusCode::URI_TOO_LONG,
            Failure::Head(HeadError::Connect) => StatusCode::METHOD_NOT_ALLOWED,
            Failure::Head(HeadError::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Failure::HeadTimeout | Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Failure::NoRoute => StatusCode::NOT_FOUND,
            Failure::Connections
            | Failure::ClientConnections
            | Failure::NoEndpoint
            | Failure::Full
            | Failure::QueueTimeout => StatusCode::SERVICE_UNAVAILABLE,
            Failure::UpstreamStatus(code) => {
                StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
            }
            Failure::ClientLimit => StatusCode::TOO_MANY_REQUESTS,
            Failure::UpstreamConnect | Failure::UpstreamReset | Failure::UpstreamProtocol => {
                StatusCode::BAD_GATEWAY
            }
            Failure::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Failure::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Failure::ClientGone => return None,
        })
    }

    /// Seconds for `Retry-After` (RFC 9110 section 10.2.3), where asking again makes sense.
    pub fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Failure::Connections
            | Failure::ClientConnections
            | Failure::NoEndpoint
            | Failure::Full
            | Failure::ClientLimit
            | Failure::QueueTimeout
            | Failure::UpstreamStatus(_) => Some(RETRY_AFTER_SECONDS),
            Failure::Head(_)
            | Failure::HeadTimeout
            | Failure::BodyTimeout
            | Failure::Body
            | Failure::NoRoute
            | Failure::UpstreamConnect
            | Failure::UpstreamTimeout
            | Failure::UpstreamReset
            | Failure::UpstreamProtocol
            | Failure::ClientGone
            | Failure::Internal => None,
        }
    }

    /// Which `refusals_total` counts it.
    pub fn refusal(self) -> Option<RefusalKind> {
        match self {
            Failure::NoEndpoint => Some(RefusalKind::NoEndpoint),
            Failure::Full => Some(RefusalKind::Full),
            Failure::ClientLimit => Some(RefusalKind::ClientLimit),
            Failure::QueueTimeout => Some(RefusalKind::QueueTimeout),
            Failure::Connections | Failure::ClientConnections => Some(RefusalKind::Connections),
            Failure::Head(_)
            | Failure::HeadTimeout
            | Failure::BodyTimeout
            | Failure::Body
            | Failure::NoRoute
            | Failure::UpstreamConnect
            | Failure::UpstreamTimeout
            | Failure::UpstreamReset
            | Failure::UpstreamProtocol
            | Failure::UpstreamStatus(_)
            | Failure::ClientGone
            | Failure::Internal => None,
        }
    }

    /// Whether an event stream client had better come back than be told a status: a browser's `EventSource` gives up for
    /// good on anything but 200 (WHATWG HTML, section 9.2.3). Gives the kind of refusal that is counted then.
    pub fn passing(self) -> Option<RefusalKind> {
        match self {
            Failure::UpstreamConnect
            | Failure::UpstreamTimeout
            | Failure::UpstreamReset
            | Failure::UpstreamProtocol
            | Failure::UpstreamStatus(_) => Some(RefusalKind::Upstream),
            other => other.refusal(),
        }
    }

    /// The reason as the access log spells it.
    pub fn log_reason(self) -> &'static str {
        match self {
            Failure::ClientGone => "client",
            Failure::NoRoute
            | Failure::NoEndpoint
            | Failure::Full
            | Failure::ClientLimit
            | Failure::QueueTimeout
            | Failure::Connections
            | Failure::ClientConnections => "refused",
            Failure::Head(_)
            | Failure::HeadTimeout
            | Failure::BodyTimeout
            | Failure::Body
            | Failure::UpstreamConnect
            | Failure::UpstreamTimeout
            | Failure::UpstreamReset
            | Failure::UpstreamProtocol
            | Failure::UpstreamStatus(_)
            | Failure::Internal => "error",
        }
    }

    /// The body: one line of text that says why.
    pub fn body(self) -> String {
        format!("podpin: {self}\n")
    }

    /// The answer that says what is wrong; `None` when nobody is there to read it.
    pub fn answer(self) -> Option<Answer> {
        Some(Answer {
            status: self.status()?,
            content_type: "text/plain; charset=utf-8",
            retry_after_seconds: self.retry_after_seconds(),
            body: self.body(),
            lines: HeaderMap::new(),
        })
    }

    /// The answer to an event stream client that asks it to come back after so long: an event stream that says why in a
    /// comment, and is over.
    pub fn invitation(self, retry_millis: u64) -> Answer {
        Answer {
            status: StatusCode::OK,
            content_type: "text/event-stream",
            retry_after_seconds: None,
            body: format!("{}: podpin: {self}\n\n", podpin_sse::retry_line(retry_millis)),
            lines: HeaderMap::new(),
        }
    }

    /// The whole answer in HTTP/1.1, for a connection that is closed after it. Empty when nobody is there to read it.
    pub fn h1_close(self) -> Vec<u8> {
        self.answer().map(|answer| answer.h1(Persistence::Close, Body::Whole)).unwrap_or_default()
    }
}

/// An answer of ours, complete.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub retry_after_seconds: Option<u32>,
    pub body: String,
    /// Beside those that every answer has.
    pub lines: HeaderMap,
}

impl Answer {
    /// An answer that its head is all of.
    pub fn empty(status: StatusCode, lines: HeaderMap) -> Answer {
        let content_type = "text/plain; charset=utf-8";
        Answer { status, content_type, retry_after_seconds: None, body: String::new(), lines }
    }

    /// The lines that every answer has, before [`Answer::lines`].
    pub fn own_lines(&self) -> HeaderMap {
        let mut lines = HeaderMap::with_capacity(4 + self.lines.len());
        // RFC 9110 section 8.6: no length with 204.
        if self.status != StatusCode::NO_CONTENT {
            lines.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            lines.insert(header::CONTENT_LENGTH, self.body.len().into());
        }
        lines.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            lines.insert(header::RETRY_AFTER, seconds.into());
        }
        lines
    }

    /// All of it in HTTP/1.1.
    pub fn h1(&self, persistence: Persistence, body: Body) -> Vec<u8> {
        let reason = self.status.canonical_reason().unwrap_or("Error");
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_u16()).into_bytes();
        encode::write_lines(&mut bytes, &self.own_lines());
        encode::write_lines(&mut bytes, &self.lines);
        bytes.extend_from_slice(persistence.line());
        bytes.extend_from_slice(b"\r\n");
        if body == Body::Whole {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

/// Whether an answer of ours has its body, or is one to HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Whole,
    Omitted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_ours_is_complete_and_closes() {
        let text = String::from_utf8(Failure::NoEndpoint.h1_close()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains("\r\nRetry-After: 5\r\n") && head.ends_with("Connection: close"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(Failure::ClientGone.h1_close().is_empty());
    }

    #[test]
    fn an_invitation_is_an_event_stream_without_an_event() {
        let text =
            String::from_utf8(Failure::Full.invitation(1_234).h1(Persistence::Close, Body::Whole)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"), "{head}");
        assert_eq!(body, "retry: 1234\n\n: podpin: every endpoint is at its limit\n\n");
    }
}
