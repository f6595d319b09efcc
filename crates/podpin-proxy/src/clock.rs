//! The process's clocks: monotonic milliseconds for every deadline, Unix seconds for tokens.
//!
//! The pure crates take time as an argument; this is where it is read. Milliseconds in a `u64` keep a stream's
//! deadlines at eight bytes each.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use pin_project_lite::pin_project;
use podpin_time::Millis;
use tokio::time::Sleep;

static START: LazyLock<(Instant, SystemTime)> = LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// A reading of the monotonic clock for one poll of a task.
#[derive(Clone, Copy)]
enum Reading {
    /// The thread polls no task within [`Still`].
    Each,
    /// The task has not asked for the time in this poll.
    Due,
    Taken(Millis),
}

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading::Each) };
}

/// Returns the milliseconds since the first call in this process; within a connection or request task, those of the first call of the poll.
pub fn now() -> Millis {
    match READING.get() {
        Reading::Taken(now) => now,
        Reading::Due => take(),
        Reading::Each => read(),
    }
}

fn read() -> Millis {
    Millis(duration_millis(START.0.elapsed()))
}

fn take() -> Millis {
    let now = read();
    READING.set(Reading::Taken(now));
    now
}

pin_project! {
    /// A task that reads the clock once in a poll: a request would read it twenty times, in a few polls of microseconds.
    pub(crate) struct Still<F> {
        #[pin]
        task: F,
    }
}

impl<F> Still<F> {
    pub(crate) fn new(task: F) -> Still<F> {
        Still { task }
    }
}

impl<F: Future> Future for Still<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _restored = Restored(READING.replace(Reading::Due));
        self.project().task.poll(context)
    }
}

/// Puts a reading back at its end, also where a task panics.
struct Restored(Reading);

impl Drop for Restored {
    fn drop(&mut self) {
        READING.set(self.0);
    }
}

/// Returns the seconds since 1970-01-01T00:00:00Z; 0 if the machine's clock is set before that.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

thread_local! {
    /// The last value of `Date` with its second.
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Returns the wall-clock time as `Date` has it (RFC 9110 section 5.6.7).
pub fn http_date() -> HeaderValue {
    let seconds = unix_seconds();
    DATE.with_borrow_mut(|(of, date)| {
        if *of != seconds || date.is_empty() {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            (*of, *date) = (seconds, HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("")));
        }
        date.clone()
    })
}

/// Returns the wall-clock time of a moment on the monotonic clock, as RFC 3339 with milliseconds.
pub fn rfc3339(moment: Millis) -> String {
    // By one reading of the wall clock, so that a moment is the same in every call.
    let at = START.1.checked_add(Duration::from_millis(moment.0)).unwrap_or(UNIX_EPOCH);
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |stamp| format!("{stamp:.3}"))
}

/// Returns the moment on the monotonic clock at which the wall clock will show `at`, as the two stand now; a time before this
/// process is 0.
pub fn moment_of(at: SystemTime) -> Millis {
    shifted(now(), SystemTime::now(), at)
}

/// Returns the moment of `at` if `now` is the moment of `wall`.
fn shifted(now: Millis, wall: SystemTime, at: SystemTime) -> Millis {
    match at.duration_since(wall) {
        Ok(ahead) => now.after(ahead),
        Err(past) => Millis(now.0.saturating_sub(duration_millis(past.duration()))),
    }
}

/// Returns the whole milliseconds of a duration; 584 million years at most.
pub fn duration_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the moment `delay` after `from`.
pub fn after(from: Millis, delay: Duration) -> Millis {
    from.after(delay)
}

/// Returns the moment as an instant of the async runtime's timer.
pub fn instant(moment: Millis) -> tokio::time::Instant {
    let start = tokio::time::Instant::from_std(START.0);
    start.checked_add(Duration::from_millis(moment.0)).unwrap_or(start)
}

/// Polls for the moment `due`; one timer serves all deadlines of a task.
pub fn poll_until(due: Millis, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
    let at = instant(due);
    loop {
        if due <= now() {
            return Poll::Ready(());
        }
        // A timer that is set for earlier goes off once for nothing, which costs less than setting it anew each time.
        if timer.is_elapsed() || timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        ready!(timer.as_mut().poll(context));
        // The timer has its own reading.
        if matches!(READING.get(), Reading::Taken(_)) {
            take();
        }
    }
}

/// Deadline of a timer before one is known; no connection waits that long.
const FAR_FUTURE: Duration = Duration::from_secs(86_400);

/// Returns a timer for [`poll_until`], which has nothing to wait for yet.
pub fn unset_timer() -> Sleep {
    tokio::time::sleep(FAR_FUTURE)
}

/// Returns Unix seconds as a Prometheus gauge has them; `f64` is exact to the second for millions of years.
pub fn unix_seconds_f64() -> f64 {
    let seconds = unix_seconds();
    u32::try_from(seconds).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn time_stands_still_within_a_poll_of_a_still_task_and_nowhere_else() {
        let spins_for_a_while = || {
            let began = now();
            let real = Instant::now();
            while real.elapsed() < Duration::from_millis(3) {
                std::hint::spin_loop();
            }
            now().since(began)
        };
        let mut polls = 0;
        let mut first = None;
        let task = Still::new(poll_fn(|context| {
            assert_eq!(spins_for_a_while(), Duration::ZERO);
            polls += 1;
            let now = now();
            let before = *first.get_or_insert(now);
            context.waker().wake_by_ref();
            if polls < 3 { Poll::Pending } else { Poll::Ready(now.since(before)) }
        }));
        let passed = task.await;
        assert!(passed >= Duration::from_millis(5), "{passed:?} within three polls of 3 ms");
        assert!(spins_for_a_while() >= Duration::from_millis(2));
        let panicked = std::panic::catch_unwind(|| {
            let mut task = Box::pin(Still::new(poll_fn(|_| -> Poll<()> { panic!("of a task") })));
            let _ = task.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        });
        assert!(panicked.is_err() && spins_for_a_while() >= Duration::from_millis(2));
        // A deadline within a poll is waited for all the same.
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let due = after(now(), Duration::from_millis(5));
        Still::new(poll_fn(|context| poll_until(due, context, timer.as_mut()))).await;
        assert!(now() >= due);
    }

    #[test]
    fn a_time_of_the_wall_clock_is_as_far_from_now_on_the_monotonic_one() {
        let wall = UNIX_EPOCH + Duration::from_secs(1_000);
        let moment = |millis: u64| shifted(Millis(5_000), wall, UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(moment(1_030_000), Millis(35_000));
        assert_eq!(moment(1_000_000), Millis(5_000));
        assert_eq!(moment(996_500), Millis(1_500));
        assert_eq!(moment(900_000), Millis(0), "before this process");
    }
}
