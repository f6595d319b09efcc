//! Counters that every worker adds to for each event, without fighting for a cache line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// Power of two; more workers than this share cells, which only costs speed.
const SHARDS: usize = 16;

/// A counter that workers add to without sharing a cache line.
#[derive(Debug, Default)]
pub struct ShardedCounter {
    shards: [Shard; SHARDS],
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

impl ShardedCounter {
    /// Adds in the calling thread's own cell.
    pub fn add(&self, amount: u64) {
        if let Some(shard) = self.shards.get(shard_of_thread()) {
            shard.0.fetch_add(amount, Ordering::Relaxed);
        }
    }

    fn sum(&self) -> u64 {
        self.shards.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

fn shard_of_thread() -> usize {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static SHARD: usize = usize::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap_or(0) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}

/// What is exported of a service, and what it is read from.
type Cell = (IntCounter, Arc<ShardedCounter>);

/// Sharded counters of one name, one for each service, as Prometheus wants them.
#[derive(Clone)]
pub(super) struct ShardedFamily {
    vec: IntCounterVec,
    cells: Arc<parking_lot::Mutex<BTreeMap<String, Cell>>>,
}

impl ShardedFamily {
    pub(super) fn new(name: &str, help: &str) -> prometheus::Result<ShardedFamily> {
        let vec = IntCounterVec::new(Opts::new(format!("podpin_{name}"), help), &["service"])?;
        Ok(ShardedFamily { vec, cells: Arc::default() })
    }

    pub(super) fn cell(&self, service: &str) -> Arc<ShardedCounter> {
        let mut cells = self.cells.lock();
        // A service that reloads take away and bring again goes on counting.
        let new = || (self.vec.with_label_values(&[service]), Arc::default());
        let (_, cell) = cells.entry(service.to_owned()).or_insert_with(new);
        Arc::clone(cell)
    }
}

impl Collector for ShardedFamily {
    fn desc(&self) -> Vec<&Desc> {
        self.vec.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (exported, cell) in self.cells.lock().values() {
            exported.inc_by(cell.sum().saturating_sub(exported.get()));
        }
        self.vec.collect()
    }
}
