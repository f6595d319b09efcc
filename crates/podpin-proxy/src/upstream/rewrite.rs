//! The head of a request to a pod, and the lines of its answer to the client: what the rules of `forward.rs`, the route's
//! treatment and the client's affinity make of them together.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use podpin_wire::http1::encode;

use crate::affinity::select::{Admission, Placement};
use crate::shared::Shared;
use podpin_wire::client::Client;
use podpin_wire::headers;
use podpin_wire::http1::request_head::RequestHead;

/// The lines of a request that every pod would be sent; what is said about the session depends on the pod, and is added
/// later.
pub(crate) fn to_pod(admission: &Admission, asked: &RequestHead, client: &Client) -> HeaderMap {
    let mut lines = headers::request_lines(&asked.headers, client);
    admission.strip_cookies(&mut lines);
    if let Some((name, own)) = admission.own_session_id() {
        lines.insert(name, own);
    }
    admission.route.treatment.edit_request(&mut lines);
    for (name, value) in headers::forwarding_lines(&asked.headers, client, &asked.authority) {
        lines.insert(name, value);
    }
    lines
}

/// Request line and header lines in HTTP/1.1, without the empty line at the end. `pod` names the pod for a client that
/// named no host.
pub(crate) fn request_head(
    admission: &Admission,
    asked: &RequestHead,
    lines: &HeaderMap,
    pod: impl FnOnce() -> String,
) -> Vec<u8> {
    let treatment = &admission.route.treatment;
    let rewritten = treatment.target(&asked.target);
    let target = rewritten.as_deref().unwrap_or(&asked.target);
    let named = treatment.hostname().and_then(|host| host.to_str().ok());
    let host = named.unwrap_or(&asked.authority);
    let fallback = if host.is_empty() { pod() } else { String::new() };
    let mut head = Vec::with_capacity(1024);
    for part in [asked.method.as_str(), " ", target, " HTTP/1.1\r\nHost: ", host, &fallback, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    encode::write_lines(&mut head, lines);
    head
}

/// The lines of a pod's answer for the client, which is told where it belongs by the cookie, or by the session id that the
/// pod gave it.
pub(crate) fn to_client(
    shared: &Shared,
    (admission, placement): (&Admission, &Placement),
    (asked, client): (&RequestHead, &Client),
    (status, answered): (StatusCode, HeaderMap),
) -> HeaderMap {
    let mut lines = headers::response_lines(answered, |line| admission.sets_pin(line));
    single_length(status, &mut lines);
    admission.route.treatment.edit_response(&asked.headers, &mut lines);
    let Affinity { replaced, cookie } = affinity(shared, (admission, placement), client, &lines);
    for (name, value) in replaced {
        lines.insert(name, value);
    }
    if let Some(cookie) = cookie {
        lines.append(header::SET_COOKIE, cookie);
    }
    lines
}

/// What tells a client where it belongs.
pub(crate) struct Affinity {
    /// Lines in the place of those that a pod's answer has.
    pub replaced: Vec<(HeaderName, HeaderValue)>,
    /// A `Set-Cookie` beside the others.
    pub cookie: Option<HeaderValue>,
}

/// What a pod's answer with these lines has to tell the client about where it belongs; nobody else may store that.
pub(crate) fn affinity(
    shared: &Shared,
    (admission, placement): (&Admission, &Placement),
    client: &Client,
    lines: &HeaderMap,
) -> Affinity {
    let endpoint = placement.endpoint.id;
    let cookie = admission.set_cookie(shared, endpoint, client);
    let bound = admission.bound_session_id(shared, (endpoint, lines));
    let is_told = cookie.is_some() || bound.is_some();
    let private = is_told.then(|| headers::private_cache_control(lines)).flatten();
    let private = private.map(|value| (header::CACHE_CONTROL, value));
    Affinity { replaced: private.into_iter().chain(bound).collect(), cookie }
}

/// One length where the pod said it twice, and none with 204 (RFC 9110 section 8.6).
fn single_length(status: StatusCode, lines: &mut HeaderMap) {
    if status == StatusCode::NO_CONTENT {
        lines.remove(header::CONTENT_LENGTH);
        return;
    }
    let lengths = lines.get_all(header::CONTENT_LENGTH).iter().count();
    if let Some(length) = lines.get(header::CONTENT_LENGTH).filter(|_| lengths > 1).cloned() {
        lines.insert(header::CONTENT_LENGTH, length);
    }
}
