//! `OPTIONS` that is for the proxy itself (RFC 9110 section 9.3.7).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use podpin_wire::http1::request_head::RequestHead;

use crate::http::reply::LocalResponse;

const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");
/// Methods that reach endpoints; CONNECT and TRACE do not.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Returns the response to `OPTIONS *`, and to an `OPTIONS` that goes no further; `None` if the request is any other.
pub(crate) fn response(head: &RequestHead) -> Option<LocalResponse> {
    let is_last = || head.fields.get(&MAX_FORWARDS).is_some_and(|value| value == b"0");
    let is_own = head.method == Method::OPTIONS && (head.path() == "*" || is_last());
    let headers = || HeaderMap::from_iter([(header::ALLOW, METHODS)]);
    is_own.then(|| LocalResponse::empty(StatusCode::NO_CONTENT, headers()))
}

/// Counts this hop of an `OPTIONS` that may go so many more (RFC 9110 section 7.6.2).
pub(crate) fn count_hop(method: &Method, headers: &mut HeaderMap) {
    if *method != Method::OPTIONS {
        return;
    }
    let hops = headers.get(&MAX_FORWARDS).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(hops) = hops {
        headers.insert(MAX_FORWARDS, hops.saturating_sub(1).into());
    }
}

#[cfg(test)]
mod tests {
    use podpin_wire::http1::request_head;

    use super::*;

    #[test]
    fn hops_are_counted_for_options_alone() {
        let of = |method: Method, hops: &'static str| {
            let mut headers = HeaderMap::from_iter([(MAX_FORWARDS, HeaderValue::from_static(hops))]);
            count_hop(&method, &mut headers);
            headers.get(MAX_FORWARDS).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(of(Method::OPTIONS, "10"), "9");
        assert_eq!((of(Method::GET, "10"), of(Method::OPTIONS, "x")), ("10".into(), "x".into()));
    }

    #[test]
    fn options_for_the_server_or_for_no_further_hop_are_answered_here() {
        for (line, expected) in [
            ("OPTIONS * HTTP/1.1", true),
            ("OPTIONS /a HTTP/1.1\r\nMax-Forwards: 0", true),
            ("OPTIONS /a HTTP/1.1\r\nMax-Forwards: 1", false),
            ("OPTIONS /* HTTP/1.1", false),
            ("GET /a HTTP/1.1\r\nMax-Forwards: 0", false),
        ] {
            let (_, head) = request_head::read(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(response(&head).is_some(), expected, "{line:?}");
        }
    }
}
