//! Bytes that the proxy itself writes into an event stream. Only where [`Framer::at_boundary`](crate::Framer::at_boundary)
//! holds: anywhere else it would become part of the pod's event.

/// A comment that no client shows. No empty line follows, since some clients dispatch an event for each.
pub const KEEP_ALIVE: &[u8] = b":\n";

/// Line `retry: N`: the client waits `milliseconds` before it reconnects (WHATWG HTML, section 9.2.6). Without an empty line
/// of its own, for many clients dispatch an event for each: it stands directly before the first line of an event
/// ([`Framer::set_retry`](crate::Framer::set_retry)), or at the very end of a stream.
pub fn retry_line(milliseconds: u64) -> String {
    format!("retry: {milliseconds}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_line_is_no_block_of_its_own() {
        assert_eq!(retry_line(0), "retry: 0\n");
        assert_eq!(retry_line(3_000), "retry: 3000\n");
    }
}
