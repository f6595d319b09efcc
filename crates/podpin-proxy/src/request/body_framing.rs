//! The framing of a request body on its way to an endpoint (RFC 9112 section 6).

use http::{Method, Version, header};
use podpin_wire::http1::encode::Framing;
use podpin_wire::http1::request_head::RequestHead;

/// The framing of a request body for the endpoint, with the field that says so (RFC 9112 section 6).
pub(crate) struct BodyFraming {
    /// Framing of the bytes.
    pub framing: Framing,
    /// Header field with its line end; empty if there is none.
    pub field: String,
}

/// Returns the framing of the body of a request with this head; `is_read` if the body has ended already.
pub(crate) fn body_framing(head: &RequestHead, is_read: bool) -> BodyFraming {
    let expects_one = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let (framing, field) = match content_length(head) {
        Some(length) => (Framing::Plain, format!("Content-Length: {length}\r\n")),
        None if !is_read => (Framing::Chunked, "Transfer-Encoding: chunked\r\n".to_owned()),
        None if expects_one && head.version == Version::HTTP_2 => {
            (Framing::Plain, "Content-Length: 0\r\n".to_owned())
        }
        None => (Framing::Plain, String::new()),
    };
    BodyFraming { framing, field }
}

/// Returns the length of a request body; `None` if the client has not said it.
pub(crate) fn content_length(head: &RequestHead) -> Option<u64> {
    // HTTP/2 may repeat the same number in one field.
    head.fields.text(&header::CONTENT_LENGTH)?.split(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::testing::request_head;

    fn head(method: Method, version: Version, length: Option<&str>) -> RequestHead {
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_str(length).unwrap());
        }
        request_head(method, version, &headers)
    }

    #[test]
    fn a_body_is_framed_by_its_length_or_in_chunks() {
        let cases = [
            (head(Method::POST, Version::HTTP_11, Some("3")), false, "Content-Length: 3\r\n"),
            (head(Method::POST, Version::HTTP_2, Some("3, 3")), false, "Content-Length: 3\r\n"),
            (head(Method::POST, Version::HTTP_2, None), false, "Transfer-Encoding: chunked\r\n"),
            (head(Method::POST, Version::HTTP_2, None), true, "Content-Length: 0\r\n"),
            (head(Method::GET, Version::HTTP_11, None), true, ""),
        ];
        for (head, is_read, expected) in cases {
            let body = body_framing(&head, is_read);
            assert_eq!(body.field, expected);
            assert_eq!(body.framing == Framing::Chunked, expected.starts_with("Transfer"), "{expected}");
        }
    }
}
