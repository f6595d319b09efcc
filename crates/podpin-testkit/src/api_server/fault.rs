//! The ways in which an API server misbehaves, and the script of when it does.

use std::collections::VecDeque;
use std::time::Duration;

/// Which requests; also the kind of a request in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum On {
    /// A new connection, before any byte is read (over TLS: before the handshake).
    Connect,
    /// A list of EndpointSlices.
    List,
    /// A watch of EndpointSlices.
    Watch,
    /// A list of Pods.
    ListPods,
    /// A watch of Pods.
    WatchPods,
    /// Any other request.
    Other,
}

/// A fault that takes the place of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A `Status` object with this code; 429 comes with `Retry-After: 1`.
    Status(u16),
    /// A `Status` object with this code and `Retry-After`, as API priority and fairness sends them.
    Throttled {
        /// 429 or 503.
        code: u16,
        /// Seconds of `Retry-After`.
        seconds: u64,
    },
    /// Nothing at all until it heals, then a reset.
    HangBeforeHeaders,
    /// A good head and then nothing until it heals, then a reset.
    HangAfterHeaders,
    /// A reset.
    Reset,
    /// A FIN without an answer.
    Close,
    /// Status 200 and the clean end of an empty body: of a watch, its immediate end.
    EndAtOnce,
    /// The true answer up to its middle, then a FIN: a list that is cut. Of a watch, half a line.
    Half,
    /// Status 200 with `{"type":"ERROR"}` and 410 as its only line.
    ExpiredEvent,
    /// A list without items, at the true version.
    EmptyList,
    /// Status 200 with something that is not JSON.
    Garbage,
    /// Status 200 with JSON of another shape.
    WrongType,
    /// The true answer in pieces of so many bytes, so far apart.
    SlowDrip {
        /// Bytes in a piece, at least 1.
        bytes: usize,
        /// Time between two pieces.
        every: Duration,
    },
}

/// How the watches that are open are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// As at their timeout: the last chunk.
    Clean,
    /// A FIN between two lines.
    Fin,
    /// Half a line, then a FIN.
    HalfLine,
    /// A reset.
    Reset,
    /// `{"type":"ERROR"}` with 410, then a clean end; the version that they ask for next is expired as well.
    Expired,
}

/// The order of faults: single ones first, then the standing ones.
#[derive(Debug, Default)]
pub(super) struct Script {
    once: VecDeque<(On, Fault)>,
    standing: Vec<(On, Fault)>,
}

impl Script {
    pub(super) fn always(&mut self, on: On, fault: Fault) {
        self.standing.retain(|(have, _)| *have != on);
        self.standing.push((on, fault));
    }

    pub(super) fn once(&mut self, on: On, fault: Fault) {
        self.once.push_back((on, fault));
    }

    pub(super) fn next(&mut self, on: On) -> Option<Fault> {
        if let Some(at) = self.once.iter().position(|(have, _)| *have == on) {
            return self.once.remove(at).map(|(_, fault)| fault);
        }
        self.standing.iter().find(|(have, _)| *have == on).map(|(_, fault)| fault.clone())
    }
}
