//! Trailer sections: fields behind a body (RFC 9110 section 6.5, RFC 9112 section 7.1.2), on their way through the proxy.
//!
//! A recipient may merge trailers into the head, so that a field there could frame, route or authorize a message after all of
//! it was checked. Such fields are dropped; anything else passes.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::headers::{is_internal, is_twin};
use crate::http1::encode::{LAST_CHUNK, write_headers};
use crate::http1::request_head::FIELDS_MAX;

/// A trailer section that is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed trailers")]
pub struct TrailerError;

/// Returns the fields of a section, given as lines of HTTP/1.1 without the empty one at the end, that may pass.
///
/// ```
/// use podpin_wire::trailers::passed;
///
/// let fields = passed(b"Grpc-Status: 0\r\nContent-Length: 7\r\n").unwrap();
/// assert_eq!(fields.len(), 1);
/// assert_eq!(fields["grpc-status"], "0");
/// assert!(passed(b"no colon\r\n").is_err());
/// ```
///
/// # Errors
/// If a line is no field, or there are more than [`FIELDS_MAX`].
pub fn passed(section: &[u8]) -> Result<HeaderMap, TrailerError> {
    if section.is_empty() {
        return Ok(HeaderMap::new());
    }
    let mut text = Vec::with_capacity(section.len() + 2);
    text.extend_from_slice(section);
    text.extend_from_slice(b"\r\n");
    let mut lines = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let (end, lines) = match httparse::parse_headers(&text, &mut lines) {
        Ok(httparse::Status::Complete(parsed)) => parsed,
        Ok(httparse::Status::Partial) | Err(_) => return Err(TrailerError),
    };
    if end != text.len() {
        return Err(TrailerError);
    }
    let mut fields = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| TrailerError)?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| TrailerError)?;
        if !is_dropped(&name) {
            fields.append(name, value);
        }
    }
    Ok(fields)
}

/// Removes the fields behind the body of a request for which `is_claimed` holds, which names the fields of a head that are not the client's
/// to write, and the twins of those and of one another; with `drops_underscores` all that have underscores in their names.
pub fn remove_claimed(fields: &mut HeaderMap, drops_underscores: bool, is_claimed: impl Fn(&[u8]) -> bool) {
    let is_other = |twin: &[u8]| {
        drops_underscores
            || is_claimed(twin)
            || HeaderName::from_bytes(twin).is_ok_and(|twin| fields.contains_key(twin))
    };
    let goes = |name: &&HeaderName| {
        let name = name.as_str().as_bytes();
        is_claimed(name) || is_twin(name, is_other)
    };
    let gone: Vec<HeaderName> = fields.keys().filter(goes).cloned().collect();
    for name in gone {
        fields.remove(name);
    }
}

/// Returns the fields of a section that was read already, as HTTP/2 brings it, that may pass.
///
/// # Errors
/// If there are more than [`FIELDS_MAX`].
pub fn passed_fields(mut fields: HeaderMap) -> Result<HeaderMap, TrailerError> {
    if fields.len() > FIELDS_MAX {
        return Err(TrailerError);
    }
    let forbidden: Vec<HeaderName> = fields.keys().filter(|name| is_dropped(name)).cloned().collect();
    for name in forbidden {
        fields.remove(name);
    }
    Ok(fields)
}

/// Appends the end of a chunked body, with these fields.
pub fn write_last_chunk(out: &mut Vec<u8>, fields: &HeaderMap) {
    if fields.is_empty() {
        return out.extend_from_slice(LAST_CHUNK);
    }
    out.extend_from_slice(b"0\r\n");
    write_headers(out, fields);
    out.extend_from_slice(b"\r\n");
}

/// Whether a field has no place behind a body, in this spelling or with hyphens for its underscores.
fn is_dropped(name: &HeaderName) -> bool {
    let is_twin = is_twin(name.as_str().as_bytes(), |twin| {
        HeaderName::from_bytes(twin).is_ok_and(|twin| is_forbidden(&twin))
    });
    is_forbidden(name) || is_twin
}

