//! Drives the demo's clients: opens their streams, reconnects every one of them once unless something else is to be seen,
//! adds up what they saw.
//!
//! ```text
//! Streaming --halfway--> Again --end of time--> Finishing(newest id) --(all have it, or patience)--> Abandoned
//! ```
//!
//! Events stop at the end of time; a client is done when it has the newest one. So an event that got lost anywhere
//! is found, also the last one.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use podpin_example::{Log, publish_ticks};
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::client::{Event, EventStream, Memory};
use super::herd::Arrivals;
use super::latency::Latencies;
use super::report::{Report, thousands};

/// Streams opened at the same time: below any listen backlog, so that no client waits for a retransmitted SYN.
const OPENING_MAX: usize = 64;

/// For an answer and its greeting; above any connect or retry of the proxy.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);

/// Before a client tries again after a failure; a browser would wait for its `retry`.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// For the last events to arrive. Milliseconds are enough unless the machine is overloaded.
const FINISHING_PATIENCE: Duration = Duration::from_secs(10);

/// The load to generate.
pub(super) struct Plan {
    pub(super) address: SocketAddr,
    pub(super) clients: usize,
    /// `None` if it runs until interrupted.
    pub(super) run_time: Option<Duration>,
    pub(super) halfway: Halfway,
    pub(super) tick: Duration,
    pub(super) quiet: bool,
}

/// The change of the clients when half of the time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halfway {
    ComeAgain,
    /// The same, when they are told to, counted by the second.
    ComeAsHerd,
    Stay,
}

/// Runs the plan to its end or until `interrupted`, and adds up what the clients saw.
pub(super) async fn drive(
    plan: &Plan,
    log: Arc<Log>,
    interrupted: impl Future<Output = std::io::Result<()>>,
) -> anyhow::Result<Report> {
    let phase = watch::Sender::new(Phase::Streaming);
    let scene = Arc::new(Scene::new(plan.address, plan.halfway));
    let mut clients = JoinSet::new();
    for _ in 0..plan.clients {
        clients.spawn(Client::new(Arc::clone(&scene)).run(phase.subscribe()));
    }
    let begun = Instant::now();
    tokio::select! {
        _ = publish_ticks(Arc::clone(&log), plan.tick) => {}
        () = pass_time(plan, &scene, &phase) => {}
        () = show_progress(plan, &scene) => {}
        interrupted = interrupted => interrupted?,
    }
    let run_time = begun.elapsed();
    let newest = log.newest();
    phase.send_replace(Phase::Finishing(newest));
    let outcomes = gather(clients, &phase).await;
    end_progress(plan);
    Ok(sum_up(plan, run_time, newest, &outcomes, &scene))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Streaming,
    /// Every client reconnects once.
    Again,
    /// A client ends when it has the event with this id.
    Finishing(u64),
    /// A client ends where it is.
    Abandoned,
}

async fn pass_time(plan: &Plan, scene: &Scene, phase: &watch::Sender<Phase>) {
    let Some(run_time) = plan.run_time else {
        return std::future::pending().await;
    };
    tokio::time::sleep(run_time / 2).await;
    match plan.halfway {
        Halfway::ComeAgain => drop(phase.send_replace(Phase::Again)),
        Halfway::ComeAsHerd => {
            scene.arrivals.begin();
            phase.send_replace(Phase::Again);
        }
        Halfway::Stay => {}
    }
    tokio::time::sleep(run_time - run_time / 2).await;
}

async fn gather(mut clients: JoinSet<Outcome>, phase: &watch::Sender<Phase>) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(clients.len());
    let patience = tokio::time::sleep(FINISHING_PATIENCE);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            ended = clients.join_next() => match ended {
                Some(Ok(outcome)) => outcomes.push(outcome),
                // A client that panicked has no outcome and is missed in the sum.
                Some(Err(error)) => tracing::error!(%error, "a client of the demo failed"),
                None => return outcomes,
            },
            () = &mut patience, if *phase.borrow() != Phase::Abandoned => {
                phase.send_replace(Phase::Abandoned);
            }
        }
    }
}

/// State that all clients share.
struct Scene {
    address: SocketAddr,
    opening: Semaphore,
    streams: AtomicUsize,
    events: AtomicU64,
    latencies: Latencies,
    arrivals: Arrivals,
    /// Whether clients come back when they are told to, instead of at once.
    heeds_retry: bool,
}

