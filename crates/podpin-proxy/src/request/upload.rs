//! The body of a request on its way to an endpoint, and the copy of it for another attempt.

use http::HeaderMap;
use podpin_wire::http1::encode::{Framing, push_chunk};
use podpin_wire::trailers::write_last_chunk;

/// Bytes of a request body that are kept for a second attempt on a fresh connection.
const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// The body of a request, as far as it was sent.
pub(crate) struct Upload {
    framing: Framing,
    /// Framed bytes that the endpoint has not taken, behind the request head.
    pub unsent: Vec<u8>,
    /// Offset of the first byte of `unsent` that is still to be written.
    pub unsent_from: usize,
    /// All of the body that was sent so far; `None` if it is not needed again.
    replay: Option<Vec<u8>>,
    /// Fields behind the body, if that is kept.
    trailers: Option<Box<HeaderMap>>,
    /// Whether some of the body was sent.
    pub begun: bool,
    /// Whether the endpoint takes no more of it.
    pub refused: bool,
    /// Whether all of the body is in `unsent`, or was.
    pub ended: bool,
}

impl Upload {
    /// Returns the upload of a request whose `head` is still to be sent.
    pub(crate) fn new(head: Vec<u8>, framing: Framing) -> Upload {
        Upload {
            framing,
            unsent: head,
            unsent_from: 0,
            replay: None,
            trailers: None,
            begun: false,
            refused: false,
            ended: false,
        }
    }

    /// Keeps what is sent of the body from now on, for another attempt.
    pub(crate) fn remember(&mut self) {
        self.replay = Some(Vec::new());
    }

    /// Returns the upload for another connection; `None` if the body is not kept.
    pub(crate) fn again(self, head: Vec<u8>) -> Option<Upload> {
        let mut again = Upload::new(head, self.framing);
        if self.begun {
            let body = self.replay?;
            again.frame(&body);
            again.begun = true;
            if self.ended {
                again.end(self.trailers.map(|fields| *fields).unwrap_or_default());
            }
        }
        Some(again)
    }

    /// Whether [`Upload::again`] would return one.
    pub(crate) fn may_be_repeated(&self) -> bool {
        !self.begun || self.replay.is_some()
    }

    /// Whether the endpoint has taken all of the request.
    pub(crate) fn is_sent(&self) -> bool {
        self.ended && !self.refused && self.unsent_from == self.unsent.len()
    }

    fn frame(&mut self, data: &[u8]) {
        match self.framing {
            Framing::Chunked => push_chunk(&mut self.unsent, data),
            Framing::Plain => self.unsent.extend_from_slice(data),
        }
    }

    /// Notes the end of the body, with the fields behind it.
    pub(crate) fn end(&mut self, trailers: HeaderMap) {
        self.ended = true;
        if self.framing == Framing::Chunked {
            write_last_chunk(&mut self.unsent, &trailers);
        }
        if self.replay.is_some() && !trailers.is_empty() {
            self.trailers = Some(Box::new(trailers));
        }
    }

    /// Frames the bytes of the client that were appended to `unsent` from `start` on.
    pub(crate) fn frame_appended(&mut self, start: usize) {
        let data = self.unsent.get(start..).unwrap_or_default();
        if data.is_empty() {
            return;
        }
        self.begun = true;
        if let Some(replay) = &mut self.replay {
            replay.extend_from_slice(data);
        }
        self.replay = self.replay.take().filter(|replay| replay.len() <= REPLAY_BYTES_MAX);
        if self.framing == Framing::Chunked {
            let data = self.unsent.split_off(start);
            push_chunk(&mut self.unsent, &data);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn upload(framing: Framing, pieces: &[&str]) -> Upload {
        let mut upload = Upload::new(b"HEAD\r\n\r\n".to_vec(), framing);
        upload.remember();
        for piece in pieces {
            let start = upload.unsent.len();
            upload.unsent.extend_from_slice(piece.as_bytes());
            upload.frame_appended(start);
        }
        upload.end(HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("x"))]));
        upload
    }

    #[test]
    fn a_body_is_sent_again_behind_another_head() {
        for (framing, expected) in
            [(Framing::Plain, "hello"), (Framing::Chunked, "5\r\nhello\r\n0\r\nEtag: x\r\n\r\n")]
        {
            let again = upload(framing, &["hel", "lo"]).again(b"AGAIN\r\n\r\n".to_vec()).unwrap();
            let text = String::from_utf8(again.unsent).unwrap();
            assert_eq!(text, format!("AGAIN\r\n\r\n{expected}"));
        }
        let unsent = upload(Framing::Chunked, &["hel", "lo"]).unsent;
        assert!(unsent.ends_with(b"3\r\nhel\r\n2\r\nlo\r\n0\r\nEtag: x\r\n\r\n"));
    }

    #[test]
    fn a_long_body_is_not_kept() {
        let long = "x".repeat(REPLAY_BYTES_MAX + 1);
        let upload = upload(Framing::Plain, &[&long]);
        assert!(!upload.may_be_repeated() && upload.again(Vec::new()).is_none());
    }

    #[test]
    fn a_request_is_sent_once_the_endpoint_has_taken_all() {
        let mut upload = upload(Framing::Plain, &["hello"]);
        assert!(!upload.is_sent());
        upload.unsent_from = upload.unsent.len();
        assert!(upload.is_sent());
        upload.refused = true;
        assert!(!upload.is_sent());
    }
}
