//! The health check of gRPC: `grpc.health.v1.Health/Check` over a connection of its own, as Pingora's HTTP check does with a GET.

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use pingora_core::connectors::http::v2::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;
use podpin_proxy::balance::service::ServiceState;
use podpin_wire::grpc;

/// Bytes of an answer that are read: that of the protocol has nine.
const ANSWER_BYTES_MAX: usize = 1024;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Field 1 of the answer with the value SERVING.
const SERVING: [u8; 2] = [0x08, 1];

/// A check that asks an endpoint about one of its services.
pub(super) struct GrpcCheck {
    connector: Connector,
    service: Arc<ServiceState>,
    /// Message with the name that is asked about.
    message: Vec<u8>,
}

impl GrpcCheck {
    /// Returns the check that asks about the service `name`; about the server as a whole if that is empty.
    pub(super) fn new(service: Arc<ServiceState>, name: &str) -> GrpcCheck {
        GrpcCheck { connector: Connector::new(None), service, message: message(name) }
    }

    fn peer(&self, backend: &Backend) -> Result<HttpPeer> {
        let PingoraAddress::Inet(address) = backend.addr else {
            return Error::e_explain(ErrorType::ConnectError, "not an IP address");
        };
        let mut peer = HttpPeer::new(address, self.service.tls.is_some(), String::new());
        if let Some(tls) = &self.service.tls {
            tls.apply(&mut peer, address.ip().to_string());
        }
        peer.options.set_http_version(2, 2);
        Ok(peer)
    }
}

#[async_trait]
impl HealthCheck for GrpcCheck {
    async fn check(&self, target: &Backend) -> Result<()> {
        let peer = self.peer(target)?;
        let HttpSession::H2(mut call) = self.connector.new_http_session::<HttpPeer, ()>(&peer).await? else {
            return Error::e_explain(ErrorType::H2Error, "the endpoint does not offer HTTP/2");
        };
        call.write_request_header(Box::new(head(self.service.tls.is_some())?.into()), false)?;
        call.write_request_body(self.message.clone().into(), true).await?;
        call.read_response_header().await?;
        let mut answer = Vec::new();
        while let Some(bytes) = call.read_response_body().await? {
            answer.extend_from_slice(&bytes);
            if answer.len() > ANSWER_BYTES_MAX {
                return Error::e_explain(ErrorType::H2Error, "too long an answer");
            }
        }
        let trailers = call.read_trailers().await?.unwrap_or_default();
        let head = call.response_header().map(|head| &head.headers);
        judge(head, &trailers, &answer)
    }

    fn health_threshold(&self, _success: bool) -> usize {
        // Counted by `Streak`.
        1
    }
}

/// Returns the head of the call.
fn head(is_secure: bool) -> Result<http::request::Parts> {
    let scheme = if is_secure { "https" } else { "http" };
    let uri =
        Uri::builder().scheme(scheme).authority("podpin").path_and_query("/grpc.health.v1.Health/Check");
    let Ok(uri) = uri.build() else { return Error::e_explain(ErrorType::InternalError, "no URI") };
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version) = (Method::POST, uri, Version::HTTP_2);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(parts)
}

/// Returns the request with this name, with its prefix: field 1, a string.
fn message(name: &str) -> Vec<u8> {
    let mut field = Vec::new();
    if !name.is_empty() {
        field.push(0x0a);
        let mut length = name.len();
        while length >= 0x80 {
            field.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        field.push(u8::try_from(length).unwrap_or(0));
        field.extend_from_slice(name.as_bytes());
    }
    let length = u32::try_from(field.len()).unwrap_or(0).to_be_bytes();
    [&[0][..], &length, &field].concat()
}

/// Judges an answer: its status is in the trailers, or in the head where that is all.
fn judge(head: Option<&HeaderMap>, trailers: &HeaderMap, answer: &[u8]) -> Result<()> {
    let status = grpc::status_of(trailers).or_else(|| head.and_then(grpc::status_of));
    match status {
        Some(0) => {}
        Some(code) => return Error::e_explain(ErrorType::H2Error, format!("grpc-status {code}")),
        None => return Error::e_explain(ErrorType::H2Error, "no grpc-status"),
    }
    if answer.get(PREFIX_BYTES..).is_some_and(|message| message.starts_with(&SERVING)) {
        return Ok(());
    }
    Error::e_explain(ErrorType::H2Error, "not serving")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_field_one_of_the_message() {
        assert_eq!(message(""), [0; 5]);
        assert_eq!(message("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"x".repeat(300));
        assert_eq!((long.len(), &long[..8]), (5 + 3 + 300, &[0, 0, 0, 1, 47, 0x0a, 0xac, 2][..]));
    }

    #[test]
    fn only_serving_with_status_0_is_healthy() {
        let fields =
            |code: &str| HeaderMap::from_iter([(grpc::STATUS, HeaderValue::from_str(code).unwrap())]);
        let none = HeaderMap::new();
        let serving = [0, 0, 0, 0, 2, 0x08, 1];
        assert!(judge(None, &fields("0"), &serving).is_ok());
        assert!(judge(None, &fields("0"), &[0, 0, 0, 0, 2, 0x08, 2]).is_err(), "NOT_SERVING");
        assert!(judge(None, &fields("0"), &[0; 5]).is_err(), "UNKNOWN");
        assert!(judge(None, &fields("5"), &[]).is_err());
        assert!(judge(Some(&fields("12")), &none, &[]).is_err(), "a head that is all of the answer");
        assert!(judge(Some(&none), &none, &serving).is_err(), "cut off");
    }
}
