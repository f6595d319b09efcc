//! The clock of a run: `CLOCK_MONOTONIC` is the same for every process of a machine, so a pod's time
//! stamp and the client's can be subtracted.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment before the machine's start.
pub(crate) fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
