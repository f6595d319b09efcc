//! Connections of the admin port: few, and none that waits for long.
//!
//! The port shares descriptors and a thread with what matters more. A connection without a request has [`IDLE_MAX`] for the head of
//! one, however its bytes come, and as long again for a response to be read. Above [`CONNECTIONS_MAX`] the one that is idle for longest
//! makes room, so that probes are answered whatever else is connected.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use podpin_proxy::clock;
use podpin_time::Millis;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::ServiceExt as _;

use crate::admin::guard::Peer;

/// Connections at a time: half of the descriptors that are set aside for everything but clients and their upstreams. Each pod that
/// leaves has one while its preStop hook waits.
const CONNECTIONS_MAX: usize = 256;
/// The same as the default of `limits.requestHeaderTimeout`.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The least buffer that hyper takes; a head that does not fit is refused with 431.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The pause after a failed accept: without descriptors, the next one fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The mark of a connection whose request is being answered.
const BUSY: u64 = u64::MAX;

/// State of a connection.
#[derive(Debug)]
struct Activity {
    /// Milliseconds of [`Millis`] since which it is idle, or [`BUSY`].
    idle_since: AtomicU64,
    /// Rung when it has to make room.
    evicted: Notify,
}

impl Activity {
    fn idle(now: Millis) -> Activity {
        Activity { idle_since: AtomicU64::new(now.0), evicted: Notify::new() }
    }

    fn begin(&self) {
        self.idle_since.store(BUSY, Ordering::Relaxed);
    }

    fn end(&self, now: Millis) {
        self.idle_since.store(now.0, Ordering::Relaxed);
    }

    /// Returns since when the connection is idle; `None` if its request is being answered.
    fn idle_since(&self) -> Option<Millis> {
        let since = self.idle_since.load(Ordering::Relaxed);
        (since != BUSY).then_some(Millis(since))
    }

    /// Returns how long the connection may stay idle; zero if it was for long enough.
    fn patience(&self, now: Millis) -> Duration {
        self.idle_since().map_or(IDLE_MAX, |since| IDLE_MAX.saturating_sub(now.since(since)))
    }
}

/// Accepts connections and serves them, for ever.
pub(super) async fn serve(socket: TcpListener, routes: Router) -> ! {
    let mut tasks = JoinSet::new();
    let mut open: Vec<Weak<Activity>> = Vec::new();
    loop {
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "the admin port cannot accept");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|activity| activity.strong_count() > 0);
        if open.len() >= CONNECTIONS_MAX && !make_room(&open) {
            continue;
        }
        let activity = Arc::new(Activity::idle(clock::now()));
        open.push(Arc::downgrade(&activity));
        tasks.spawn(connection(stream, peer, routes.clone(), activity));
    }
}

/// Closes the connection that is idle for longest. Returns whether there is one.
fn make_room(open: &[Weak<Activity>]) -> bool {
    let activities = open.iter().filter_map(Weak::upgrade);
    let idle = activities.filter_map(|activity| Some((activity.idle_since()?, activity)));
    let oldest = idle.min_by_key(|(since, _)| *since);
    oldest.inspect(|(_, activity)| activity.evicted.notify_one()).is_some()
}

/// Serves one connection until it ends, is idle for too long or has to make room.
async fn connection(stream: TcpStream, peer: SocketAddr, routes: Router, activity: Arc<Activity>) {
    let service = service_fn(|request: http::Request<Incoming>| {
        activity.begin();
        let (routes, activity) = (routes.clone(), &activity);
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            let response = routes.oneshot(request).await;
            activity.end(clock::now());
            response
        }
    });
    let served =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    loop {
        let patience = activity.patience(clock::now());
        if patience.is_zero() {
            return;
        }
        tokio::select! {
            // An error is the client's: a head that is none, or an end in the middle.
            _ended = &mut served => return,
            () = activity.evicted.notified() => return,
            () = sleep(patience) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_is_idle_for_longest_makes_room_and_no_busy_one() {
        let all = [7, 3, 5].map(|since| Arc::new(Activity::idle(Millis(since))));
        let open: Vec<_> = all.iter().map(Arc::downgrade).collect();
        let is_evicted = |activity: &Arc<Activity>| {
            let notified = pin!(activity.evicted.notified());
            futures_util::FutureExt::now_or_never(notified).is_some()
        };
        all[1].begin();
        assert!(make_room(&open));
        assert_eq!(all.each_ref().map(is_evicted), [false, false, true]);
        all.iter().for_each(|activity| activity.begin());
        assert!(!make_room(&open));
        all[0].end(Millis(20_000));
        assert_eq!(all[0].patience(Millis(23_000)), Duration::from_secs(7));
        assert_eq!(all[0].patience(Millis(30_000)), Duration::ZERO);
        assert_eq!(all[1].patience(Millis(99_000)), IDLE_MAX, "a request may take its time");
    }
}
