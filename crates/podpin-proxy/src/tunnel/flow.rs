//! Directions of an upgraded connection: bytes that its destination has not taken, and its end.

use std::io;
use std::task::{Context, Poll, ready};

use crate::net::scratch;

/// Something that bytes are written to.
pub(crate) trait Sink {
    /// Writes what is taken now; returns how much, at least one byte.
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Polls until nothing waits within TLS.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends this direction, and leaves the other one open.
    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Direction of a connection. Its source is read only while nothing is held: a slow destination holds back the source, and
/// neither the other direction nor the proxy's memory.
pub(crate) struct Flow {
    held: Vec<u8>,
    /// Offset of the first byte of `held` that was not taken.
    from: usize,
    state: FlowState,
}

/// Progress of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowState {
    /// The source may send more.
    Open,
    /// The source has ended; the destination does not know yet.
    Ending,
    /// The source is not read any more, and what is held is the last to be written.
    Over,
}

impl Flow {
    /// Returns an open direction that begins with these bytes.
    pub(crate) fn new(held: Vec<u8>) -> Flow {
        Flow { held, from: 0, state: FlowState::Open }
    }

    /// Returns the progress of the direction.
    pub(crate) fn state(&self) -> FlowState {
        self.state
    }

    /// Whether bytes wait for the destination.
    pub(crate) fn holds_bytes(&self) -> bool {
        self.from < self.held.len()
    }

    /// Whether the source is read no more and the destination has everything.
    pub(crate) fn is_over(&self) -> bool {
        self.state == FlowState::Over && !self.holds_bytes()
    }

    /// Notes the end of the source, to be passed on.
    pub(crate) fn end(&mut self) {
        self.state = FlowState::Ending;
    }

    /// Ends the direction: what is held is the last.
    pub(crate) fn finish(&mut self) {
        self.state = FlowState::Over;
    }

    /// Ends the direction, whose destination takes no more.
    pub(crate) fn abandon(&mut self) {
        *self = Flow { held: Vec::new(), from: 0, state: FlowState::Over };
    }

    /// Adds bytes behind those that are held.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.held.capacity() == 0 && !bytes.is_empty() {
            self.held = scratch::buffer();
        }
        self.held.extend_from_slice(bytes);
    }

    /// Writes bytes of the source, and holds what is not taken at once.
    pub(crate) fn send(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut impl Sink,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() && !self.holds_bytes() {
            match sink.poll_write(context, bytes)? {
                Poll::Ready(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Poll::Pending => break,
            }
        }
        self.append(bytes);
        Ok(())
    }

    /// Writes what is held, and the end if the source has ended. `Ready` when nothing waits any more.
    pub(crate) fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        sink: &mut impl Sink,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.from..).filter(|rest| !rest.is_empty()) {
            self.from += ready!(sink.poll_write(context, rest))?;
        }
        if self.held.capacity() > 0 {
            scratch::give_back(std::mem::take(&mut self.held));
            self.from = 0;
        }
        ready!(sink.poll_flush(context))?;
        if self.state == FlowState::Ending {
            ready!(sink.poll_shutdown(context))?;
            self.state = FlowState::Over;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and no more before it is given room.
    #[derive(Default)]
    struct Slow {
        room: usize,
        taken: Vec<u8>,
        is_shut: bool,
    }

    impl Sink for Slow {
        fn poll_write(&mut self, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
        }

        fn poll_flush(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn bytes_keep_their_order_and_the_end_comes_behind_them() {
        let context = &mut Context::from_waker(std::task::Waker::noop());
        let (mut flow, mut slow) = (Flow::new(b"head ".to_vec()), Slow { room: 3, ..Slow::default() });
        assert!(flow.poll_drain(context, &mut slow).is_pending());
        flow.send(context, &mut slow, b"one ").unwrap();
        slow.room = 8;
        assert!(flow.poll_drain(context, &mut slow).is_ready_and_ok() && !flow.holds_bytes());
        flow.send(context, &mut slow, b"two").unwrap();
        flow.end();
        assert!(flow.poll_drain(context, &mut slow).is_pending() && !slow.is_shut);
        slow.room = 9;
        assert!(flow.poll_drain(context, &mut slow).is_ready_and_ok() && slow.is_shut && flow.is_over());
        assert_eq!(slow.taken, b"head one two");
    }

    trait IsReady {
        fn is_ready_and_ok(&self) -> bool;
    }

    impl IsReady for Poll<io::Result<()>> {
        fn is_ready_and_ok(&self) -> bool {
            matches!(self, Poll::Ready(Ok(())))
        }
    }
}
