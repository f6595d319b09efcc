//! Bytes that the proxy itself writes into an event stream. Only where [`Framer::at_boundary`](crate::Framer::at_boundary)
//! holds: anywhere else it would become part of the pod's event.

/// A comment that no client shows, and an empty line that ends it for parsers which read block by block.
pub const KEEP_ALIVE: &[u8] = b":\n\n";

/// `retry: N` as a block of its own: the client waits `milliseconds` before it reconnects (WHATWG HTML, section 9.2.6).
/// It takes effect when the line is read and dispatches no event.
pub fn retry_line(milliseconds: u64) -> String {
    format!("retry: {milliseconds}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_line_is_a_block_of_its_own() {
        assert_eq!(retry_line(0), "retry: 0\n\n");
        assert_eq!(retry_line(3_000), "retry: 3000\n\n");
    }
}
