//! The header fields that an endpoint and a client receive: the rules of `podpin_wire::headers`, the route's filters and
//! the client's affinity, applied in one order for all data paths.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::StatusCode;
use http::header::{self, HeaderMap};
use podpin_config::{AcceptEncoding, HeadersWithUnderscores};
use podpin_wire::header_list::HeaderList;
use podpin_wire::http1::request_head::RequestHead;
use podpin_wire::{forwarding, headers, upgrade};

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::affinity::session_headers;
use crate::balance::service::{Kind, ServiceState};
use crate::clock;
use crate::http::options;
use crate::request_context::RequestContext;
use crate::upstream::attempts::Attempts;

/// Returns the fields of a request that are the same for every endpoint; the session fields are added by
/// [`session_headers::write_session`].
pub(crate) fn upstream_headers<'a>(
    context: &'a RequestContext,
    request: &'a RoutedRequest,
) -> HeaderList<'a> {
    let RequestContext { head, client, .. } = context;
    let mut fields = headers::request_headers(&head.fields, client);
    let drops_all = context.snapshot.limits.headers_with_underscores == HeadersWithUnderscores::Drop;
    headers::remove_twins(&mut fields, |name| drops_all || request.claims(name));
    session_headers::strip_cookies(request, &mut fields);
    session_headers::unbind_session_id(request, &mut fields);
    request.service().via.write(head.version, &mut fields);
    options::count_hop(&head.method, &mut fields);
    request.route.filters.edit_request(&mut fields);
    // Last, so that no filter can change the client's address.
    forwarding::write_forwarding(&mut fields, &head.fields, client, head.authority());
    if context.kind == Kind::Stream {
        accept_encoding(request.service(), &mut fields);
        // There is no body to hold back.
        fields.remove(b"expect");
    }
    if let Some(offer) = &context.offer {
        fields.insert(b"connection", b"Upgrade");
        fields.insert(b"upgrade", offer.protocols.as_bytes());
    }
    if let Some(key) = context.web_socket_key() {
        fields.insert(b"sec-websocket-key", key.as_bytes());
        if !fields.contains(b"sec-websocket-version") {
            fields.insert(b"sec-websocket-version", b"13");
        }
    }
    fields
}

/// Asks for an event stream in plain text where `sse.acceptEncoding` says so.
pub(crate) fn accept_encoding(service: &ServiceState, fields: &mut HeaderList<'_>) {
    let is_plain = match service.configuration.sse.accept_encoding {
        AcceptEncoding::Auto => service.configuration.drain.handover.moves_streams(),
        AcceptEncoding::Identity => true,
        AcceptEncoding::Client => false,
    };
    // Without the field any encoding would do.
    if is_plain || !fields.contains(b"accept-encoding") {
        fields.insert(b"accept-encoding", b"identity");
    }
}

/// Returns path and query for the endpoint, by the route's rewrite.
pub(crate) fn upstream_target<'a>(request: &'a RoutedRequest, head: &'a RequestHead) -> Cow<'a, str> {
    let target = request.target.as_deref().unwrap_or(head.target());
    request.route.filters.target(target).map_or(Cow::Borrowed(target), Cow::Owned)
}

/// Returns `Host` for the endpoint: the route's, the client's, or the address of the endpoint if neither has one.
pub(crate) fn upstream_host<'a>(
    request: &'a RoutedRequest,
    head: &'a RequestHead,
    address: SocketAddr,
) -> Cow<'a, str> {
    let fixed = request.route.filters.hostname().and_then(|host| host.to_str().ok());
    match fixed.unwrap_or(head.authority()) {
        "" => Cow::Owned(address.to_string()),
        host => Cow::Borrowed(host),
    }
}

