//! Replies of the proxy itself: status, body, `Retry-After` of every error that a client can see, and its metric.
//!
//! Nothing else in the proxy invents a status code. The matches are exhaustive on purpose: a new error needs its form on
//! the wire here.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use podpin_wire::http1::encode::{self, Persistence};

use crate::clock;
use crate::telemetry::labels::{CloseReason, Label as _, RefusalKind};
use podpin_wire::grpc::GrpcStatus;
use podpin_wire::http1::request_head::HeadError;

/// The reason why a client gets a reply of the proxy instead of an endpoint's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ErrorReply {
    /// Refused request head.
    #[error("{0}")]
    Head(#[from] HeadError),
    /// Request head that did not come within `limits.requestHeaderTimeout`.
    #[error("the request head took too long")]
    HeadTimeout,
    /// Request body that stalled for `limits.requestBodyTimeout`.
    #[error("the request body took too long")]
    BodyTimeout,
    /// Request body that breaks its framing.
    #[error("malformed request body")]
    Body,
    /// Connection beyond `limits.connections`.
    #[error("too many connections")]
    Connections,
    /// Connection beyond `limits.connectionsPerClientIP`.
    #[error("too many connections of this client")]
    ClientConnections,
    /// Request beyond `limits.requests`.
    #[error("too many requests in flight")]
    Requests,
    /// Request for a host that the certificate of its connection is not for (RFC 9110 section 7.4).
    #[error("the connection is not for this host")]
    Misdirected,
    /// No route for host and path.
    #[error("no route matches host and path")]
    NoRoute,
    /// No endpoint of the service that may be used.
    #[error("no endpoint is available")]
    NoEndpoint,
    /// All usable endpoints at `limits.streamsPerEndpoint`.
    #[error("every endpoint is at its limit")]
    Full,
    /// Stream beyond the client's `limits.streamsPerClient`.
    #[error("too many streams of this client")]
    ClientLimit,
    /// Stream of a client that comes back while more than `sse.reconnect` come.
    #[error("too many clients come back at once")]
    ReconnectRate,
    /// No free slot within `affinity.queue.timeout`, or a full queue.
    #[error("no place became free in time")]
    QueueTimeout,
    /// 502, 503 or 504 of every endpoint that was tried for an event stream.
    #[error("the endpoints answer {0}")]
    UpstreamStatus(u16),
    /// No connection to an endpoint within `retries`.
    #[error("the endpoint cannot be reached")]
    UpstreamConnect,
    /// No response head within `timeouts.responseHeader`.
    #[error("the endpoint did not answer in time")]
    UpstreamTimeout,
    /// Connection that the endpoint closed before its response head was complete.
    #[error("the endpoint closed the connection")]
    UpstreamReset,
    /// Response of the endpoint that is not HTTP.
    #[error("the endpoint's answer is malformed")]
    UpstreamProtocol,
    /// Call of gRPC whose time is up, as its client has set it.
    #[error("the deadline of the call has passed")]
    Deadline,
    /// Call of gRPC at an endpoint whose drain has ended.
    #[error("the endpoint is leaving")]
    Leaving,
    /// Offer of another protocol to endpoints that speak HTTP/2.
    #[error("the endpoints take no other protocol")]
    Upgrade,
    /// Client that is gone: there is no reply.
    #[error("the client went away")]
    ClientGone,
    /// Request that has passed this proxy before, on its way to the same service.
    #[error("the request goes round in a loop")]
    Loop,
    /// State that should not be; logged as an error.
    #[error("internal error")]
    Internal,
}

/// Seconds after which a client may retry if nothing can serve it: about the time that an endpoint takes to become ready.
const RETRY_AFTER_SECONDS: u32 = 5;

