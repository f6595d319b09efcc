//! `OPTIONS` that is for the proxy itself (RFC 9110 section 9.3.7).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use podpin_wire::header_list::HeaderList;
use podpin_wire::http1::request_head::RequestHead;

use crate::http::reply::LocalResponse;

const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");
const MAX_FORWARDS_NAME: &[u8] = b"max-forwards";
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
pub(crate) fn count_hop(method: &Method, fields: &mut HeaderList<'_>) {
    if *method != Method::OPTIONS {
        return;
    }
    let text = fields.get(MAX_FORWARDS_NAME).and_then(|value| std::str::from_utf8(value).ok());
    if let Some(hops) = text.and_then(|text| text.parse::<u64>().ok()) {
        let left = hops.saturating_sub(1).to_string();
        fields.insert_written(MAX_FORWARDS_NAME, |value| value.extend_from_slice(left.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use podpin_wire::http1::request_head;

    use super::*;

    #[test]
    fn hops_are_counted_for_options_alone() {
        let of = |method: Method, hops: &'static str| {
            let mut fields = HeaderList::default();
            fields.append(MAX_FORWARDS_NAME, hops.as_bytes());
            count_hop(&method, &mut fields);
            String::from_utf8(fields.get(MAX_FORWARDS_NAME).unwrap().to_vec()).unwrap()
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
