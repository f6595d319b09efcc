//! The process's clocks: monotonic milliseconds for every deadline, Unix seconds for tokens.
//!
//! The pure crates take time as an argument; this is where it is read. Milliseconds in a `u64` keep a stream's
//! deadlines at eight bytes each.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use podpin_time::Millis;
use tokio::time::Sleep;

static START: LazyLock<(Instant, SystemTime)> = LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// Returns the milliseconds since the first call in this process.
pub fn now() -> Millis {
    Millis(duration_millis(START.0.elapsed()))
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
    }
}

/// Returns Unix seconds as a Prometheus gauge has them; `f64` is exact to the second for millions of years.
pub fn unix_seconds_f64() -> f64 {
    let seconds = unix_seconds();
    u32::try_from(seconds).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

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
