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

/// Spare buffers that a thread keeps.
const SPARE_BUFFERS: usize = 16;
/// Size beyond which a buffer is not kept.
const SPARE_BYTES_MAX: usize = 128 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Returns an empty buffer, a spare one of this thread if there is one.
#[must_use]
pub fn buffer() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(1024))
}

/// Takes a buffer back for the next that needs one.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > SPARE_BYTES_MAX {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    });
}

/// Capacity up to which the buffer to write from is kept.
const WRITE_BYTES_MAX: usize = 4 * READ_BYTES;

/// Lends the buffers of this thread to `work`. One to write from that has become large is given up behind it.
///
/// # Panics
/// If `work` borrows them again.
pub fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let done = work(scratch);
        if scratch.write.capacity() > WRITE_BYTES_MAX {
            scratch.write = Vec::new();
        }
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffers_of_a_thread_are_the_same_ones_each_time() {
        with(|scratch| scratch.write.push(7));
        let (read, written) = with(|scratch| (scratch.read.len(), std::mem::take(&mut scratch.write)));
        assert_eq!((read, written), (READ_BYTES, vec![7]));
        with(|scratch| scratch.write.reserve(WRITE_BYTES_MAX + 1));
        assert_eq!(with(|scratch| scratch.write.capacity()), 0, "no thread keeps what one large answer took");
    }
}
