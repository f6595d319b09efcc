//! The body of a request on its way to a pod, and what is kept of it for another try.

use podpin_wire::http1::encode::push_chunk;

/// Of a request body, what is kept for a second try on a fresh connection.
const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// How the request body is framed for the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none, or it has a length.
    Plain,
    Chunked,
}

/// The body of a request, as far as it was sent.
pub(crate) struct Upload {
    framing: Framing,
    /// Framed bytes that the pod has not taken, the request head before them.
    pub unsent: Vec<u8>,
    pub unsent_from: usize,
    /// All of the body that went to the pod so far, while it may be needed again.
    replay: Option<Vec<u8>>,
    /// Some of the body went to the pod.
    pub begun: bool,
    /// The pod takes no more of it.
    pub refused: bool,
    /// All of the body is in `unsent`, or was.
    pub ended: bool,
}

impl Upload {
    /// A request whose `head` is still to be sent.
    pub(crate) fn new(head: Vec<u8>, framing: Framing) -> Upload {
        Upload {
            framing,
            unsent: head,
            unsent_from: 0,
            replay: None,
            begun: false,
            refused: false,
            ended: false,
        }
    }

    /// Keeps what is sent of the body, for another try.
    pub(crate) fn remember(mut self) -> Upload {
        self.replay = Some(Vec::new());
        self
    }

    /// The same for another connection, if all of the body is still there.
    pub(crate) fn again(self, head: Vec<u8>) -> Option<Upload> {
        let mut again = Upload::new(head, self.framing);
        if self.begun {
            let body = self.replay?;
            again.frame(&body);
            again.begun = true;
            if self.ended {
                again.end();
            }
        }
        Some(again)
    }

    /// Whether [`Upload::again`] would give one.
    pub(crate) fn may_be_repeated(&self) -> bool {
        !self.begun || self.replay.is_some()
    }

    /// Everything that was to be sent was taken by the pod.
    pub(crate) fn is_sent(&self) -> bool {
        self.ended && !self.refused && self.unsent_from == self.unsent.len()
    }

    fn frame(&mut self, data: &[u8]) {
        match self.framing {
            Framing::Chunked => push_chunk(&mut self.unsent, data),
            Framing::Plain => self.unsent.extend_from_slice(data),
        }
    }

    /// All of the body is here.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        if self.framing == Framing::Chunked {
            self.unsent.extend_from_slice(b"0\r\n\r\n");
        }
    }

    /// Takes what the client sent: everything from `start` on.
    pub(crate) fn took(&mut self, start: usize) {
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
