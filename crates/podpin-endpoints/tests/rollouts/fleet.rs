//! Two thousand streams on the pods of a cluster, and how they fare.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use podpin_endpoints::{
    EndpointId, HeirPolicy, Phase, Pick, PickRequest, Ring, Snapshot, Strategy, Table, Update, pick,
};

use crate::cluster::{Cluster, DRAIN_SECONDS, mixed};

const SESSIONS: u64 = 2_000;

/// Points of an endpoint on the ring, as many as ketama has.
const POINTS: u64 = 160;

/// The rule by which streams of a leaving pod find another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// The ring, as without generations.
    Ring,
    /// Heirs.
    Heirs,
}

/// A client with one stream, whose cookie is never written anew.
struct Session {
    id: [u8; 16],
    cookie: EndpointId,
    at: EndpointId,
    moves: u32,
}

/// All streams, and the table that they are moved by.
pub(crate) struct Fleet {
    pub cluster: Cluster,
    table: Table,
    ring: Points,
    sessions: Vec<Session>,
    /// The moment at which a stream leaves, in milliseconds, by its place in `sessions`.
    due: HashMap<usize, u64>,
}

/// The figures of a rollout.
pub(crate) struct Figures {
    /// Moves of each stream.
    pub moves: f64,
    /// Streams of the fullest pod beside the mean.
    pub fullest: f64,
    /// Streams of the emptiest pod beside the mean.
    pub emptiest: f64,
    /// Share of the clients whose other requests are not where their stream is.
    pub split: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { moves, fullest, emptiest, split } = self;
        write!(out, "moves {moves:.2}, fullest {fullest:.2}x, emptiest {emptiest:.2}x, split {split:.3}")
    }
}

/// A consistent-hash ring over the members of a snapshot.
#[derive(Default)]
struct Points(Vec<(u64, EndpointId)>);

impl Points {
    fn over(snapshot: &Snapshot) -> Points {
        let hash = |id: &EndpointId| u64::from_be_bytes(id.as_bytes()[..8].try_into().unwrap());
        let of = |id: EndpointId| (0..POINTS).map(move |point| (mixed(hash(&id) ^ mixed(point)), id));
        let mut points: Vec<_> = snapshot.endpoints().iter().flat_map(|endpoint| of(endpoint.id)).collect();
        points.sort_unstable();
        Points(points)
    }
}

impl Ring for Points {
    fn first(&self, key: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        let place = u64::from_be_bytes(key[..8].try_into().unwrap());
        let (before, after) = self.0.split_at(self.0.partition_point(|(point, _)| *point < place));
        after.iter().chain(before).map(|(_, id)| *id).find(|id| accept(id))
    }
}

impl Fleet {
    /// Returns a fleet whose sessions are spread evenly over the pods of `cluster`.
    pub(crate) fn new(cluster: Cluster, law: Law) -> Fleet {
        let mut table = Table::new();
        if law == Law::Heirs {
            table.keep_heirs(Some(HeirPolicy { lifetime: Duration::from_secs(86_400), namesakes: true }));
        }
        let (ring, sessions, due) = (Points::default(), Vec::new(), HashMap::new());
        let mut fleet = Fleet { cluster, table, ring, sessions, due };
        fleet.hear();
        let snapshot = fleet.table.snapshot();
        for (number, endpoint) in (0..SESSIONS).zip(snapshot.endpoints().iter().cycle()) {
            let id = [mixed(number), mixed(number + SESSIONS)].map(u64::to_be_bytes).concat();
            let id = id.try_into().unwrap();
            fleet.sessions.push(Session { id, cookie: endpoint.id, at: endpoint.id, moves: 0 });
        }
        fleet
    }

    /// Hears what happened in the cluster, and moves what is due.
    pub(crate) fn turn(&mut self) {
        self.hear();
        if self.table.snapshot().counts().ready == 0 {
            return;
        }
        let now = self.cluster.now().0;
        let mut due: Vec<usize> =
            self.due.iter().filter(|(_, moment)| **moment <= now).map(|(index, _)| *index).collect();
        due.sort_unstable();
        for index in due {
            let to = self.successor(&self.sessions[index], self.sessions[index].at);
            // Otherwise it waits for one.
            if let Some(to) = to {
                let session = &mut self.sessions[index];
                (session.at, session.moves) = (to, session.moves + 1);
                self.due.remove(&index);
                self.leave_late(index, to);
            }
        }
    }

    fn hear(&mut self) {
        for update in self.cluster.take_updates() {
            self.apply(update);
        }
    }

    fn apply(&mut self, update: Update) {
        let now = self.cluster.now();
        let applied = self.table.apply(update, now);
        if applied.members_changed {
            self.ring = Points::over(&applied.snapshot);
        }
        for step in applied.transitions {
            if matches!(step.to, Phase::Draining | Phase::Gone) {
                self.leave(step.endpoint.id, now.0);
            }
        }
    }

    /// The streams of an endpoint leave evenly from now on.
    fn leave(&mut self, from: EndpointId, now: u64) {
        let of = |(index, session): (usize, &Session)| (session.at == from).then_some(index);
        let leaving: Vec<usize> = self.sessions.iter().enumerate().filter_map(of).collect();
        for (place, index) in (1..).zip(&leaving) {
            let share = DRAIN_SECONDS * 1_000 * place / u64::try_from(leaving.len()).unwrap();
            self.due.entry(*index).or_insert(now + share);
        }
    }

    /// An endpoint that a stream came to may be draining itself.
    fn leave_late(&mut self, index: usize, to: EndpointId) {
        if self.table.snapshot().get(&to).is_none_or(|endpoint| endpoint.phase != Phase::Ready) {
            self.due.insert(index, self.cluster.now().0 + 1_000);
        }
    }

    /// Returns the endpoint that a client goes to that is pinned to `pin`; `None` if it stays or has nowhere to go.
    fn successor(&self, session: &Session, pin: EndpointId) -> Option<EndpointId> {
        let request = PickRequest {
            pinned: Some(pin),
            session: &session.id,
            strategy: Strategy::LeastStreams,
            stream_limit: None,
            slow_start: None,
            zone: None,
            keep: None,
            exclude: &[],
            now: self.cluster.now(),
        };
        match pick(&self.table.snapshot(), &request, &self.ring, &mut |_| 0) {
            Pick::Move(endpoint, _) => Some(endpoint.id),
            Pick::Stay(_) | Pick::Place(_) | Pick::Nowhere(_) => None,
        }
    }

    /// Returns the figures, once all is quiet.
    pub(crate) fn figures(mut self) -> Figures {
        while !self.due.is_empty() {
            self.cluster.tick();
            self.turn();
        }
        let snapshot = self.table.snapshot();
        let loads = snapshot
            .endpoints()
            .iter()
            .map(|endpoint| self.sessions.iter().filter(|session| session.at == endpoint.id).count());
        let loads: Vec<f64> = loads.map(as_f64).collect();
        let count = as_f64(self.sessions.len());
        let mean = count / as_f64(loads.len());
        let split = |session: &&Session| {
            self.successor(session, session.cookie).unwrap_or(session.cookie) != session.at
        };
        let moves: u32 = self.sessions.iter().map(|session| session.moves).sum();
        Figures {
            moves: f64::from(moves) / count,
            fullest: loads.iter().copied().fold(0.0, f64::max) / mean,
            emptiest: loads.iter().copied().fold(f64::MAX, f64::min) / mean,
            split: as_f64(self.sessions.iter().filter(split).count()) / count,
        }
    }
}

fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
