//! How long a test waits, and for what.
//!
//! One bound for everything: generous enough for two busy cores, short enough that a hang is a report and not a
//! cancelled build. A test never pauses for a fixed time and hopes.

use std::future::Future;
use std::time::Duration;

/// The longest that anything in a test may take. A wait that reaches it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often [`wait_for`] looks: short against [`PATIENCE`], long against one look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Awaits `work`, at most for [`PATIENCE`].
///
/// # Panics
/// When it takes longer; the message names `what` was awaited.
#[track_caller]
pub fn in_time<T>(what: &str, work: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(value) => value,
            Err(_) => panic!("not within {PATIENCE:?}: {what} (awaited at {caller})"),
        }
    }
}

/// Looks again and again until `check` holds: for state that has no event (a metric, the effect of a file).
///
/// # Panics
/// When it does not hold within [`PATIENCE`].
#[track_caller]
pub fn wait_for(what: &str, mut check: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    wait_for_some(what, async move || check().await.then_some(()))
}

/// As [`wait_for`], and hands back what `check` found.
///
/// # Panics
/// When `check` finds nothing within [`PATIENCE`].
#[track_caller]
pub fn wait_for_some<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    in_time(what, async move {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

/// As [`wait_for`], within `limit`: for what only the kernel's own timers bring about.
///
/// # Panics
/// When it does not hold within `limit`.
#[track_caller]
pub fn wait_long(
    limit: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let looks = async {
            while !check().await {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let held = tokio::time::timeout(limit, looks).await;
        assert!(held.is_ok(), "not within {limit:?}: {what} (awaited at {caller})");
    }
}
