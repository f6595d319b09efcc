//! Many clients of real example pods, each of which checks that it misses nothing and gets nothing twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use podpin_testkit::{EventStream, wait_for};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Clients that read. One that misses an event, gets one twice or half, or is disconnected panics.
pub(super) struct Crowd {
    clients: JoinSet<Seen>,
    goal: watch::Sender<u64>,
    /// The number of the last event of each client.
    positions: Vec<Arc<AtomicU64>>,
}

/// The observations of one client.
pub(super) struct Seen {
    /// The pods that sent to it, in their order.
    pub(super) pods: Vec<String>,
    /// Still open.
    _stream: EventStream,
}

impl Crowd {
    pub(super) fn new() -> Crowd {
        Crowd { clients: JoinSet::new(), goal: watch::Sender::new(u64::MAX), positions: Vec::new() }
    }

    pub(super) fn add(&mut self, stream: EventStream) {
        let position = Arc::<AtomicU64>::default();
        self.positions.push(Arc::clone(&position));
        self.clients.spawn(follow(stream, position, self.goal.subscribe()));
    }

    pub(super) fn len(&self) -> usize {
        self.positions.len()
    }

    fn newest(&self) -> u64 {
        self.positions.iter().map(|position| position.load(Ordering::SeqCst)).max().unwrap_or_default()
    }

    /// Waits until every client has events that are new to all of them.
    pub(super) async fn all_flow(&self) {
        let target = self.newest() + 3;
        let behind = |position: &Arc<AtomicU64>| position.load(Ordering::SeqCst) < target;
        wait_for("all streams flowing", async || !self.positions.iter().any(behind)).await;
    }

    /// Returns the observations of all clients, each up to the same event; all of them are still connected.
    pub(super) async fn finish(mut self) -> Vec<Seen> {
        self.goal.send_replace(self.newest() + 5);
        let mut all = Vec::new();
        while let Some(seen) = self.clients.join_next().await {
            all.push(seen.expect("no client notices anything"));
        }
        all
    }
}

async fn follow(mut stream: EventStream, position: Arc<AtomicU64>, mut goal: watch::Receiver<u64>) -> Seen {
    let mut pods: Vec<String> = Vec::new();
    let mut last = None;
    loop {
        let event = tokio::select! {
            event = stream.next_event() => event,
            _ = goal.changed() => continue,
        };
        // A greeting has no number; that of a successor comes in the middle.
        if event.kind == "hello" {
            continue;
        }
        assert_eq!(event.kind, "", "{event:?}");
        let data: serde_json::Value = serde_json::from_str(&event.data).expect("a whole event");
        let number = data["n"].as_u64().expect("a number");
        if let Some(last) = last.replace(number) {
            assert_eq!(number, last + 1, "a gap or a duplicate: {event:?}");
        }
        position.store(number, Ordering::SeqCst);
        let pod = data["pod"].as_str().expect("a pod");
        if pods.last().is_none_or(|before| before != pod) {
            pods.push(pod.to_owned());
        }
        if number >= *goal.borrow() {
            return Seen { pods, _stream: stream };
        }
    }
}
