//! Failures of an attempt at an endpoint, and what counts against the endpoint.
//!
//! An endpoint is ejected after a row of consecutive failures. ADR 4 has the reasons for the two tables here:
//!
//! | outcome of an attempt                                    | row of failures             |
//! |----------------------------------------------------------|-----------------------------|
//! | connection refused, unreachable, late, TLS refused       | one more                    |
//! | connection broken, malformed or late before the response | one more                    |
//! | no descriptor, port or memory on this machine            | unchanged                   |
//! | response other than 502, 503, 504                        | ends                        |
//! | 502, 503, 504 to an event stream request                 | one more                    |
//! | 502, 503, 504 to any other request                       | unchanged                   |

use std::io;

use http::StatusCode;
use podpin_wire::http1::response_head::ResponseError;

use crate::balance::service::Kind;
use crate::http::reply::ErrorReply;
use crate::telemetry::labels::RetryReason;
use crate::telemetry::labels::UpstreamErrorKind;

/// The failure of an attempt at an endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// Refused or unreachable connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No connection for want of descriptors, ports or memory on this machine: the endpoint is not to blame.
    #[error("cannot connect from here: {0}")]
    Local(io::Error),
    /// No connection within `timeouts.connect`: nothing was sent.
    #[error("no connection in time")]
    ConnectTimeout,
    /// Connection that broke before the response head was complete.
    #[error("the connection broke before the response: {0}")]
    Reset(io::Error),
    /// No response head within `timeouts.responseHeader`.
    #[error("no response in time")]
    ResponseTimeout,
    /// Bytes that are no HTTP/1.1 response which may be forwarded.
    #[error("malformed response: {0}")]
    Protocol(&'static str),
}

impl From<ResponseError> for UpstreamError {
    fn from(ResponseError(what): ResponseError) -> UpstreamError {
        UpstreamError::Protocol(what)
    }
}

/// The meaning of an attempt's outcome for the endpoint's row of consecutive failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// The row grows by one.
    Failure,
    /// The row ends: the endpoint serves connections.
    Success,
    /// The row stays as it is.
    Nothing,
}

impl Evidence {
    /// Returns the evidence of a response with `status` to a stream or an ordinary request.
    pub(crate) fn of_status(kind: Kind, status: StatusCode) -> Evidence {
        match (is_unavailable(status), kind) {
            (false, _) => Evidence::Success,
            (true, Kind::Stream) => Evidence::Failure,
            (true, Kind::Request) => Evidence::Nothing,
        }
    }
}

/// Whether a status says that the endpoint cannot serve now; another one may.
pub(crate) fn is_unavailable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

impl UpstreamError {
    /// Whether nothing of the request was sent: there may be no process any more.
    pub(crate) fn is_before_request(&self) -> bool {
        self.kind() == UpstreamErrorKind::Connect
    }

    /// Returns the label of `upstream_errors_total`.
    pub(crate) fn kind(&self) -> UpstreamErrorKind {
        match self {
            UpstreamError::Local(_) | UpstreamError::Connect(_) | UpstreamError::ConnectTimeout => {
                UpstreamErrorKind::Connect
            }
            UpstreamError::Reset(_) => UpstreamErrorKind::Reset,
            UpstreamError::ResponseTimeout => UpstreamErrorKind::Timeout,
            UpstreamError::Protocol(_) => UpstreamErrorKind::Protocol,
        }
    }

    /// Returns the reply to a client if no other endpoint can be tried.
    pub(crate) fn reply(&self) -> ErrorReply {
        match self.kind() {
            UpstreamErrorKind::Connect => ErrorReply::UpstreamConnect,
            UpstreamErrorKind::Reset => ErrorReply::UpstreamReset,
            UpstreamErrorKind::Timeout => ErrorReply::UpstreamTimeout,
            UpstreamErrorKind::Protocol => ErrorReply::UpstreamProtocol,
        }
    }

    /// Returns what the failure says of the endpoint.
    pub(crate) fn evidence(&self) -> Evidence {
        match self {
            UpstreamError::Local(_) => Evidence::Nothing,
            UpstreamError::Connect(_)
            | UpstreamError::ConnectTimeout
            | UpstreamError::Reset(_)
            | UpstreamError::ResponseTimeout
            | UpstreamError::Protocol(_) => Evidence::Failure,
        }
    }

    /// Returns why another endpoint may be tried, as `upstream_retries_total` spells it; `None` if none may.
    pub(crate) fn retry_reason(&self, kind: Kind) -> Option<RetryReason> {
        match (self, kind) {
            (UpstreamError::Connect(_) | UpstreamError::ConnectTimeout, _) => Some(RetryReason::Connect),
            // A GET may be sent twice (RFC 9110 section 9.2.2); another request may have had its effect.
            (UpstreamError::Reset(_), Kind::Stream) => Some(RetryReason::Reset),
            (UpstreamError::Reset(_), Kind::Request)
            | (UpstreamError::Local(_) | UpstreamError::ResponseTimeout | UpstreamError::Protocol(_), _) => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset() -> UpstreamError {
        UpstreamError::Reset(io::ErrorKind::ConnectionReset.into())
    }

    #[test]
    fn connections_count_against_an_endpoint_and_an_applications_answers_do_not() {
        let connect = UpstreamError::Connect(io::ErrorKind::ConnectionRefused.into());
        let local = UpstreamError::Local(io::ErrorKind::OutOfMemory.into());
        let errors = [
            (connect, Evidence::Failure),
            (UpstreamError::ConnectTimeout, Evidence::Failure),
            (reset(), Evidence::Failure),
            (UpstreamError::ResponseTimeout, Evidence::Failure),
            (UpstreamError::Protocol("x"), Evidence::Failure),
            (local, Evidence::Nothing),
        ];
        for (error, expected) in errors {
            assert_eq!(error.evidence(), expected, "{error}");
        }
        let statuses = [
            (200, Evidence::Success, Evidence::Success),
            (404, Evidence::Success, Evidence::Success),
            (500, Evidence::Success, Evidence::Success),
            (502, Evidence::Failure, Evidence::Nothing),
            (503, Evidence::Failure, Evidence::Nothing),
            (504, Evidence::Failure, Evidence::Nothing),
        ];
        for (code, to_stream, to_request) in statuses {
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(Evidence::of_status(Kind::Stream, status), to_stream, "{code}");
            assert_eq!(Evidence::of_status(Kind::Request, status), to_request, "{code}");
        }
    }

    #[test]
    fn only_requests_that_do_no_harm_twice_are_tried_again() {
        assert_eq!(UpstreamError::ConnectTimeout.retry_reason(Kind::Request), Some(RetryReason::Connect));
        assert_eq!(reset().retry_reason(Kind::Stream), Some(RetryReason::Reset));
        assert_eq!(reset().retry_reason(Kind::Request), None);
        assert_eq!(UpstreamError::ResponseTimeout.retry_reason(Kind::Stream), None);
    }
}
