//! Header fields about the session: those that the endpoint receives, and those that keep the client pinned.

use http::header::{self, HeaderMap, HeaderValue};
use podpin_affinity::{Keyring, SameSite as CookieSameSite, SetCookie, Token};
use podpin_config::{CookieAttributes, SameSite, Secure};
use podpin_endpoints::EndpointId;
use podpin_wire::client::Client;
use podpin_wire::header_list::HeaderList;
use podpin_wire::headers::{self, sets_cookie};

use crate::affinity::identify::IdentitySource;
use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;

/// Removes affinity cookies of all services of the route, but for those that are to be forwarded.
pub(crate) fn strip_cookies(request: &RoutedRequest, fields: &mut HeaderList<'_>) {
    let cookies = request.services().filter_map(|service| service.configuration.affinity.cookie.as_ref());
    for cookie in cookies.filter(|cookie| !cookie.forward) {
        fields.rewrite(b"cookie", |line| podpin_affinity::without_cookie(line, &cookie.name));
    }
}

/// Puts the endpoint's own session id in the place of the bound one that the client was given.
pub(crate) fn unbind_session_id<'a>(request: &'a RoutedRequest, fields: &mut HeaderList<'a>) {
    if let (Some(name), IdentitySource::Bound(own)) =
        (&request.service().session_header, &request.identity.source)
    {
        fields.insert(name.as_str().as_bytes(), own.as_bytes());
    }
}

/// Names the session to the endpoint, and the reason why a client that was pinned elsewhere comes here.
pub(crate) fn write_session(request: &RoutedRequest, selected: &Selected, fields: &mut HeaderList<'_>) {
    fields.insert_written(headers::SESSION_NAME, |value| request.session.write(value));
    match selected.moved {
        Some(reason) => fields.insert(headers::REPINNED_NAME, reason.as_str().as_bytes()),
        None => fields.remove(headers::REPINNED_NAME),
    }
}

/// Whether a `Set-Cookie` value of an endpoint would replace an affinity cookie of any service of the route.
pub(crate) fn sets_affinity_cookie(request: &RoutedRequest, value: &HeaderValue) -> bool {
    request.services().filter_map(|service| service.cookie_name()).any(|name| sets_cookie(value, name))
}

/// Pins the client to `endpoint`: by the affinity cookie, and by binding the session id that the response carries. A
/// response that does either is private.
pub(crate) fn write_affinity(
    keyring: &Keyring,
    request: &RoutedRequest,
    endpoint: EndpointId,
    client: &Client,
    headers: &mut HeaderMap,
) {
    let cookie = affinity_cookie(keyring, request, endpoint, client);
    let bound = bound_session_id(keyring, request, endpoint, headers);
    if cookie.is_none() && bound.is_none() {
        return;
    }
    if let Some(private) = headers::private_cache_control(headers) {
        headers.insert(header::CACHE_CONTROL, private);
    }
    if let (Some(name), Some(bound)) = (&request.service().session_header, bound) {
        headers.insert(name.clone(), bound);
    }
    if let Some(cookie) = cookie {
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Returns the client's session id in the place of the one that the response carries; `None` if it carries none.
fn bound_session_id(
    keyring: &Keyring,
    request: &RoutedRequest,
    endpoint: EndpointId,
    headers: &HeaderMap,
) -> Option<HeaderValue> {
    let service = request.service();
    let mut values = headers.get_all(service.session_header.as_ref()?).iter();
    let (Some(own), None) = (values.next(), values.next()) else { return None };
    let text = keyring.bind(&service.name, &token(request, endpoint), own.as_bytes())?;
    HeaderValue::try_from(text).ok()
}

/// Returns the `Set-Cookie` that makes the client's cookie name `endpoint`; `None` if it does already.
fn affinity_cookie(
    keyring: &Keyring,
    request: &RoutedRequest,
    endpoint: EndpointId,
    client: &Client,
) -> Option<HeaderValue> {
    let service = request.service();
    let attributes = service.configuration.affinity.cookie.as_ref()?;
    let identity = &request.identity;
    let is_known_otherwise = identity.source != IdentitySource::Cookie;
    if is_known_otherwise || (!identity.reissue && identity.pinned == Some(endpoint)) {
        return None;
    }
    let value = keyring.sign(&service.name, &token(request, endpoint));
    HeaderValue::try_from(set_cookie(attributes, &value, client).to_string()).ok()
}

fn token(request: &RoutedRequest, endpoint: EndpointId) -> Token {
    Token {
        session: request.session,
        endpoint: *endpoint.as_bytes(),
        started_seconds: request.identity.started_seconds,
    }
}

fn set_cookie<'a>(attributes: &'a CookieAttributes, value: &'a str, client: &Client) -> SetCookie<'a> {
    SetCookie {
        name: &attributes.name,
        value,
        path: &attributes.path,
        domain: attributes.domain.as_deref(),
        max_age_seconds: attributes.max_age.map(|age| age.as_secs()),
        same_site: match attributes.same_site {
            SameSite::Strict => Some(CookieSameSite::Strict),
            SameSite::Lax => Some(CookieSameSite::Lax),
            SameSite::None => Some(CookieSameSite::None),
            SameSite::Unset => None,
        },
        secure: match attributes.secure {
            // Browsers drop `SameSite=None` and `Partitioned` cookies without `Secure`.
            Secure::Auto => client.secure || attributes.partitioned || attributes.same_site == SameSite::None,
            Secure::Always => true,
            Secure::Never => false,
        },
        http_only: attributes.http_only,
        partitioned: attributes.partitioned,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podpin_affinity::SessionId;

    use super::*;
    use crate::testing::Scene;

    #[test]
    fn a_cookie_is_taken_out_and_the_others_stay() {
        let scene = Scene::new(&[]);
        let (session, id) = (SessionId::from_bytes([1; 16]), EndpointId::of_pod("a", 80));
        let request = RoutedRequest::of_stream(Arc::clone(&scene.route), session, id);
        let mut fields = HeaderList::default();
        fields.append(b"cookie", b"a=1; podpin-chat=token; b=2");
        fields.append(b"cookie", b"podpin-chat=other");
        strip_cookies(&request, &mut fields);
        assert!(fields.iter().eq([(&b"cookie"[..], &b"a=1; b=2"[..])]));
    }
}
