//! A graceful shutdown: readiness off, a time to announce that, streams drained, connections closed.
//!
//! ```text
//! SIGTERM ── announce ──▶ listeners closed, streams drain over `spread` ──▶ all gone, or `timeout` ──▶ end
//! ```

use std::time::Duration;

use podpin_drain::ShutdownTimes;
use podpin_proxy::clock;
use podpin_proxy::shared::Shared;
use podpin_time::Millis;
use tokio::time::Instant;

/// How often the end of the last stream is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long connections may take to close once nothing is left to serve on them.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// A reserve for ending the threads, so that the whole shutdown stays within `shutdown.timeout`.
const THREADS_RESERVE: Duration = Duration::from_millis(500);

/// Shuts down as the configuration in force says: readiness off, still accepting for `announce`, then listeners closed and
/// streams drained over `spread`; returns when nothing is left, at the latest after `timeout`.
pub(crate) async fn leave_gracefully(shared: &Shared) {
    let times = shared.current().shutdown.clone();
    let gone_by = clock::after(clock::now(), times.timeout.saturating_sub(THREADS_RESERVE));
    let deadline = clock::instant(gone_by);
    shared.begin_draining();
    tracing::info!(streams = shared.streams.count(), announce = ?times.announce, "leaving: readiness is off");
    tokio::time::sleep(times.announce).await;
    shared.close_listeners();
    shared.streams.begin_shutdown(ShutdownTimes {
        begins: clock::now(),
        spread: times.spread,
        // The last streams leave early enough for their connections to close.
        deadline: Millis(gone_by.0.saturating_sub(clock::duration_millis(CLOSE_GRACE))),
    });
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    while !shared.is_idle() && Instant::now() < deadline {
        poll.tick().await;
    }
    // One more turn of the drain logs its report.
    shared.streams.wake().notify();
    tokio::task::yield_now().await;
    shared.lifecycle.tasks.close();
    // The last bytes may still be on their way out of the workers.
    let close_by = deadline.min(Instant::now() + CLOSE_GRACE);
    if tokio::time::timeout_at(close_by, shared.lifecycle.tasks.wait()).await.is_err() {
        tracing::debug!("some connections are still open");
    }
    tracing::info!(streams = shared.streams.count(), "left");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[tokio::test]
    async fn an_idle_process_closes_its_listeners_and_is_done_at_once() {
        let text = format!("affinityKeys: ephemeral\nshutdown: {{announce: 0s}}\n{}", fixture::MINIMAL);
        let shared = fixture::started(&fixture::parsed(&text));
        leave_gracefully(&shared).await;
        assert!(shared.lifecycle.is_draining() && shared.lifecycle.is_closing());
        assert!(shared.streams.shutdown_times().is_some());
    }
}
