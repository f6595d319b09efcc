//! HTTP in plain text on a port of TLS: answered in plain text, as nginx, Apache and Go do, instead of an alert that no client
//! shows. No request is served.

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use podpin_config::PlainHttp;
use podpin_wire::http1::encode::Persistence;
use podpin_wire::http1::request_head::RequestHead;
use tokio::net::TcpStream;

use crate::connection::accepted::Connection;
use crate::connection::head_reader::{self, Next};
use crate::connection::refusal::refuse_head;
use crate::downstream::http1::{IdleConnection, write_and_linger};
use crate::http::reply::{LocalResponse, ResponseBody};
use crate::net::transport::Transport;

/// Answers the first request of a connection, and closes it.
pub(crate) async fn answer(connection: &Connection, tcp: TcpStream) {
    let mut closing = connection.listener.shared.lifecycle.closing();
    let mut idle = IdleConnection { transport: Transport::Plain(tcp), ahead: BytesMut::new() };
    let (response, method) =
        match head_reader::next(&connection.listener, &mut idle, true, &mut closing).await {
            Next::Closed => return idle.transport.close(),
            Next::Refused(reply) => return refuse_head(connection, idle.transport, reply).await,
            Next::Http2 => (refusal(), Method::GET),
            Next::Request(received) => {
                let policy = connection.listener.tls().map(|tls| tls.plain_http()).unwrap_or_default();
                let redirected = redirect(&received.head).filter(|_| policy == PlainHttp::Redirect);
                (redirected.unwrap_or_else(refusal), received.head.method.clone())
            }
        };
    let code = response.status.as_u16();
    connection.listener.shared.metrics.listeners.heads_refused.inc(&connection.listener.name, code);
    let bytes = response.http1(Persistence::Close, ResponseBody::to(&method));
    Box::pin(write_and_linger(idle.transport, &bytes)).await;
}

fn refusal() -> LocalResponse {
    LocalResponse {
        body: "podpin: this port speaks TLS, and the request came in plain text: use https://\n".to_owned(),
        ..LocalResponse::empty(StatusCode::BAD_REQUEST, HeaderMap::new())
    }
}

/// Returns the redirect to the same place by https; `None` if the request names no host.
fn redirect(head: &RequestHead) -> Option<LocalResponse> {
    let authority = Some(head.authority()).filter(|authority| !authority.is_empty())?;
    // An asterisk is no place.
    let target = if head.target().starts_with('/') { head.target() } else { "/" };
    let location = HeaderValue::try_from(format!("https://{authority}{target}")).ok()?;
    let headers = HeaderMap::from_iter([(header::LOCATION, location)]);
    Some(LocalResponse::empty(StatusCode::PERMANENT_REDIRECT, headers))
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;
    use crate::testing::request_head;

    #[test]
    fn a_request_without_a_host_is_not_redirected() {
        let head = request_head(Method::GET, Version::HTTP_11, &HeaderMap::new());
        assert!(head.authority().is_empty() && redirect(&head).is_none());
    }
}
