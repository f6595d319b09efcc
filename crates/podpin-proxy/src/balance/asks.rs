//! Requests for successors that are under way, bounded for each endpoint: the streams of an endpoint that died all look for
//! another one in the same moment, and an endpoint that accepts slowly would lose connections of that burst.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use podpin_endpoints::EndpointId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests under way at one endpoint. Small beside the queue of connections that an endpoint has not accepted yet (128 as
/// a rule, shared by all replicas), and at a millisecond for each enough for thousands of streams in a second. If it is too
/// small, `handover_seconds` is long while endpoints are idle.
const ASKS_MAX: usize = 32;
/// Longest wait of a request that was not the first, chosen at random, so that several replicas do not keep step.
const JITTER_MAX: Duration = Duration::from_millis(20);

/// Requests for successors of one service. Endpoints without one take no memory.
#[derive(Debug, Default)]
pub struct Asks {
    under_way: Mutex<HashMap<EndpointId, Weak<Semaphore>>>,
}

/// The right to one request. Dropping it lets the next one begin.
#[derive(Debug)]
pub struct AskPermit {
    _permit: OwnedSemaphorePermit,
}

impl Asks {
    /// Waits for a place among the requests at `endpoint`; `None` if the service is gone.
    pub async fn permit(&self, endpoint: EndpointId) -> Option<AskPermit> {
        let asks = self.of(endpoint);
        if let Ok(permit) = Arc::clone(&asks).try_acquire_owned() {
            return Some(AskPermit { _permit: permit });
        }
        let permit = asks.acquire_owned().await.ok()?;
        tokio::time::sleep(JITTER_MAX.mul_f64(fastrand::f64())).await;
        Some(AskPermit { _permit: permit })
    }

    /// Returns the semaphore of an endpoint, and forgets those that are not used.
    fn of(&self, endpoint: EndpointId) -> Arc<Semaphore> {
        let mut under_way = self.under_way.lock();
        if let Some(asks) = under_way.get(&endpoint).and_then(Weak::upgrade) {
            return asks;
        }
        under_way.retain(|_, asks| asks.strong_count() > 0);
        let asks = Arc::new(Semaphore::new(ASKS_MAX));
        under_way.insert(endpoint, Arc::downgrade(&asks));
        asks
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_endpoint_has_so_many_requests_and_the_next_one_waits() {
        let asks = Asks::default();
        let [a, b] = ["a", "b"].map(|name| EndpointId::of_pod(name, 80));
        let mut held = Vec::new();
        for _ in 0..ASKS_MAX {
            held.push(asks.permit(a).await.unwrap());
        }
        assert!(asks.permit(a).now_or_never().is_none());
        assert!(asks.permit(b).now_or_never().is_some());
        let waiting = asks.permit(a);
        held.pop();
        assert!(waiting.await.is_some());
        drop(held);
        asks.permit(b).await.unwrap();
        assert_eq!(asks.under_way.lock().len(), 1, "only the one in use is remembered");
    }
}