impl Scene {
    fn new(address: SocketAddr, halfway: Halfway) -> Self {
        Self {
            address,
            arrivals: Arrivals::new(),
            heeds_retry: halfway == Halfway::ComeAsHerd,
            opening: Semaphore::new(OPENING_MAX),
            streams: AtomicUsize::new(0),
            events: AtomicU64::new(0),
            latencies: Latencies::new(),
        }
    }
}

/// The observations of one client.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The pod that served it last; `None` if it never had a stream.
    pub(super) pod: Option<String>,
    pub(super) session: Option<String>,
    /// Comebacks to the same pod and session.
    pub(super) pins_kept: u64,
    /// Comebacks to another pod, with a reason given by the proxy.
    pub(super) pins_moved: u64,
    /// Comebacks to another pod or session without one.
    pub(super) pins_lost: u64,
    /// Streams that ended without the client's wish.
    pub(super) cuts: u64,
    /// Times that an open stream went on at another pod.
    pub(super) moves: u64,
    /// The longest time between two events, and that between two of different pods.
    pub(super) pause: Duration,
    pub(super) pause_at_move: Duration,
    pub(super) events: u64,
    /// Events that never came.
    pub(super) gaps: u64,
    pub(super) duplicates: u64,
    pub(super) last_id: u64,
    /// Why the last attempt failed.
    pub(super) failure: Option<String>,
}

struct Client {
    scene: Arc<Scene>,
    memory: Memory,
    /// Events up to here were published before the stream opened; their age is not a latency.
    replayed_until: u64,
    last_event: Option<Instant>,
    /// Since the last event.
    has_moved: bool,
    has_come_again: bool,
    outcome: Outcome,
}

/// Why a client left its stream.
enum Leave {
    ToComeAgain,
    ForGood,
    Cut,
}

#[derive(Deserialize)]
struct Hello {
    pod: String,
    session: Option<String>,
    repinned: Option<String>,
    newest: u64,
}

#[derive(Deserialize)]
struct Tick {
    n: u64,
    pod: String,
    at: u64,
}

impl Client {
    fn new(scene: Arc<Scene>) -> Self {
        let (memory, outcome) = (Memory::default(), Outcome::default());
        Self {
            scene,
            memory,
            replayed_until: 0,
            last_event: None,
            has_moved: false,
            has_come_again: false,
            outcome,
        }
    }

    async fn run(mut self, phase: watch::Receiver<Phase>) -> Outcome {
        let mut abandoned = phase.clone();
        tokio::select! {
            () = self.come_and_go(phase) => {}
            _ = abandoned.wait_for(|phase| *phase == Phase::Abandoned) => {}
        }
        self.outcome.last_id = self.memory.last_event_id.unwrap_or_default();
        self.outcome
    }

    async fn come_and_go(&mut self, mut phase: watch::Receiver<Phase>) {
        loop {
            match self.open().await {
                Ok(mut stream) => {
                    self.outcome.failure = None;
                    self.scene.streams.fetch_add(1, Ordering::Relaxed);
                    if self.has_come_again {
                        self.scene.arrivals.count_served();
                    }
                    let leave = self.listen(&mut stream, &mut phase).await;
                    self.scene.streams.fetch_sub(1, Ordering::Relaxed);
                    self.memory.retry = stream.retry.or(self.memory.retry);
                    match leave {
                        Ok(Leave::ToComeAgain) if self.scene.heeds_retry => {
                            drop(stream);
                            self.wait_as_told().await;
                            continue;
                        }
                        Ok(Leave::ToComeAgain) => continue,
                        Ok(Leave::ForGood) => return,
                        Ok(Leave::Cut) => {}
                        Err(error) => self.outcome.failure = Some(format!("{error:#}")),
                    }
                    self.outcome.cuts += 1;
                }
                Err(error) => self.outcome.failure = Some(format!("{error:#}")),
            }
            self.wait_as_told().await;
        }
    }

    /// Waits before the next attempt: as long as the proxy said where that is to be seen.
    async fn wait_as_told(&self) {
        let told = self.memory.retry.filter(|_| self.scene.heeds_retry);
        tokio::time::sleep(told.unwrap_or(RETRY_PAUSE)).await;
    }

