//! The changes to the pods while the demo's clients watch: a rolling update, or a death.
//!
//! ```text
//! 0        1/4       2/4       3/4       end of the run
//! |---------|---------|---------|---------|
//!           a -> d    b -> e    c -> f        --rollout: the new pod joins, the old one drains and is stopped
//!                     a dies                  --kill
//! ```
//!
//! On a thread of its own, as an operator would be: to start and stop pods must not hold up the clients that measure it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::pods::{Cluster, NAMES};

/// The pods that replace those of [`NAMES`].
const SUCCESSORS: [&str; NAMES.len()] = ["pod-d", "pod-e", "pod-f"];

/// Between two looks at whether a pod has ended.
const LOOK: Duration = Duration::from_millis(20);

/// The kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// All pods are replaced one after the other.
    Rollout,
    /// The death of one pod without a warning.
    Kill,
}

impl Kind {
    /// How many pods it concerns.
    pub(super) fn pods(self) -> usize {
        match self {
            Self::Rollout => NAMES.len(),
            Self::Kill => 1,
        }
    }

    /// Returns the heading of the table, after the time.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Rollout => ", rolling update",
            Self::Kill => ", a pod dies",
        }
    }

    /// Returns the description of the change, for the table.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Rollout => "pods replaced",
            Self::Kill => "pods killed",
        }
    }
}

/// An upheaval that has begun.
pub(super) struct Upheaval {
    kind: Kind,
    thread: JoinHandle<usize>,
    /// Dropped to end it early.
    ends: SyncSender<Infallible>,
}

/// Result of the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) kind: Kind,
    /// Number of pods that were replaced or killed, out of [`Kind::pods`].
    pub(super) pods: usize,
}

impl Changes {
    /// All that was to happen has.
    pub(super) fn are_complete(self) -> bool {
        self.pods == self.kind.pods()
    }
}

impl Upheaval {
    /// Begins now, and takes `run_time` with the quiet before and after.
    pub(super) fn begin(kind: Kind, cluster: Arc<Cluster>, run_time: Duration) -> std::io::Result<Self> {
        let (ends, end) = sync_channel(0);
        let steps = Steps { cluster, begun: Instant::now(), run_time, end };
        let thread =
            std::thread::Builder::new().name("demo upheaval".to_owned()).spawn(move || match kind {
                Kind::Rollout => steps.roll_out(),
                Kind::Kill => steps.kill(),
            })?;
        Ok(Self { kind, thread, ends })
    }

    /// Ends it, if it is still going on.
    pub(super) fn end(self) -> Changes {
        drop(self.ends);
        let pods = self.thread.join().unwrap_or_else(|_| {
            tracing::error!("the thread of the rolling update panicked");
            0
        });
        Changes { kind: self.kind, pods }
    }
}

struct Steps {
    cluster: Arc<Cluster>,
    begun: Instant,
    run_time: Duration,
    end: Receiver<Infallible>,
}

impl Steps {
    fn roll_out(&self) -> usize {
        let parts = u32::try_from(NAMES.len() + 1).unwrap_or(u32::MAX);
        let mut replaced = 0;
        for (part, (old, new)) in (1..).zip(NAMES.into_iter().zip(SUCCESSORS)) {
            if !self.wait(self.run_time * part / parts) || !self.replace(old, new) {
                break;
            }
            replaced += 1;
        }
        replaced
    }

    /// False when that did not work, or the demo ends.
    fn replace(&self, old: &'static str, new: &'static str) -> bool {
        let begun = self.cluster.join(new).map_err(|error| format!("{error:#}"));
        let begun = begun.and_then(|()| self.cluster.stop_pod(old).map_err(|error| error.to_string()));
        if let Err(error) = begun {
            tracing::error!("cannot replace {old} by {new}: {error}");
            return false;
        }
        while !self.cluster.is_gone(old) {
            if !self.wait(self.begun.elapsed() + LOOK) {
                return false;
            }
        }
        self.cluster.forget(old);
        true
    }

    fn kill(&self) -> usize {
        let [victim, ..] = NAMES;
        if !self.wait(self.run_time / 2) {
            return 0;
        }
        let killed = self.cluster.kill_pod(victim);
        killed.inspect_err(|error| tracing::error!("cannot kill {victim}: {error}")).map_or(0, |()| 1)
    }

    /// Waits until this time of the run; false when the demo ends before.
    fn wait(&self, until: Duration) -> bool {
        let rest = (self.begun + until).saturating_duration_since(Instant::now());
        matches!(self.end.recv_timeout(rest), Err(RecvTimeoutError::Timeout))
    }
}