/// Whether a field has no place behind a body: it frames, routes, modifies or authorizes the message, tells how to process
/// its content, or belongs to two neighbours (RFC 9110 section 6.5.1).
fn is_forbidden(name: &HeaderName) -> bool {
    let is_listed = matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::COOKIE
            | header::EXPECT
            | header::FORWARDED
            | header::HOST
            | header::IF_MATCH
            | header::IF_MODIFIED_SINCE
            | header::IF_NONE_MATCH
            | header::IF_RANGE
            | header::IF_UNMODIFIED_SINCE
            | header::LOCATION
            | header::MAX_FORWARDS
            | header::PRAGMA
            | header::RANGE
            | header::RETRY_AFTER
            | header::SET_COOKIE
            | header::VARY
            | header::WWW_AUTHENTICATE
    );
    // The last makes CGI programs send their own requests elsewhere (httpoxy).
    is_listed || is_internal(name.as_str().as_bytes()) || name.as_str() == "proxy"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_could_frame_route_or_authorize_are_dropped() {
        let forbidden = [
            "Content-Length: 1",
            "Transfer-Encoding: chunked",
            "Host: b",
            "X_Real_IP: 1.1.1.1",
            "X_Podpin_Session: a",
            "Content_Length: 1",
            "Transfer_Encoding: chunked",
            "Set_Cookie: a=b",
            "Content_Type: text/html",
            "Proxy: http://a",
            "X_Forwarded-For: 1.2.3.4",
            "Authorization: x",
            "Cookie: a=b",
            "Set-Cookie: a=b",
            "Connection: close",
            "TE: trailers",
            "Trailer: x",
            "X-Forwarded-For: 1.2.3.4",
            "X-Podpin-Session: a",
            "X-Real-IP: 1.2.3.4",
            "Forwarded: for=x",
            "Upgrade: websocket",
            "Keep-Alive: 5",
            "Content-Type: text/html",
            "Range: bytes=0-1",
        ];
        for line in forbidden {
            let fields = passed(format!("{line}\r\nX-Checksum: abc\r\n").as_bytes()).unwrap();
            assert_eq!(fields.keys().collect::<Vec<_>>(), ["x-checksum"], "{line}");
        }
    }

    #[test]
    fn a_section_of_http_2_is_held_to_the_same_rules() {
        let section = b"X-Sum: 1\r\nContent-Length: 1\r\nSet_Cookie: a=b\r\nGrpc-Status: 0\r\n";
        let read =
            HeaderMap::from_iter(["x-sum", "content-length", "set_cookie", "grpc-status"].map(|name| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(if name == "grpc-status" { "0" } else { "1" }),
                )
            }));
        assert_eq!(passed_fields(read).unwrap(), passed(section).unwrap());
        let many = (0..=FIELDS_MAX).map(|index| HeaderName::try_from(format!("x-{index}")).unwrap());
        let many = many.map(|name| (name, HeaderValue::from_static("1"))).collect();
        assert!(passed_fields(many).is_err());
    }

    #[test]
    fn fields_that_are_not_the_clients_to_write_are_removed_in_every_spelling() {
        let section = "X-User: a\r\nX_User: a\r\nX-Sum: 1\r\nX_Sum: 2\r\nfoo_bar: 1\r\nX-Other: 1\r\n";
        for (drops_underscores, expected) in
            [(false, &["foo_bar", "x-other", "x-sum"][..]), (true, &["x-other", "x-sum"])]
        {
            let mut fields = passed(section.as_bytes()).unwrap();
            remove_claimed(&mut fields, drops_underscores, |name| name == b"x-user");
            let mut names: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn what_is_no_field_is_an_error() {
        for section in [
            "no colon\r\n",
            ": x\r\n",
            "a b: c\r\n",
            "a: b\r\n c\r\n",
            "a: \0\r\n",
            ":path: /\r\n",
            "a: b\r\n\r\nc: d\r\n",
        ] {
            assert_eq!(passed(section.as_bytes()), Err(TrailerError), "{section:?}");
        }
        assert!(passed(b"").unwrap().is_empty());
    }

    #[test]
    fn the_last_chunk_has_the_fields_in_their_order() {
        let mut out = Vec::new();
        write_last_chunk(&mut out, &passed(b"grpc-status: 0\r\ngrpc-message: ok\r\n").unwrap());
        assert_eq!(out, b"0\r\nGrpc-Status: 0\r\nGrpc-Message: ok\r\n\r\n");
        out.clear();
        write_last_chunk(&mut out, &HeaderMap::new());
        assert_eq!(out, LAST_CHUNK);
    }
}
