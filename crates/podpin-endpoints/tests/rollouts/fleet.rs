//! Two thousand streams on the pods of a cluster, and how they fare.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use podpin_endpoints::{
    DrainTimes, EndpointId, HeirPolicy, Phase, Pick, PickRequest, Ring, Snapshot, Strategy, Table, Update,
    pick,
};

use crate::cluster::{Cluster, DRAIN_SECONDS, SPREAD_SECONDS, mixed};

const SESSIONS: u64 = 2_000;

/// Seconds between two requests of a client that sends any.
const REQUEST_SECONDS: u64 = 5;

/// Points of an endpoint on the ring, as many as ketama has.
const POINTS: u64 = 160;

/// The rule by which streams of a leaving pod find another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// The ring, as without generations.
    Ring,
    /// Heirs that are never awaited.
    HeirsAtOnce,
    /// Heirs, and departures held while they are awaited.
    Heirs,
}

/// A client with one stream. Every other one sends requests as well, which another replica answers.
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
    /// The draining endpoints, with the streams that have to leave.
    leaving: BTreeMap<EndpointId, Leaving>,
}

/// The streams of an endpoint that have to leave, by their places in `sessions`.
struct Leaving {
    since: u64,
    /// The second in which the first one left; `None` if none has.
    began: Option<u64>,
    streams: VecDeque<usize>,
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
        let timeout = Duration::from_secs(DRAIN_SECONDS);
        // A drain that needs all of its time cannot wait.
        let spread = if law == Law::HeirsAtOnce { timeout } else { Duration::from_secs(SPREAD_SECONDS) };
        let times = DrainTimes { spread, timeout, margin: Duration::ZERO };
        let lifetime = Duration::from_secs(86_400);
        table.keep_heirs((law != Law::Ring).then_some(HeirPolicy { lifetime, namesakes: false, times }));
        let (ring, sessions, leaving) = (Points::default(), Vec::new(), BTreeMap::new());
        let mut fleet = Fleet { cluster, table, ring, sessions, leaving };
        fleet.hear();
        let snapshot = fleet.table.snapshot();
        for (number, endpoint) in (0..SESSIONS).zip(snapshot.endpoints().iter().cycle()) {
            let id = [mixed(number), mixed(number + SESSIONS)].map(u64::to_be_bytes).concat();
            let id = id.try_into().unwrap();
            fleet.sessions.push(Session { id, cookie: endpoint.id, at: endpoint.id, moves: 0 });
        }
        fleet
    }

    /// Hears what happened in the cluster, answers requests, and moves what is due.
    pub(crate) fn turn(&mut self) {
        self.hear();
        self.request();
        if self.table.snapshot().counts().ready == 0 {
            return;
        }
        let second = self.cluster.second;
        let ids: Vec<EndpointId> = self.leaving.keys().copied().collect();
        for id in ids {
            let is_held = self.table.snapshot().held_until(&id, self.cluster.now()).is_some();
            let Some(leaving) = self.leaving.get_mut(&id).filter(|_| !is_held) else { continue };
            let began = *leaving.began.get_or_insert(second);
            let ends = (began + SPREAD_SECONDS).min(leaving.since + DRAIN_SECONDS);
            let seconds = usize::try_from(ends.saturating_sub(second).max(1)).unwrap();
            let count = leaving.streams.len().div_ceil(seconds);
            let due: Vec<usize> = leaving.streams.drain(..count).collect();
            for index in due {
                self.depart(index);
            }
        }
        self.leaving.retain(|_, leaving| !leaving.streams.is_empty());
    }

    /// Moves a stream.
    fn depart(&mut self, index: usize) {
        let from = self.sessions[index].at;
        let Some(to) = self.successor(&self.sessions[index], from) else {
            // It waits for one.
            return self.leave_late(index, from);
        };
        let is_back = self.table.snapshot().get(&from).is_none();
        let session = &mut self.sessions[index];
        (session.at, session.moves) = (to, session.moves + 1);
        if is_back {
            // Its pod is gone: the client has come back by itself.
            session.cookie = to;
        }
        if self.table.snapshot().get(&to).is_none_or(|endpoint| endpoint.phase != Phase::Ready) {
            self.leave_late(index, to);
        }
    }

    /// Answers a request of some clients that send any, and writes their cookies anew.
    fn request(&mut self) {
        let turn = usize::try_from(self.cluster.second % REQUEST_SECONDS).unwrap();
        for index in (turn..self.sessions.len()).step_by(2 * usize::try_from(REQUEST_SECONDS).unwrap()) {
            let session = &self.sessions[index];
            if let Some(to) = self.successor(session, session.cookie) {
                self.sessions[index].cookie = to;
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
                self.leave(step.endpoint.id);
            }
        }
    }

    /// The streams of an endpoint leave from now on.
    fn leave(&mut self, from: EndpointId) {
        let of = |(index, session): (usize, &Session)| (session.at == from).then_some(index);
        let all: Vec<usize> = self.sessions.iter().enumerate().filter_map(of).collect();
        for index in all {
            self.leave_late(index, from);
        }
    }

    /// A stream leaves with the others of its endpoint.
    fn leave_late(&mut self, index: usize, from: EndpointId) {
        let since = self.cluster.second;
        let new = || Leaving { since, began: None, streams: VecDeque::new() };
        let streams = &mut self.leaving.entry(from).or_insert_with(new).streams;
        if !streams.contains(&index) {
            streams.push_back(index);
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
        while !self.leaving.is_empty() {
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
