//! Timer of a stream: set anew only for an earlier moment, because most events move the moment to a later one.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use podpin_time::Millis;
use tokio::time::Sleep;

use crate::clock;

/// Timer that wakes a stream's task.
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Moment that `sleep` is set to.
    armed: Millis,
    /// Whether `sleep`, as it is set now, has the task's waker.
    has_waker: bool,
}

impl Timer {
    /// Returns a timer that is not set.
    pub(crate) fn new(now: Millis) -> Timer {
        let sleep = Box::pin(tokio::time::sleep_until(clock::instant(now)));
        Timer { sleep, armed: Millis(0), has_waker: false }
    }

    /// Wakes the task at `due` or earlier; it is `now`.
    pub(crate) fn wake_by(&mut self, context: &mut Context<'_>, due: Millis, now: Millis) {
        if due < self.armed || self.armed <= now {
            self.armed = due;
            self.sleep.as_mut().reset(clock::instant(due));
            self.has_waker = false;
        }
        // Without budget a timer is pending and keeps no waker: the task is polled again for that, and so is the timer.
        if !self.has_waker {
            self.has_waker =
                self.sleep.as_mut().poll(context).is_pending() && tokio::task::coop::has_budget_remaining();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_task_is_woken_when_the_moment_has_come() {
        let due = clock::now().after(Duration::from_millis(5));
        let mut timer = Timer::new(clock::now());
        poll_fn(|context| {
            let now = clock::now();
            if now >= due {
                return Poll::Ready(());
            }
            timer.wake_by(context, due, now);
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn a_later_moment_leaves_the_timer_as_it_is() {
        let now = clock::now();
        let moment = |millis| now.after(Duration::from_millis(millis));
        let mut timer = Timer::new(now);
        let steps = [(500_000, 500_000), (900_000, 500_000), (400_000, 400_000), (600_000, 400_000)];
        poll_fn(|context| {
            for (due, armed) in steps {
                timer.wake_by(context, moment(due), now);
                assert_eq!(timer.armed, moment(armed));
            }
            Poll::Ready(())
        })
        .await;
    }
}
