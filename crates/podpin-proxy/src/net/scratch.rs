//! Buffers of a worker thread, used by one stream or request at a time within one turn, and empty in between.
//!
//! Bytes that wait longer than a turn (an incomplete event, output that a client does not take) are copied out of them, so
//! an idle stream owns no buffer at all.

use std::cell::RefCell;

/// The size of a read: large enough that a burst costs few calls, small enough to stay in the cache.
pub const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch { read: vec![0; READ_BYTES], write: Vec::new() });
}

/// The buffers of one thread.
pub struct Scratch {
    /// The buffer to read into, [`READ_BYTES`] long.
    pub read: Vec<u8>,
    /// The buffer to write from, empty between two uses.
    pub write: Vec<u8>,
}

/// Lends the buffers of this thread to `work`.
///
/// # Panics
/// If `work` borrows them again.
pub fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffers_of_a_thread_are_the_same_ones_each_time() {
        with(|scratch| scratch.write.push(7));
        let (read, written) = with(|scratch| (scratch.read.len(), std::mem::take(&mut scratch.write)));
        assert_eq!((read, written), (READ_BYTES, vec![7]));
    }
}