    async fn open(&mut self) -> anyhow::Result<EventStream> {
        let scene = Arc::clone(&self.scene);
        let _opening = scene.opening.acquire().await?;
        tokio::time::timeout(OPENING_PATIENCE, self.greeted_stream()).await.context("no answer")?
    }

    /// The greeting belongs to opening: from there on the client knows what it must not miss.
    async fn greeted_stream(&mut self) -> anyhow::Result<EventStream> {
        let mut stream = EventStream::open(self.scene.address, &mut self.memory).await?;
        let greeting = stream.next().await?;
        self.memory.retry = stream.retry.or(self.memory.retry);
        if greeting.is_none() && self.has_come_again {
            self.scene.arrivals.count_told();
        }
        let greeting = greeting.context("the stream ended before its greeting")?;
        if greeting.kind == "hello" {
            self.on_hello(serde_json::from_str(&greeting.data)?);
        }
        Ok(stream)
    }

    async fn listen(
        &mut self,
        stream: &mut EventStream,
        phase: &mut watch::Receiver<Phase>,
    ) -> anyhow::Result<Leave> {
        loop {
            let now = *phase.borrow_and_update();
            match now {
                Phase::Again if !self.has_come_again => {
                    self.has_come_again = true;
                    return Ok(Leave::ToComeAgain);
                }
                Phase::Finishing(newest) if self.memory.last_event_id >= Some(newest) => {
                    return Ok(Leave::ForGood);
                }
                Phase::Abandoned => return Ok(Leave::ForGood),
                Phase::Streaming | Phase::Again | Phase::Finishing(_) => {}
            }
            tokio::select! {
                event = stream.next() => match event? {
                    Some(event) => self.on_event(&event)?,
                    None => return Ok(Leave::Cut),
                },
                _ = phase.changed() => {}
            }
        }
    }

    fn on_event(&mut self, event: &Event) -> anyhow::Result<()> {
        match event.kind.as_str() {
            // A greeting in the middle is that of another pod, which goes on with the stream.
            "hello" => {
                let hello: Hello = serde_json::from_str(&event.data)?;
                self.replayed_until = hello.newest;
                self.move_to(hello.pod);
            }
            "message" => self.on_tick(serde_json::from_str(&event.data)?),
            // A `reset` is followed by the history: the ids tell what is missing.
            _ => {}
        }
        Ok(())
    }

    fn on_hello(&mut self, hello: Hello) {
        let outcome = &mut self.outcome;
        if outcome.pod.is_some() {
            let kept = outcome.pod.as_ref() == Some(&hello.pod) && outcome.session == hello.session;
            match hello.repinned {
                _ if kept => outcome.pins_kept += 1,
                Some(_) if outcome.session == hello.session => outcome.pins_moved += 1,
                _ => outcome.pins_lost += 1,
            }
        }
        outcome.pod = Some(hello.pod);
        outcome.session = hello.session;
        self.memory.last_event_id.get_or_insert(hello.newest);
        self.replayed_until = hello.newest;
    }

    fn move_to(&mut self, pod: String) {
        let moved = self.outcome.pod.as_ref().is_some_and(|before| *before != pod);
        self.outcome.moves += u64::from(moved);
        self.has_moved |= moved;
        self.outcome.pod = Some(pod);
    }

    fn on_tick(&mut self, tick: Tick) {
        self.move_to(tick.pod);
        let outcome = &mut self.outcome;
        let last = self.memory.last_event_id.unwrap_or_default();
        if tick.n <= last {
            outcome.duplicates += 1;
            return;
        }
        outcome.gaps += tick.n - last - 1;
        outcome.events += 1;
        let now = Instant::now();
        let before = self.last_event.replace(now).unwrap_or(now);
        let pause = now - before;
        outcome.pause = outcome.pause.max(pause);
        if std::mem::take(&mut self.has_moved) {
            outcome.pause_at_move = outcome.pause_at_move.max(pause);
        }
        self.memory.last_event_id = Some(tick.n);
        self.scene.events.fetch_add(1, Ordering::Relaxed);
        if tick.n > self.replayed_until {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.scene.latencies.count(now.saturating_sub(Duration::from_micros(tick.at)));
        }
    }
}

