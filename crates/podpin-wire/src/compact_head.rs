//! A head that is kept for long and hardly ever read, in a third of its bytes.
//!
//! A stream that may move keeps the head of its request for the next endpoint, and most streams never move. The text of a head is that of
//! other heads: LZ4 takes what it shares with a dictionary from there.

use lz4_flex::block::{compress_with_dict, decompress_with_dict};

/// Bytes that heads of browsers and of SDKs have in common, the most frequent last, as LZ4 prefers.
const USUAL: &[u8] = b"Sec-Ch-Ua: \"Google Chrome\";v=\"130\", \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
    Sec-Ch-Ua-Mobile: ?0\r\nSec-Ch-Ua-Platform: \"Windows\"\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n\
    Sec-Fetch-Dest: empty\r\nPriority: u=1, i\r\nContent-Type: application/json\r\nMcp-Session-Id: \r\nOrigin: https://\r\n\
    Referer: https://\r\nAuthorization: Bearer \r\nCookie: \r\nAccept-Language: en-US,en;q=0.9\r\n\
    User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 \
    Safari/537.36\r\nPragma: no-cache\r\nGET / HTTP/1.1\r\nHost: \r\nAccept: text/event-stream\r\n\
    Cache-Control: no-cache\r\nVia: 1.1 podpin-\r\nX-Forwarded-For: \r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: \r\nX-Real-Ip: \r\nForwarded: for=;host=;proto=https\r\nAccept-Encoding: identity\r\n";

/// The bytes of a head, compressed.
#[derive(Clone, Debug)]
pub struct CompactHead {
    packed: Box<[u8]>,
    length: usize,
}

impl CompactHead {
    /// Returns a head in little memory, at the price of a microsecond.
    ///
    /// ```
    /// use podpin_wire::compact_head::CompactHead;
    ///
    /// let head = b"GET /events HTTP/1.1\r\nHost: a.example\r\nAccept: text/event-stream\r\nX-Forwarded-Proto: https\r\n";
    /// let compact = CompactHead::of(head);
    /// assert!(compact.held_bytes() < head.len() / 2);
    /// assert_eq!(compact.bytes(), head);
    /// ```
    #[must_use]
    pub fn of(head: &[u8]) -> CompactHead {
        CompactHead { packed: compress_with_dict(head, USUAL).into_boxed_slice(), length: head.len() }
    }

    /// Returns the head.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // What was compressed here can be read.
        decompress_with_dict(&self.packed, self.length, USUAL).unwrap_or_default()
    }

    /// Returns the heap memory that the head holds, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.packed.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_head_of_a_browser_is_kept_in_less_than_half_of_its_bytes() {
        let head = b"GET /api/notifications/stream?tenant=acme HTTP/1.1\r\nHost: app.example.com\r\n\
            Sec-Ch-Ua: \"Google Chrome\";v=\"131\", \"Chromium\";v=\"131\", \"Not_A Brand\";v=\"24\"\r\nSec-Ch-Ua-Mobile: ?0\r\n\
            Sec-Ch-Ua-Platform: \"macOS\"\r\nUser-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 \
            (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n\
            Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\
            Referer: https://app.example.com/dashboard\r\nAccept-Language: de-DE,de;q=0.9,en;q=0.8\r\n\
            Cookie: sid=9f8a7b6c5d4e3f2a1b0c; theme=dark\r\nVia: 2 podpin-3fa81b02\r\nX-Forwarded-For: 203.0.113.77\r\n\
            X-Forwarded-Proto: https\r\nX-Forwarded-Host: app.example.com\r\nX-Real-Ip: 203.0.113.77\r\n\
            Forwarded: for=203.0.113.77;host=app.example.com;proto=https\r\nAccept-Encoding: identity\r\n";
        let compact = CompactHead::of(head);
        assert_eq!(compact.bytes(), head);
        assert!(2 * compact.held_bytes() < head.len(), "{} of {}", compact.held_bytes(), head.len());
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(head in prop::collection::vec(any::<u8>(), 0..2_000), copies in 1_usize..20) {
            let head = head.repeat(copies);
            prop_assert_eq!(CompactHead::of(&head).bytes(), head);
        }
    }
}
