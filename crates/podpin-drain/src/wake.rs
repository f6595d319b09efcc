//! Wakes the task that runs all controllers: a flag and a waker, for any runtime.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Wake-up call for the one task that turns the controllers. A call that comes while the task is busy is kept.
///
/// ```
/// use std::task::{Context, Poll, Waker};
///
/// let wake = podpin_drain::DrainWake::default();
/// let mut context = Context::from_waker(Waker::noop());
/// assert_eq!(wake.poll_notified(&mut context), Poll::Pending);
/// wake.notify();
/// assert_eq!(wake.poll_notified(&mut context), Poll::Ready(()));
/// assert_eq!(wake.poll_notified(&mut context), Poll::Pending, "calls are not counted");
/// ```
#[derive(Debug, Default)]
pub struct DrainWake {
    is_notified: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl DrainWake {
    /// Wakes the task.
    pub fn notify(&self) {
        // A call that was not heard yet stands for this one, too.
        if self.is_notified.swap(true, Ordering::SeqCst) {
            return;
        }
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for a call.
    pub fn poll_notified(&self, context: &mut Context<'_>) -> Poll<()> {
        // First the waker, then the flag: a call in between finds the one or sets the other.
        let old = self.waker.lock().replace(context.waker().clone());
        drop(old);
        if self.is_notified.swap(false, Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }
}