fn sum_up(plan: &Plan, run_time: Duration, newest: u64, outcomes: &[Outcome], scene: &Scene) -> Report {
    let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    let longest = |pause: fn(&Outcome) -> Duration| outcomes.iter().map(pause).max().unwrap_or_default();
    let mut streams_per_pod = BTreeMap::new();
    for pod in outcomes.iter().filter_map(|outcome| outcome.pod.clone()) {
        *streams_per_pod.entry(pod).or_insert(0) += 1;
    }
    let served: usize = streams_per_pod.values().sum();
    let missed_at_the_end = outcomes.iter().filter(|outcome| outcome.pod.is_some());
    Report {
        run_time,
        clients: plan.clients,
        clients_never_served: plan.clients - served,
        streams_per_pod,
        pins_kept: sum(|outcome| outcome.pins_kept),
        pins_moved: sum(|outcome| outcome.pins_moved),
        pins_lost: sum(|outcome| outcome.pins_lost),
        cuts: sum(|outcome| outcome.cuts),
        moves: sum(|outcome| outcome.moves),
        pause: longest(|outcome| outcome.pause),
        pause_at_move: longest(|outcome| outcome.pause_at_move),
        tick: plan.tick,
        changes: None,
        curve: scene.arrivals.curve(),
        events: sum(|outcome| outcome.events),
        gaps: sum(|outcome| outcome.gaps)
            + missed_at_the_end.map(|outcome| newest.saturating_sub(outcome.last_id)).sum::<u64>(),
        duplicates: sum(|outcome| outcome.duplicates),
        latency_p50: scene.latencies.percentile(50),
        latency_p99: scene.latencies.percentile(99),
        failure: outcomes.iter().find_map(|outcome| outcome.failure.clone()),
    }
}

/// Prints a line a second on standard error; on a terminal it is always the same one.
async fn show_progress(plan: &Plan, scene: &Scene) {
    if plan.quiet {
        return std::future::pending().await;
    }
    let (before, after) = if std::io::stderr().is_terminal() { ("\r\x1b[K", "") } else { ("", "\n") };
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.tick().await;
    for second in 1_u64.. {
        seconds.tick().await;
        let line = progress_line(plan, scene, second);
        // Progress that cannot be shown is no reason to stop.
        write!(std::io::stderr().lock(), "{before}{line}{after}").ok();
    }
}

fn progress_line(plan: &Plan, scene: &Scene, second: u64) -> String {
    let of = plan.run_time.map_or(String::new(), |run_time| format!("/{}", run_time.as_secs()));
    let streams = scene.streams.load(Ordering::Relaxed);
    let events = thousands(scene.events.load(Ordering::Relaxed));
    let p50 =
        scene.latencies.percentile(50).map_or(String::new(), |latency| format!(", latency p50 {latency}"));
    format!("{second:>4}{of} s  {streams} of {} streams open, {events} events{p50}", plan.clients)
}

