//! Counters that every worker adds to for each event, without contending for a cache line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::telemetry::metrics::family::{Family, Metric, PerService, registered};

/// The number of shards. Workers beyond it share cells, which only costs speed.
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
    /// Adds `amount` in the calling thread's own shard.
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

/// The counter of one service.
struct Cell {
    /// The sum at the last scrape.
    exported: IntCounter,
    counter: Arc<ShardedCounter>,
}

/// Sharded counters, one for each service, summed up when Prometheus scrapes.
#[derive(Clone)]
pub struct ShardedFamily {
    vec: IntCounterVec,
    cells: Arc<parking_lot::Mutex<BTreeMap<String, Cell>>>,
}

impl Family for ShardedFamily {
    fn register(registry: &Registry, metric: &Metric) -> prometheus::Result<ShardedFamily> {
        let vec = IntCounterVec::new(Opts::new(metric.full_name(), metric.help), &[metric.owner])?;
        registered(registry, Ok(ShardedFamily { vec, cells: Arc::default() }))
    }
}

impl PerService for ShardedFamily {
    type Handle = Arc<ShardedCounter>;

    fn resolve(&self, service: &str) -> Arc<ShardedCounter> {
        let mut cells = self.cells.lock();
        // A service that reloads take away and bring again goes on counting.
        let new = || Cell { exported: self.vec.with_label_values(&[service]), counter: Arc::default() };
        let cell = cells.entry(service.to_owned()).or_insert_with(new);
        Arc::clone(&cell.counter)
    }
}

impl Collector for ShardedFamily {
    fn desc(&self) -> Vec<&Desc> {
        self.vec.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for cell in self.cells.lock().values() {
            cell.exported.inc_by(cell.counter.sum().saturating_sub(cell.exported.get()));
        }
        self.vec.collect()
    }
}
