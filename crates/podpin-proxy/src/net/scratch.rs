//! Buffers of a worker thread, used by one stream or request at a time within one turn, and empty in between.
//!
//! What waits longer than a turn (an incomplete event, bytes that a client does not take) is copied out of them, so an
//! idle stream owns no buffer at all.

use std::cell::RefCell;

/// One read: large enough that a burst costs few calls, small enough to stay in the cache.
pub const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch { read: vec![0; READ_BYTES], write: Vec::new() });
}

/// One to read into, and one to write from.
pub struct Scratch {
    pub read: Vec<u8>,
    pub write: Vec<u8>,
}

/// Lends the buffers of this thread. Not to be asked for again by `work`.
pub fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}
