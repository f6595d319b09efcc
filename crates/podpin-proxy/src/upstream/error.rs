//! Failures of an attempt at an endpoint, and what counts against the endpoint.
//!
//! An endpoint is ejected after a row of consecutive failures. ADR 4 has the reasons for the two tables here:
//!
//! | outcome of an attempt                               | row of failures                  |
//! |-----------------------------------------------------|----------------------------------|
//! | connection refused, unreachable, late, TLS refused  | one more                         |
//! | connection broken or malformed before the response  | one more, once for each client   |
//! | no response in time                                 | unchanged                        |
//! | stream of HTTP/2 refused unprocessed                | unchanged                        |
//! | no descriptor, port or memory on this machine       | unchanged                        |
//! | response in `health.passive.statuses`               | one more, once for each client   |
//! | response of 502, 503 or 504 that is not among them  | unchanged                        |
//! | any other response                                  | ends                             |

use std::io;

use http::StatusCode;
use podpin_wire::http1::response_head::ResponseError;

use crate::balance::service::Kind;
use crate::http::reply::ErrorReply;
use crate::net::tls::HandshakeFailure;
use crate::net::tls::failure::refuses_certificate;
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
    /// TLS that cannot be had: nothing was sent.
    #[error("{0}")]
    Tls(HandshakeFailure),
    /// No connection within `timeouts.connect`: nothing was sent.
    #[error("no connection in time")]
    ConnectTimeout,
    /// Connection that broke before the response head was complete.
    #[error("the connection broke before the response: {0}")]
    Reset(io::Error),
    /// No response head within `timeouts.responseHeader`.
    #[error("no response in time")]
    ResponseTimeout,
    /// Stream of HTTP/2 that the endpoint has not processed, as it says itself (RFC 9113 sections 6.8 and 8.7).
    #[error("the endpoint refused the request unprocessed")]
    Refused,
    /// Bytes that are no response which may be forwarded.
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
    /// The row grows by one if the client is new in it: its request may have caused the failure.
    Suspicion,
    /// The row ends: the endpoint serves connections.
    Success,
    /// The row stays as it is.
    Nothing,
}

impl Evidence {
    /// Returns the evidence of a response with `status`, where these statuses are `failures`.
    pub(crate) fn of_status(status: StatusCode, failures: &[u16]) -> Evidence {
        match status.as_u16() {
            code if failures.contains(&code) => Evidence::Suspicion,
            // A proxy in front of a dead application says the same: no sign of health.
            502..=504 => Evidence::Nothing,
            _ => Evidence::Success,
        }
    }
}

impl UpstreamError {
    /// Returns the failure of a connection that broke before its response: in TLS 1.3 the endpoint's refusal of our certificate comes there.
    pub(crate) fn broken(error: io::Error) -> UpstreamError {
        if refuses_certificate(&error) {
            return UpstreamError::Tls(HandshakeFailure::of(&error, None));
        }
        UpstreamError::Reset(error)
    }

    /// Whether nothing of the request was sent: there may be no process any more.
    pub(crate) fn is_before_request(&self) -> bool {
        self.kind() == UpstreamErrorKind::Connect
    }

    /// Returns the label of `upstream_errors_total`.
    pub(crate) fn kind(&self) -> UpstreamErrorKind {
        match self {
            UpstreamError::Local(_)
            | UpstreamError::Connect(_)
            | UpstreamError::Tls(_)
            | UpstreamError::ConnectTimeout => UpstreamErrorKind::Connect,
            UpstreamError::Reset(_) | UpstreamError::Refused => UpstreamErrorKind::Reset,
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
            UpstreamError::Local(_) | UpstreamError::ResponseTimeout | UpstreamError::Refused => {
                Evidence::Nothing
            }
            UpstreamError::Connect(_) | UpstreamError::Tls(_) | UpstreamError::ConnectTimeout => {
                Evidence::Failure
            }
            UpstreamError::Reset(_) | UpstreamError::Protocol(_) => Evidence::Suspicion,
        }
    }

    /// Returns why another endpoint may be tried, as `upstream_retries_total` spells it; `None` if none may.
    pub(crate) fn retry_reason(&self, kind: Kind) -> Option<RetryReason> {
        match (self, kind) {
            (UpstreamError::Connect(_) | UpstreamError::Tls(_) | UpstreamError::ConnectTimeout, _) => {
                Some(RetryReason::Connect)
            }
            // A GET may be sent twice (RFC 9110 section 9.2.2); another request may have had its effect.
            (UpstreamError::Reset(_), Kind::Stream) | (UpstreamError::Refused, _) => Some(RetryReason::Reset),
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
            (reset(), Evidence::Suspicion),
            (UpstreamError::ResponseTimeout, Evidence::Nothing),
            (UpstreamError::Refused, Evidence::Nothing),
            (UpstreamError::Protocol("x"), Evidence::Suspicion),
            (local, Evidence::Nothing),
        ];
        for (error, expected) in errors {
            assert_eq!(error.evidence(), expected, "{error}");
        }
        let statuses = [
            (200, Evidence::Success, Evidence::Success),
            (404, Evidence::Success, Evidence::Success),
            (500, Evidence::Success, Evidence::Suspicion),
            (502, Evidence::Nothing, Evidence::Nothing),
            (503, Evidence::Nothing, Evidence::Suspicion),
            (504, Evidence::Nothing, Evidence::Nothing),
        ];
        for (code, by_default, configured) in statuses {
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(Evidence::of_status(status, &[]), by_default, "{code}");
            assert_eq!(Evidence::of_status(status, &[500, 503]), configured, "{code}");
        }
    }

    #[test]
    fn only_requests_that_do_no_harm_twice_are_tried_again() {
        assert_eq!(UpstreamError::ConnectTimeout.retry_reason(Kind::Request), Some(RetryReason::Connect));
        assert_eq!(reset().retry_reason(Kind::Stream), Some(RetryReason::Reset));
        assert_eq!(reset().retry_reason(Kind::Request), None);
        assert_eq!(UpstreamError::Refused.retry_reason(Kind::Request), Some(RetryReason::Reset));
        assert_eq!(UpstreamError::ResponseTimeout.retry_reason(Kind::Stream), None);
    }
}