impl ErrorReply {
    /// Returns the status on the wire; `None` if the client is gone.
    pub fn status(self) -> Option<StatusCode> {
        Some(match self {
            ErrorReply::Head(HeadError::Malformed(_)) | ErrorReply::Body => StatusCode::BAD_REQUEST,
            ErrorReply::Head(HeadError::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            ErrorReply::Head(HeadError::TargetTooLong) => StatusCode::URI_TOO_LONG,
            ErrorReply::Head(HeadError::Connect | HeadError::Trace) => StatusCode::METHOD_NOT_ALLOWED,
            ErrorReply::Head(HeadError::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            ErrorReply::HeadTimeout | ErrorReply::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            ErrorReply::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            ErrorReply::NoRoute => StatusCode::NOT_FOUND,
            ErrorReply::Connections
            | ErrorReply::ClientConnections
            | ErrorReply::Requests
            | ErrorReply::NoEndpoint
            | ErrorReply::Full
            | ErrorReply::ReconnectRate
            | ErrorReply::QueueTimeout
            | ErrorReply::Leaving => StatusCode::SERVICE_UNAVAILABLE,
            ErrorReply::UpstreamStatus(code) => {
                StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
            }
            ErrorReply::ClientLimit => StatusCode::TOO_MANY_REQUESTS,
            ErrorReply::UpstreamConnect | ErrorReply::UpstreamReset | ErrorReply::UpstreamProtocol => {
                StatusCode::BAD_GATEWAY
            }
            ErrorReply::UpstreamTimeout | ErrorReply::Deadline => StatusCode::GATEWAY_TIMEOUT,
            ErrorReply::Upgrade => StatusCode::NOT_IMPLEMENTED,
            ErrorReply::Loop => StatusCode::LOOP_DETECTED,
            ErrorReply::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorReply::ClientGone => return None,
        })
    }

    /// Returns the seconds of `Retry-After` (RFC 9110 section 10.2.3); `None` if a retry makes no sense.
    pub fn retry_after_seconds(self) -> Option<u32> {
        match self {
            ErrorReply::Connections
            | ErrorReply::ClientConnections
            | ErrorReply::Requests
            | ErrorReply::NoEndpoint
            | ErrorReply::Full
            | ErrorReply::ClientLimit
            | ErrorReply::ReconnectRate
            | ErrorReply::QueueTimeout
            | ErrorReply::UpstreamStatus(_) => Some(RETRY_AFTER_SECONDS),
            ErrorReply::Head(_)
            | ErrorReply::HeadTimeout
            | ErrorReply::BodyTimeout
            | ErrorReply::Body
            | ErrorReply::Misdirected
            | ErrorReply::NoRoute
            | ErrorReply::UpstreamConnect
            | ErrorReply::UpstreamTimeout
            | ErrorReply::UpstreamReset
            | ErrorReply::UpstreamProtocol
            | ErrorReply::Deadline
            | ErrorReply::Leaving
            | ErrorReply::Upgrade
            | ErrorReply::ClientGone
            | ErrorReply::Loop
            | ErrorReply::Internal => None,
        }
    }

    /// Returns the kind of `refusals_total`; `None` if the error is no refusal.
    pub fn refusal(self) -> Option<RefusalKind> {
        match self {
            ErrorReply::NoEndpoint => Some(RefusalKind::NoEndpoint),
            ErrorReply::Full => Some(RefusalKind::Full),
            ErrorReply::ClientLimit => Some(RefusalKind::ClientLimit),
            ErrorReply::ReconnectRate => Some(RefusalKind::ReconnectRate),
            ErrorReply::QueueTimeout => Some(RefusalKind::QueueTimeout),
            ErrorReply::Connections | ErrorReply::ClientConnections => Some(RefusalKind::Connections),
            ErrorReply::Requests => Some(RefusalKind::Requests),
            ErrorReply::Head(_)
            | ErrorReply::HeadTimeout
            | ErrorReply::BodyTimeout
            | ErrorReply::Body
            | ErrorReply::Misdirected
            | ErrorReply::NoRoute
            | ErrorReply::UpstreamConnect
            | ErrorReply::UpstreamTimeout
            | ErrorReply::UpstreamReset
            | ErrorReply::UpstreamProtocol
            | ErrorReply::UpstreamStatus(_)
            | ErrorReply::Deadline
            | ErrorReply::Leaving
            | ErrorReply::Upgrade
            | ErrorReply::ClientGone
            | ErrorReply::Loop
            | ErrorReply::Internal => None,
        }
    }

    /// Returns the kind of refusal if an event stream client should come back instead of seeing a status: a browser's
    /// `EventSource` gives up for good on anything but 200 (WHATWG HTML, section 9.2.3). `None` if it should see it.
    pub fn transient_refusal(self) -> Option<RefusalKind> {
        match self {
            ErrorReply::UpstreamConnect
            | ErrorReply::UpstreamTimeout
            | ErrorReply::UpstreamReset
            | ErrorReply::UpstreamProtocol
            | ErrorReply::UpstreamStatus(_) => Some(RefusalKind::Upstream),
            other => other.refusal(),
        }
    }

    /// Returns the reason as the access log spells it.
    pub fn log_reason(self) -> &'static str {
        match self {
            ErrorReply::ClientGone => "client",
            ErrorReply::Deadline => "deadline",
            ErrorReply::Leaving => CloseReason::Drain.label(),
            ErrorReply::NoRoute
            | ErrorReply::NoEndpoint
            | ErrorReply::Full
            | ErrorReply::ClientLimit
            | ErrorReply::ReconnectRate
            | ErrorReply::QueueTimeout
            | ErrorReply::Connections
            | ErrorReply::ClientConnections
            | ErrorReply::Requests => "refused",
            ErrorReply::Head(_)
            | ErrorReply::HeadTimeout
            | ErrorReply::BodyTimeout
            | ErrorReply::Body
            | ErrorReply::Misdirected
            | ErrorReply::UpstreamConnect
            | ErrorReply::UpstreamTimeout
            | ErrorReply::UpstreamReset
            | ErrorReply::UpstreamProtocol
            | ErrorReply::UpstreamStatus(_)
            | ErrorReply::Upgrade
            | ErrorReply::Loop
            | ErrorReply::Internal => "error",
        }
    }

    /// Returns the body: one line of text with the reason.
    pub fn body(self) -> String {
        format!("podpin: {self}\n")
    }

    /// Returns the reply with its reason; `None` if the client is gone.
    pub fn response(self) -> Option<LocalResponse> {
        Some(LocalResponse {
            status: self.status()?,
            content_type: "text/plain; charset=utf-8",
            retry_after_seconds: self.retry_after_seconds(),
            body: self.body(),
            headers: HeaderMap::new(),
        })
    }

    /// Returns the status of a gRPC call that ends with this; `None` if the client is gone.
    pub fn grpc_status(self) -> Option<GrpcStatus> {
        match self {
            ErrorReply::Deadline => Some(GrpcStatus::DeadlineExceeded),
            other => other.status().map(GrpcStatus::of_http),
        }
    }

    /// Returns the reply to a gRPC call: a head that is all of it; `None` if the client is gone.
    pub fn call_response(self) -> Option<LocalResponse> {
        Some(LocalResponse {
            content_type: "application/grpc",
            ..LocalResponse::empty(StatusCode::OK, self.grpc_status()?.fields(&format!("podpin: {self}")))
        })
    }

    /// Returns a reply that makes an event stream client come back after `retry_millis`: an event stream with the reason
    /// in a comment, and nothing else.
    pub fn retry_stream(self, retry_millis: u64) -> LocalResponse {
        LocalResponse {
            status: StatusCode::OK,
            content_type: "text/event-stream",
            retry_after_seconds: None,
            body: format!("{}: podpin: {self}\n", podpin_sse::retry_line(retry_millis)),
            headers: HeaderMap::new(),
        }
    }

    /// Returns the reply in HTTP/1.1, for a connection that is closed after it; empty if the client is gone.
    pub fn http1_close(self) -> Vec<u8> {
        let response = self.response();
        response.map(|response| response.http1(Persistence::Close, ResponseBody::Whole)).unwrap_or_default()
    }
}

/// A response of the proxy itself, complete.
#[derive(Clone, Debug)]
pub struct LocalResponse {
    /// Status on the wire.
    pub status: StatusCode,
    /// `Content-Type` of the body.
    pub content_type: &'static str,
    /// Seconds of `Retry-After`; `None` if there is no such field.
    pub retry_after_seconds: Option<u32>,
    /// Body; empty if there is none.
    pub body: String,
    /// Fields beside those that every response has.
    pub headers: HeaderMap,
}

impl LocalResponse {
    /// Returns a response without a body.
    pub fn empty(status: StatusCode, headers: HeaderMap) -> LocalResponse {
        let content_type = "text/plain; charset=utf-8";
        LocalResponse { status, content_type, retry_after_seconds: None, body: String::new(), headers }
    }

