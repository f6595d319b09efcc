//! Every failure that a client can see: status, body, `Retry-After`, and the metric that counts it.
//!
//! Nothing else in the proxy invents a status code. The match is exhaustive on purpose: a new failure must say here
//! what it is on the wire.

use http::StatusCode;

use crate::head::HeadError;
use crate::labels::RefusalKind;

/// Why a client gets an answer of ours instead of a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
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
    pub(crate) fn status(self) -> Option<StatusCode> {
        Some(match self {
            Failure::Head(HeadError::Malformed(_)) | Failure::Body => StatusCode::BAD_REQUEST,
            Failure::Head(HeadError::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Failure::Head(HeadError::TargetTooLong) => StatusCode::URI_TOO_LONG,
            Failure::Head(HeadError::Connect) => StatusCode::METHOD_NOT_ALLOWED,
            Failure::Head(HeadError::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Failure::HeadTimeout | Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Failure::NoRoute => StatusCode::NOT_FOUND,
            Failure::Connections | Failure::NoEndpoint | Failure::Full => StatusCode::SERVICE_UNAVAILABLE,
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
    pub(crate) fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Failure::Connections | Failure::NoEndpoint | Failure::Full | Failure::ClientLimit => {
                Some(RETRY_AFTER_SECONDS)
            }
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
    pub(crate) fn refusal(self) -> Option<RefusalKind> {
        match self {
            Failure::NoEndpoint => Some(RefusalKind::NoEndpoint),
            Failure::Full => Some(RefusalKind::Full),
            Failure::ClientLimit => Some(RefusalKind::ClientLimit),
            Failure::Head(_)
            | Failure::HeadTimeout
            | Failure::BodyTimeout
            | Failure::Body
            | Failure::Connections
            | Failure::NoRoute
            | Failure::UpstreamConnect
            | Failure::UpstreamTimeout
            | Failure::UpstreamReset
            | Failure::UpstreamProtocol
            | Failure::ClientGone
            | Failure::Internal => None,
        }
    }

    /// The reason as the access log spells it.
    pub(crate) fn log_reason(self) -> &'static str {
        match self {
            Failure::ClientGone => "client",
            Failure::NoRoute
            | Failure::NoEndpoint
            | Failure::Full
            | Failure::ClientLimit
            | Failure::Connections => "refused",
            Failure::Head(_)
            | Failure::HeadTimeout
            | Failure::BodyTimeout
            | Failure::Body
            | Failure::UpstreamConnect
            | Failure::UpstreamTimeout
            | Failure::UpstreamReset
            | Failure::UpstreamProtocol
            | Failure::Internal => "error",
        }
    }

    /// The body: one line of text that says why.
    pub(crate) fn body(self) -> String {
        format!("podpin: {self}\n")
    }

    /// The whole answer in HTTP/1.1, for a connection that is closed after it. Empty when nobody is there to read it.
    pub(crate) fn h1_close(self) -> Vec<u8> {
        let Some(status) = self.status() else { return Vec::new() };
        let body = self.body();
        let retry_after =
            self.retry_after_seconds().map(|s| format!("Retry-After: {s}\r\n")).unwrap_or_default();
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\n{retry_after}Connection: close\r\n\r\n{body}",
            status.as_u16(),
            status.canonical_reason().unwrap_or("Error"),
            body.len(),
        )
        .into_bytes()
    }
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
}
