//! gRPC over HTTP/2, as far as a proxy takes part in it: which requests are calls, their deadlines, and the statuses of calls
//! that end here (gRPC's `PROTOCOL-HTTP2.md` and `http-grpc-status-mapping.md`).

use std::fmt::{self, Write as _};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::fields::Fields;

/// Status of a call, in its trailers.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Words to the status, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Time that the client gives a call.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Media type of calls and of their answers; a format such as `+proto` may follow.
const CONTENT_TYPE: &str = "application/grpc";
/// Digits that `grpc-timeout` may have.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// Status of a call, of those that a proxy gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcStatus {
    /// Call that one side gave up.
    Cancelled = 1,
    /// Error without a better word.
    Unknown = 2,
    /// Deadline that passed.
    DeadlineExceeded = 4,
    /// Caller without the right.
    PermissionDenied = 7,
    /// Quota that is used up.
    ResourceExhausted = 8,
    /// Method that is not there.
    Unimplemented = 12,
    /// Broken invariant.
    Internal = 13,
    /// Service that is not there now.
    Unavailable = 14,
    /// Caller without valid credentials.
    Unauthenticated = 16,
}

impl GrpcStatus {
    /// Returns the status of an answer that is no gRPC, by its HTTP status.
    #[must_use]
    pub fn of_http(status: StatusCode) -> GrpcStatus {
        match status.as_u16() {
            400 => GrpcStatus::Internal,
            401 => GrpcStatus::Unauthenticated,
            403 => GrpcStatus::PermissionDenied,
            404 => GrpcStatus::Unimplemented,
            429 | 502..=504 => GrpcStatus::Unavailable,
            _ => GrpcStatus::Unknown,
        }
    }

    /// Returns the status of a call whose stream was reset with this code of HTTP/2 (RFC 9113 section 7).
    #[must_use]
    pub fn of_reset(code: u32) -> GrpcStatus {
        match code {
            // REFUSED_STREAM
            7 => GrpcStatus::Unavailable,
            // CANCEL
            8 => GrpcStatus::Cancelled,
            // ENHANCE_YOUR_CALM
            11 => GrpcStatus::ResourceExhausted,
            // INADEQUATE_SECURITY
            12 => GrpcStatus::PermissionDenied,
            _ => GrpcStatus::Internal,
        }
    }

    /// Returns the number on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Returns the fields that end a call with this status: behind what was sent of its answer, or in its head.
    #[must_use]
    pub fn fields(self, message: &str) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(2);
        fields.insert(STATUS, HeaderValue::from(u16::from(self.code())));
        if let Ok(message) = HeaderValue::try_from(encoded(message)) {
            fields.insert(MESSAGE, message);
        }
        fields
    }
}

/// Returns whether a request is a gRPC call; those of gRPC-Web are ordinary requests.
#[must_use]
pub fn is_call(method: &Method, fields: &Fields) -> bool {
    *method == Method::POST && fields.get(&header::CONTENT_TYPE).is_some_and(is_grpc)
}

/// Returns whether a media type is that of gRPC.
fn is_grpc(value: &[u8]) -> bool {
    let Some((start, rest)) = value.split_at_checked(CONTENT_TYPE.len()) else { return false };
    start.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
        && rest.first().is_none_or(|byte| matches!(byte, b'+' | b';' | b' '))
}

/// Returns the time that the client gives a call; `None` if the field is absent or malformed.
///
/// ```
/// use std::time::Duration;
///
/// use podpin_wire::grpc::parse_timeout;
///
/// assert_eq!(parse_timeout(b"250m"), Some(Duration::from_millis(250)));
/// assert_eq!(parse_timeout(b"1H"), Some(Duration::from_secs(3600)));
/// assert_eq!(parse_timeout(b"123456789S"), None, "eight digits at most");
/// ```
#[must_use]
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX {
        return None;
    }
    let mut amount = 0u64;
    for digit in digits {
        amount = amount * 10 + u64::from(char::from(*digit).to_digit(10)?);
    }
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3_600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Returns the number in `grpc-status`; `None` if the fields have none.
#[must_use]
pub fn status_of(fields: &HeaderMap) -> Option<u32> {
    fields.get(&STATUS)?.to_str().ok()?.parse().ok()
}

/// Returns a message as `grpc-message` has it: bytes outside of printable ASCII, and `%`, as their hexadecimal numbers.
fn encoded(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        // A write to a string does not fail.
        let _written: fmt::Result = match byte {
            b'%' | 0..=0x1f | 0x7f.. => write!(text, "%{byte:02X}"),
            byte => {
                text.push(char::from(byte));
                Ok(())
            }
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_status_stands_for_one_of_grpc() {
        let table = [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (200, 2),
            (302, 2),
            (431, 2),
            (500, 2),
            (501, 2),
            (505, 2),
        ];
        for (http, grpc) in table {
            let status = StatusCode::from_u16(http).unwrap();
            assert_eq!(GrpcStatus::of_http(status).code(), grpc, "{http}");
        }
    }

    #[test]
    fn a_reset_stands_for_a_status() {
        let expected = [13, 13, 13, 13, 13, 13, 13, 14, 1, 13, 13, 8, 7, 13];
        for (code, grpc) in (0..).zip(expected) {
            assert_eq!(GrpcStatus::of_reset(code).code(), grpc, "{code}");
        }
        assert_eq!(GrpcStatus::of_reset(u32::MAX), GrpcStatus::Internal);
    }

    #[test]
    fn a_timeout_has_a_unit_and_eight_digits() {
        let table = [
            ("0n", Some(Duration::ZERO)),
            ("1u", Some(Duration::from_micros(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("10S", Some(Duration::from_secs(10))),
            ("", None),
            ("S", None),
            ("10", None),
            ("-1S", None),
            ("1.5S", None),
            ("100000000S", None),
            ("1 S", None),
            ("1s", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_timeout(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded() {
        let fields = GrpcStatus::Unavailable.fields("100 % of pods\nare away: \u{fc}");
        assert_eq!(fields[STATUS], "14");
        assert_eq!(fields[MESSAGE], "100 %25 of pods%0Aare away: %C3%BC");
        assert_eq!(status_of(&fields), Some(14));
        assert_eq!(status_of(&HeaderMap::new()), None);
    }

    #[test]
    fn calls_are_told_by_their_media_type() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("application/grp", false),
        ] {
            assert_eq!(is_grpc(text.as_bytes()), expected, "{text}");
        }
    }
}