    /// Returns the fields that every response has, before [`LocalResponse::headers`].
    pub fn standard_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(5 + self.headers.len());
        // RFC 9110 section 8.6: no length with 204.
        if self.status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            headers.insert(header::CONTENT_LENGTH, self.body.len().into());
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        headers.insert(header::DATE, clock::http_date());
        headers
    }

    /// Returns the response in HTTP/1.1.
    pub fn http1(&self, persistence: Persistence, body: ResponseBody) -> Vec<u8> {
        let reason = self.status.canonical_reason().unwrap_or("Error");
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_u16()).into_bytes();
        encode::write_headers(&mut bytes, &self.standard_headers());
        encode::write_headers(&mut bytes, &self.headers);
        bytes.extend_from_slice(persistence.line());
        bytes.extend_from_slice(b"\r\n");
        if body == ResponseBody::Whole {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

/// Whether a response of the proxy has its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// Body, as the length says.
    Whole,
    /// No body: the response is one to HEAD.
    Omitted,
}

impl ResponseBody {
    /// Returns whether the response to a request of this method has its body.
    pub fn to(method: &Method) -> ResponseBody {
        if *method == Method::HEAD { ResponseBody::Omitted } else { ResponseBody::Whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_complete_and_closes() {
        let text = String::from_utf8(ErrorReply::NoEndpoint.http1_close()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains("\r\nRetry-After: 5\r\n") && head.ends_with("Connection: close"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        assert!(ErrorReply::ClientGone.http1_close().is_empty());
    }

    #[test]
    fn a_retry_stream_is_an_event_stream_without_an_event() {
        let text = String::from_utf8(
            ErrorReply::Full.retry_stream(1_234).http1(Persistence::Close, ResponseBody::Whole),
        )
        .unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"), "{head}");
        assert_eq!(body, "retry: 1234\n: podpin: every endpoint is at its limit\n");
    }
}
