//! How WebSocket connections are closed and kept alive: `websocket`.

use std::time::Duration;

use crate::{node::Node, section::Section, unit::DurationRange};

/// Settings of a service's WebSocket connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// Status of the Close that clients get when their pod or their route goes away (RFC 6455 section 7.4). 1000 to 1014 but
    /// for those that no Close may have, or 3000 to 4999; default 1012, service restart.
    pub close_code: u16,
    /// Reason in the Close frames to clients, at most 123 bytes. Default: `service restart`.
    pub close_reason: String,
    /// Silence of a client after which it is pinged. 1 s to 1 h; default `None` if absent: never.
    pub ping: Option<Duration>,
}

const PING: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(3_600));
/// Bytes of a reason (RFC 6455 section 5.5: 125 of a control frame, less two of the status).
const REASON_BYTES_MAX: usize = 123;

impl Default for WebSocket {
    fn default() -> Self {
        Self { close_code: 1012, close_reason: "service restart".to_owned(), ping: None }
    }
}

impl WebSocket {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            close_code: section.get("closeCode").and_then(read_code).unwrap_or(default.close_code),
            close_reason: section.get("closeReason").and_then(read_reason).unwrap_or(default.close_reason),
            ping: section.duration_or_off("ping", PING, default.ping),
        }
    }
}

/// Reads a status that a Close frame may have (RFC 6455 section 7.4).
fn read_code(node: &Node<'_>) -> Option<u16> {
    let code = node.count(1_000..=4_999_u16)?;
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Some(code),
        _ => {
            node.fail(format!("{code} may not stand in a Close frame (RFC 6455 section 7.4)"));
            None
        }
    }
}

/// Reads a reason; empty if it is off.
fn read_reason(node: &Node<'_>) -> Option<String> {
    if node.is_off() || node.is_null() {
        return Some(String::new());
    }
    let Some(text) = node.as_text() else {
        node.fail_expected("a text", " or `off`");
        return None;
    };
    if text.len() > REASON_BYTES_MAX {
        node.fail(format!("is longer than {REASON_BYTES_MAX} bytes"));
        return None;
    }
    Some(text.to_owned())
}