fn end_progress(plan: &Plan) {
    if !plan.quiet && std::io::stderr().is_terminal() {
        write!(std::io::stderr().lock(), "\r\x1b[K").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client::new(Arc::new(Scene::new(([127, 0, 0, 1], 1).into(), Halfway::ComeAgain)))
    }

    fn hello(pod: &str, session: &str, repinned: Option<&str>) -> Hello {
        Hello {
            pod: pod.into(),
            session: Some(session.into()),
            repinned: repinned.map(Into::into),
            newest: 10,
        }
    }

    #[test]
    fn a_comeback_keeps_moves_or_loses_the_pin() {
        let mut client = client();
        client.on_hello(hello("pod-a", "s1", None));
        let comebacks = [
            (hello("pod-a", "s1", None), (1, 0, 0)),
            (hello("pod-b", "s1", Some("gone")), (1, 1, 0)),
            (hello("pod-b", "s1", Some("gone")), (2, 1, 0)),
            (hello("pod-c", "s1", None), (2, 1, 1)),
            (hello("pod-c", "s2", None), (2, 1, 2)),
            (hello("pod-a", "s3", Some("gone")), (2, 1, 3)),
        ];
        for (hello, expected) in comebacks {
            client.on_hello(hello);
            let outcome = &client.outcome;
            assert_eq!((outcome.pins_kept, outcome.pins_moved, outcome.pins_lost), expected);
        }
    }

    #[test]
    fn missing_and_repeated_ids_are_counted_from_the_greeting_on() {
        let mut client = client();
        client.on_hello(hello("pod-a", "s1", None));
        for n in [11, 12, 15, 15, 14, 16] {
            client.on_tick(Tick { n, pod: "pod-a".into(), at: 0 });
        }
        let outcome = &client.outcome;
        assert_eq!((outcome.events, outcome.gaps, outcome.duplicates), (4, 2, 2));
        let mut client = self::client();
        client.on_hello(hello("pod-a", "s1", None));
        client.on_tick(Tick { n: 12, pod: "pod-a".into(), at: 0 });
        assert_eq!(client.outcome.gaps, 1, "the first event after the greeting is missing");
    }

    #[test]
    fn a_stream_that_goes_on_at_another_pod_has_moved_once_however_it_is_told() {
        let mut client = client();
        client.on_hello(hello("pod-a", "s1", None));
        let tick = |n, pod: &str| Tick { n, pod: pod.into(), at: 0 };
        client.on_tick(tick(11, "pod-a"));
        // By a greeting and events, and by events alone.
        let greeting = |pod: &str| Event {
            kind: "hello".to_owned(),
            data: format!("{{\"pod\":\"{pod}\",\"repinned\":\"draining\",\"newest\":11}}"),
        };
        client.on_event(&greeting("pod-b")).unwrap();
        client.on_tick(tick(12, "pod-b"));
        client.on_tick(tick(13, "pod-c"));
        client.on_event(&greeting("pod-c")).unwrap();
        let outcome = &client.outcome;
        assert_eq!((outcome.moves, outcome.gaps, outcome.duplicates), (2, 0, 0));
        assert_eq!((outcome.pins_kept, outcome.pins_moved, outcome.pins_lost), (0, 0, 0), "no comeback");
    }

    #[test]
    fn the_longest_pause_between_two_events_is_kept() {
        let mut client = client();
        client.on_hello(hello("pod-a", "s1", None));
        let tick = |n| Tick { n, pod: "pod-a".into(), at: 0 };
        client.on_tick(tick(11));
        assert_eq!(client.outcome.pause, Duration::ZERO);
        let second_before =
            |client: &mut Client| client.last_event = Instant::now().checked_sub(Duration::from_secs(1));
        second_before(&mut client);
        client.on_tick(tick(12));
        let pause = client.outcome.pause;
        assert!(pause >= Duration::from_secs(1), "{pause:?}");
        client.on_tick(tick(13));
        assert_eq!(client.outcome.pause, pause);
        assert_eq!(client.outcome.pause_at_move, Duration::ZERO);
        second_before(&mut client);
        client.on_tick(Tick { n: 14, pod: "pod-b".into(), at: 0 });
        let at_move = client.outcome.pause_at_move;
        assert!(at_move >= Duration::from_secs(1), "{at_move:?}");
        second_before(&mut client);
        client.on_tick(Tick { n: 15, pod: "pod-b".into(), at: 0 });
        assert_eq!(client.outcome.pause_at_move, at_move);
    }

    #[test]
    fn events_missing_at_the_end_and_clients_never_served_count() {
        let plan = Plan {
            address: ([127, 0, 0, 1], 1).into(),
            clients: 3,
            run_time: None,
            halfway: Halfway::ComeAgain,
            tick: Duration::from_secs(1),
            quiet: true,
        };
        let served = |last_id| Outcome { pod: Some("pod-a".into()), last_id, ..Outcome::default() };
        let report = |outcomes: &[Outcome]| {
            sum_up(&plan, Duration::from_secs(1), 20, outcomes, &Scene::new(plan.address, plan.halfway))
        };
        let whole = report(&[served(20), served(20), served(21)]);
        assert_eq!((whole.gaps, whole.clients_never_served), (0, 0));
        let lacking = report(&[served(20), served(17), Outcome::default()]);
        assert_eq!((lacking.gaps, lacking.clients_never_served), (3, 1));
        assert_eq!(lacking.streams_per_pod, BTreeMap::from([("pod-a".to_owned(), 2)]));
    }
}
