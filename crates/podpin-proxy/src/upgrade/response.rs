//! Pingora's heads and errors in the words of the other data paths, and replies of the proxy over Pingora's session.

use std::io;

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;

use crate::affinity::session_headers;
use crate::http::reply::{ErrorReply, LocalResponse};
use crate::net::tls::HandshakeFailure;
use crate::request_context::RequestContext;
use crate::upstream::attempts::Attempts;
use crate::upstream::connect::is_local;
use crate::upstream::error::UpstreamError;
use crate::upstream::rewrite;

/// Fields that frame an upgrade request; Pingora writes the body by them.
const REQUEST_FRAMING: [HeaderName; 4] =
    [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING, header::CONTENT_LENGTH];
/// Fields that frame a response which switches protocols.
const SWITCH_FRAMING: [HeaderName; 3] = [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING];
/// Fields that frame any other response, beside its length.
const RESPONSE_FRAMING: [HeaderName; 1] = [header::TRANSFER_ENCODING];

/// Gives an upstream request the fields, target and `Host` that every other data path would give it.
pub(crate) fn rewrite_request(
    context: &RequestContext,
    attempts: &Attempts,
    upstream: &mut RequestHeader,
) -> Result<()> {
    let Some(selected) = attempts.selected() else { return Ok(()) };
    let request = &attempts.request;
    let mut fields = rewrite::upstream_headers(context, request);
    session_headers::write_session(request, selected, &mut fields);
    let fields = fields.to_map();
    for name in replaced(&upstream.headers, &REQUEST_FRAMING) {
        upstream.remove_header(&name);
    }
    for (name, value) in &fields {
        // The connection's own fields stay as the client sent them: they are the offer.
        if !REQUEST_FRAMING.contains(name) {
            upstream.append_header(name.clone(), value.clone())?;
        }
    }
    let host = rewrite::upstream_host(request, &context.head, selected.endpoint.address);
    upstream.insert_header(header::HOST, &*host)?;
    upstream.set_raw_path(rewrite::upstream_target(request, &context.head).as_bytes())
}

/// Gives a response, interim or final, the fields that every other data path would give it.
pub(crate) fn rewrite_response(
    context: &RequestContext,
    attempts: &Attempts,
    response: &mut ResponseHeader,
) -> Result<()> {
    let Some(selected) = attempts.selected() else { return Ok(()) };
    let (status, received) = (response.status, response.headers.clone());
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    let fields = if status.is_informational() && !is_switch {
        rewrite::interim_headers(received)
    } else {
        rewrite::client_headers(context, &attempts.request, selected, status, received)
    };
    let framing: &[HeaderName] = if is_switch { &SWITCH_FRAMING } else { &RESPONSE_FRAMING };
    for name in replaced(&response.headers, framing) {
        response.remove_header(&name);
    }
    for (name, value) in fields.iter().filter(|(name, _)| !framing.contains(name)) {
        response.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// Returns the names of all fields but those of the framing.
fn replaced(headers: &HeaderMap, framing: &[HeaderName]) -> Vec<HeaderName> {
    headers.keys().filter(|name| !framing.contains(name)).cloned().collect()
}

/// Returns the failure to connect that Pingora reports.
pub(crate) fn connect_error(error: &Error) -> UpstreamError {
    match (error.etype(), io_cause(error)) {
        (ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout, _) => UpstreamError::ConnectTimeout,
        (_, Some(cause)) if is_local(cause) => UpstreamError::Local(io::Error::other(error.to_string())),
        (ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert, _) => {
            // Pingora keeps the words of the cause and nothing else.
            UpstreamError::Tls(HandshakeFailure::in_words(error.to_string()))
        }
        _ => UpstreamError::Connect(io::Error::other(error.to_string())),
    }
}

/// Returns the failure of an endpoint after the connection that Pingora reports.
pub(crate) fn upstream_error(error: &Error) -> UpstreamError {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => UpstreamError::ResponseTimeout,
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error => UpstreamError::Protocol("not HTTP/1.1"),
        _ => UpstreamError::Reset(io::Error::other(error.to_string())),
    }
}

/// Returns the reply to an error that is not the endpoint's.
pub(crate) fn downstream_reply(error: &Error) -> ErrorReply {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => ErrorReply::BodyTimeout,
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::ConnectionClosed
            | ErrorType::WriteTimedout,
        ) => ErrorReply::ClientGone,
        (ErrorSource::Downstream, _) => ErrorReply::Body,
        (ErrorSource::Upstream, _) => ErrorReply::UpstreamReset,
        (ErrorSource::Internal | ErrorSource::Unset, _) => ErrorReply::Internal,
    }
}

/// Whether a client took nothing for too long.
pub(crate) fn is_slow_client(error: &Error) -> bool {
    matches!((error.esource(), error.etype()), (ErrorSource::Downstream, ErrorType::WriteTimedout))
}

/// Whether the client's stream reports through Pingora that the endpoint took too long.
pub(crate) fn is_overdue(error: &Error) -> bool {
    io_cause(error).is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

fn io_cause(error: &Error) -> Option<&io::Error> {
    error.cause.as_deref().and_then(|cause| cause.downcast_ref::<io::Error>())
}

/// Sends a response of the proxy.
pub(crate) async fn write_response(session: &mut Session, response: LocalResponse) -> Result<()> {
    let mut head = ResponseHeader::build(response.status, Some(5 + response.headers.len()))?;
    for (name, value) in response.standard_headers().iter().chain(&response.headers) {
        head.append_header(name.clone(), value.clone())?;
    }
    let with_body = session.req_header().method != Method::HEAD && !response.body.is_empty();
    session.write_response_header(Box::new(head), !with_body).await?;
    if with_body {
        session.write_response_body(Some(response.body.into()), true).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_clients_or_the_endpoints() {
        let cases = [
            (ErrorType::ReadTimedout, ErrorReply::BodyTimeout),
            (ErrorType::WriteError, ErrorReply::ClientGone),
            (ErrorType::InvalidHTTPHeader, ErrorReply::Body),
        ];
        for (kind, expected) in cases {
            assert_eq!(downstream_reply(&Error::new_down(kind.clone())), expected, "{kind:?}");
        }
        assert_eq!(downstream_reply(&Error::new_in(ErrorType::InternalError)), ErrorReply::Internal);
    }

    #[test]
    fn a_failure_of_an_endpoint_is_named_as_on_the_other_data_paths() {
        let late = connect_error(&Error::new_up(ErrorType::ConnectTimedout));
        assert!(matches!(late, UpstreamError::ConnectTimeout));
        let refused = connect_error(&Error::new_up(ErrorType::ConnectRefused));
        assert!(matches!(refused, UpstreamError::Connect(_)));
        let silent = upstream_error(&Error::new_up(ErrorType::ReadTimedout));
        assert!(matches!(silent, UpstreamError::ResponseTimeout));
        let closed = upstream_error(&Error::new_up(ErrorType::ConnectionClosed));
        assert!(matches!(closed, UpstreamError::Reset(_)));
    }
}
