//! Where a service and its streams leave word for the drain, and wake it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use podpin_endpoints::{Phase, Transition};
use tokio::sync::Notify;

use crate::stream_registry::StreamRecord;

/// Where a service leaves word for the drain.
#[derive(Debug)]
pub struct Desk {
    news: Mutex<News>,
    /// Event streams of the service that are open.
    open: AtomicU32,
    /// Disconnects that no budget was asked for, since the last turn.
    unplanned: AtomicU32,
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
pub struct News {
    pub transitions: Vec<Transition>,
    /// Streams that began although their endpoint, or the proxy, is leaving.
    pub late: Vec<Arc<StreamRecord>>,
}

impl Desk {
    /// A desk; `wake` is what the drain waits for.
    pub fn new(wake: Arc<Notify>) -> Desk {
        Desk { news: Mutex::default(), open: AtomicU32::new(0), unplanned: AtomicU32::new(0), wake }
    }

    /// Endpoints changed their phase.
    pub fn report(&self, transitions: Vec<Transition>) {
        let concerns = |one: &Transition| {
            one.to >= Phase::Draining || one.from.is_none_or(|from| from >= Phase::Draining)
        };
        if transitions.iter().any(concerns) {
            self.news.lock().transitions.extend(transitions.into_iter().filter(concerns));
            self.wake.notify_one();
        }
    }

    /// An event stream of the service begins.
    pub fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// An event stream of the service has ended.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A client had to be disconnected although a handover was planned.
    pub fn charge(&self) {
        self.unplanned.fetch_add(1, Ordering::Relaxed);
    }

    pub fn take_news(&self) -> News {
        std::mem::take(&mut *self.news.lock())
    }

    /// Disconnects since this was asked last that no budget was asked for.
    pub fn take_charges(&self) -> u32 {
        self.unplanned.swap(0, Ordering::Relaxed)
    }

    pub fn open_streams(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Clients are awaited from now on.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// A stream has begun that will have to leave.
    pub fn report_late(&self, record: Arc<StreamRecord>) {
        self.news.lock().late.push(record);
        self.wake.notify_one();
    }
}