/// Returns request line and header fields in HTTP/1.1, without the empty line at the end.
pub(crate) fn request_head(
    request: &RoutedRequest,
    head: &RequestHead,
    fields: &HeaderList<'_>,
    address: SocketAddr,
) -> Vec<u8> {
    let target = upstream_target(request, head);
    let host = upstream_host(request, head, address);
    let mut bytes = Vec::with_capacity(1024);
    for part in [head.method.as_str(), " ", &target, " HTTP/1.1\r\nHost: ", &host, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    fields.write(&mut bytes);
    bytes
}

/// Returns the request head for the selected endpoint, with the session fields and without the empty line at the end.
/// `fields` are those of [`upstream_headers`], for any number of endpoints in turn.
pub(crate) fn upstream_head(
    context: &RequestContext,
    request: &RoutedRequest,
    selected: &Selected,
    fields: &mut HeaderList<'_>,
) -> Vec<u8> {
    session_headers::write_session(request, selected, fields);
    request_head(request, &context.head, fields, selected.endpoint.address)
}

/// Returns the fields of an endpoint's response for the client, with those that pin it.
pub(crate) fn client_headers(
    context: &RequestContext,
    request: &RoutedRequest,
    selected: &Selected,
    status: StatusCode,
    received: HeaderMap,
) -> HeaderMap {
    let sets_ours = |value: &_| session_headers::sets_affinity_cookie(request, value);
    let mut fields = headers::response_headers(received, sets_ours);
    headers::single_length(status, &mut fields);
    // RFC 9110 section 6.6.1: a recipient with a clock adds it.
    fields.entry(header::DATE).or_insert_with(clock::http_date);
    request.route.filters.edit_response(&context.head.fields, &mut fields);
    let keyring = &context.snapshot.keyring;
    session_headers::write_affinity(keyring, request, selected.endpoint.id, &context.client, &mut fields);
    fields
}

/// Returns the fields of a response that switches to `protocol`, for the client. Over HTTP/2 the stream says it all.
pub(crate) fn switch_headers(
    context: &RequestContext,
    attempts: &Attempts,
    protocol: &str,
    received: HeaderMap,
) -> HeaderMap {
    let Some(selected) = attempts.selected() else { return HeaderMap::new() };
    let status = StatusCode::SWITCHING_PROTOCOLS;
    let mut fields = client_headers(context, &attempts.request, selected, status, received);
    // RFC 9110 section 8.6: there is no body.
    fields.remove(header::CONTENT_LENGTH);
    if context.web_socket_key().is_some() {
        fields.remove(header::SEC_WEBSOCKET_ACCEPT);
    } else {
        upgrade::write(protocol, &mut fields);
    }
    fields
}

/// Returns the fields of an interim response for the client.
pub(crate) fn interim_headers(received: HeaderMap) -> HeaderMap {
    // No cookie is set before the final response.
    let mut fields = headers::response_headers(received, |_| true);
    // RFC 9110 section 8.6: an interim response has no body, and some clients would wait for one.
    fields.remove(header::CONTENT_LENGTH);
    fields
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::header::HeaderValue;
    use podpin_affinity::SessionId;
    use podpin_endpoints::EndpointId;

    use super::*;
    use crate::affinity::identify::ClientIdentity;
    use crate::testing::{Scene, nowhere};

    #[test]
    fn an_endpoint_is_told_of_the_client_and_the_client_of_its_endpoint() {
        let scene = Scene::new(&[("a", nowhere())]);
        let (id, session) = (EndpointId::of_pod("a", 80), SessionId::from_bytes([1; 16]));
        let mut request = RoutedRequest::of_stream(Arc::clone(&scene.route), session, id);
        request.identity = ClientIdentity::begun(session, None);
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("podpin-chat=x; a=1"));
        headers.insert("x-podpin-session", HeaderValue::from_static("forged"));
        let context = scene.context(headers);
        let mut fields = upstream_headers(&context, &request);
        assert_eq!(fields.get(b"x-real-ip"), Some(&b"192.0.2.7"[..]));
        assert!(!fields.contains(b"x-podpin-session"), "the client cannot choose it");
        let selected = Selected::fixed(request.service().endpoint(&id).unwrap());
        let head = upstream_head(&context, &request, &selected, &mut fields);
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:1\r\n"), "{head}");
        assert!(head.contains(&format!("X-Podpin-Session: {session}\r\n")), "{head}");

        let received = HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from_static("1"))]);
        let fields = client_headers(&context, &request, &selected, StatusCode::NO_CONTENT, received);
        let has_cookie = request.service().cookie_name().is_some();
        assert_eq!(fields.contains_key(header::SET_COOKIE), has_cookie);
        assert!(!fields.contains_key(header::CONTENT_LENGTH));
    }
}
