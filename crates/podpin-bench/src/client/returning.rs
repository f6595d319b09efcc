//! Clients that come back when their stream ends, as an `EventSource` does: with their cookie and the last event id.
//!
//! Two differences to a browser's, both on purpose. The reconnection time is the benchmark's to choose, and 0 by default,
//! so that what is measured is the proxy's own time; neither a pod's nor a proxy's `retry:` is obeyed. And an answer that
//! stops a browser's `EventSource` for good (anything but a 200) is counted, but the client asks again: else there
//! would be nothing to wait for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::body::Body;
use super::event_lines::{Event, EventLines, Step};
use super::http::{parse_head, returning_request};
use super::streams::{open_deadline, poll_read};
use super::tally::{OPENING_AT_ONCE, READ_BYTES, Wanted};
use super::target::Target;
use crate::clock::now_ns;

/// The rest of a client that got no event at all before it asks again: it must not ask in a busy loop.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// A proxy that has not brought all streams back by then will not.
const RETURN_DEADLINE: Duration = Duration::from_secs(30);

/// Clients, each with one stream or on the way to one.
pub(crate) struct Returning {
    tasks: JoinSet<()>,
    clients: Vec<Rc<Client>>,
    tally: Rc<Tally>,
}

/// Counts over all clients so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// Clients that, while coming back, had another answer than a 200, none at all, or one without an event.
    pub(crate) with_error: u64,
    /// Events that never came.
    pub(crate) lost: u64,
    /// Events that came before.
    pub(crate) twice: u64,
}

#[derive(Default)]
struct Client {
    cookie: RefCell<Option<String>>,
    last: Cell<Option<Event>>,
    /// Pod that the client leaves: it counts as back with the first event of another pod.
    leaves: Cell<Option<u16>>,
    had_error: Cell<bool>,
    /// Told to close its stream and to open it again.
    renew: Notify,
}

/// The port of no pod: an event of any counts.
const NO_POD: u16 = 0;

/// Counters that all clients share.
struct Tally {
    opened: Cell<u32>,
    opening: Semaphore,
    /// The first thing that went wrong while opening or coming back.
    why: RefCell<Option<String>>,
    /// Streams that ended, by the pod that they had last.
    ended: RefCell<BTreeMap<u16, u64>>,
    lost: Cell<u64>,
    twice: Cell<u64>,
    /// Clients that have still to come back, and when the last one did.
    away: Cell<u64>,
    back_at_ns: Cell<u64>,
    changed: Notify,
    scratch: RefCell<Vec<u8>>,
}

impl Returning {
    /// Opens the streams; done when the first event of each has come. `delay` is the reconnection time.
    ///
    /// # Errors
    /// When a client has to ask twice, or not all streams are open in time.
    pub(crate) async fn open(wanted: Wanted, delay: Duration) -> anyhow::Result<Self> {
        let count = wanted.count;
        let tally = Rc::new(Tally::new());
        let target = Rc::new(wanted.target);
        let path: Rc<str> = format!("/events?rate={}", wanted.rate).into();
        let clients: Vec<Rc<Client>> = (0..count).map(|_| Rc::default()).collect();
        let mut tasks = JoinSet::new();
        for client in &clients {
            let life = Life {
                target: Rc::clone(&target),
                path: Rc::clone(&path),
                client: Rc::clone(client),
                tally: Rc::clone(&tally),
            };
            tasks.spawn_local(life.live(delay));
        }
        let opened = async {
            while tally.opened.get() < count && tally.why.borrow().is_none() {
                tally.changed.notified().await;
            }
        };
        let in_time = tokio::time::timeout(open_deadline(count), opened).await.is_ok();
        if let Some(why) = &*tally.why.borrow() {
            bail!("a stream does not open: {why}");
        }
        if !in_time {
            bail!("only {} of {count} streams are open in time", tally.opened.get());
        }
        Ok(Self { tasks, clients, tally })
    }

    /// How many had their last event from the pod at this port.
    pub(crate) fn at(&self, pod: u16) -> u64 {
        self.clients.iter().filter(|client| client.pod() == Some(pod)).count() as u64
    }

    /// The cookies of those.
    pub(crate) fn cookies_at(&self, pod: u16) -> Vec<String> {
        let there = self.clients.iter().filter(|client| client.pod() == Some(pod));
        there.filter_map(|client| client.cookie.borrow().clone()).collect()
    }

    /// From now on those who are at `pod` have to come back from it.
    pub(crate) fn expect_back_from(&self, pod: u16) {
        for client in self.clients.iter().filter(|client| client.pod() == Some(pod)) {
            client.leaves.set(Some(pod));
        }
        self.tally.away.set(self.at(pod));
    }

    /// Some clients, every `stride`-th from `first` on, close their streams and come again; done when each has had an event.
    ///
    /// # Errors
    /// When they are not back within half a minute.
    pub(crate) async fn renew(&self, first: usize, stride: usize) -> anyhow::Result<()> {
        let mut away = 0;
        for client in self.clients.iter().skip(first).step_by(stride) {
            client.leaves.set(Some(NO_POD));
            client.renew.notify_one();
            away += 1;
        }
        self.tally.away.set(away);
        self.all_back().await.map(drop)
    }

    /// Done when each has had an event of another pod; gives the moment of the last one's (`clock.rs`).
    ///
    /// # Errors
    /// When they are not back within half a minute.
    pub(crate) async fn all_back(&self) -> anyhow::Result<u64> {
        let tally = &self.tally;
        let back = async {
            while tally.away.get() > 0 {
                tally.changed.notified().await;
            }
        };
        if tokio::time::timeout(RETURN_DEADLINE, back).await.is_err() {
            let why = tally.why.borrow().clone().unwrap_or_default();
            bail!("{} streams are not back after {} s: {why}", tally.away.get(), RETURN_DEADLINE.as_secs());
        }
        Ok(tally.back_at_ns.get())
    }

    /// Streams that ended so far whose last event was of a pod that `chosen` picks.
    pub(crate) fn ended(&self, chosen: impl Fn(u16) -> bool) -> u64 {
        self.tally.ended.borrow().iter().filter(|(pod, _)| chosen(**pod)).map(|(_, count)| count).sum()
    }

    /// Returns the counts so far.
    pub(crate) fn counts(&self) -> Counts {
        let with_error = self.clients.iter().filter(|client| client.had_error.get()).count() as u64;
        Counts { with_error, lost: self.tally.lost.get(), twice: self.tally.twice.get() }
    }

    /// The first thing that went wrong.
    pub(crate) fn first_error(&self) -> Option<String> {
        self.tally.why.borrow().clone()
    }

    /// Closes all connections; done when the last one is closed.
    pub(crate) async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Client {
    fn pod(&self) -> Option<u16> {
        self.last.get().map(|event| event.pod)
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            opened: Cell::new(0),
            opening: Semaphore::new(OPENING_AT_ONCE),
            why: RefCell::new(None),
            ended: RefCell::default(),
            lost: Cell::new(0),
            twice: Cell::new(0),
            away: Cell::new(0),
            back_at_ns: Cell::new(0),
            changed: Notify::new(),
            scratch: RefCell::new(vec![0; READ_BYTES]),
        }
    }

    fn count(&self, client: &Client, event: Event) {
        match client.last.replace(Some(event)) {
            None => {
                self.opened.set(self.opened.get() + 1);
                self.changed.notify_one();
            }
            Some(last) => match Step::between(Some(last.id), event.id) {
                Step::Next => {}
                Step::Gap(lost) => self.lost.set(self.lost.get() + lost),
                Step::Back => self.twice.set(self.twice.get() + 1),
            },
        }
        if client.leaves.get().is_some_and(|pod| pod != event.pod) {
            client.leaves.set(None);
            self.away.set(self.away.get().saturating_sub(1));
            self.back_at_ns.set(now_ns());
            self.changed.notify_one();
        }
    }
}

/// How one visit ended.
enum End {
    /// By the client itself.
    Left,
    /// After an event at least.
    Lost,
    /// Without an event, and why.
    Refused(anyhow::Error),
}

/// The task of a client.
struct Life {
    target: Rc<Target>,
    path: Rc<str>,
    client: Rc<Client>,
    tally: Rc<Tally>,
}

impl Life {
    async fn live(self, delay: Duration) {
        loop {
            match self.visit().await {
                End::Left => {}
                End::Lost => {
                    if let Some(pod) = self.client.pod() {
                        *self.tally.ended.borrow_mut().entry(pod).or_default() += 1;
                    }
                    tokio::time::sleep(delay).await;
                }
                End::Refused(why) => {
                    self.client.had_error.set(true);
                    self.tally.why.borrow_mut().get_or_insert_with(|| format!("{why:#}"));
                    self.tally.changed.notify_one();
                    tokio::time::sleep(delay.max(AFTER_ERROR)).await;
                }
            }
        }
    }

    async fn visit(&self) -> End {
        let mut had_event = false;
        let outcome = tokio::select! {
            // First, so that no event of the stream to be closed counts as one of the next.
            biased;
            () = self.client.renew.notified() => return End::Left,
            outcome = self.follow(&mut had_event) => outcome,
        };
        match outcome {
            _ if had_event => End::Lost,
            Ok(()) => End::Refused(anyhow::anyhow!("an answer without an event")),
            Err(error) => End::Refused(error),
        }
    }

    /// Sends a request and reads its response to the end.
    async fn follow(&self, had_event: &mut bool) -> anyhow::Result<()> {
        // A crowd is let in slowly; who comes back comes at once.
        let last_id = self.client.last.get().map(|event| event.id);
        let mut permit = match last_id {
            None => Some(self.tally.opening.acquire().await?),
            Some(_) => None,
        };
        let request = returning_request(&self.path, self.client.cookie.borrow().as_deref(), last_id);
        let mut wire = self.target.connect().await?;
        wire.write_all(request.as_bytes()).await?;
        wire.flush().await?;
        let mut head = Some(Vec::new());
        let mut body = Body::new();
        let mut lines = EventLines::default();
        while !body.is_over() {
            let length = poll_fn(|context| poll_read(&mut *wire, &self.tally.scratch, context)).await?;
            if length == 0 {
                bail!("the connection was closed");
            }
            let scratch = self.tally.scratch.borrow();
            let bytes = scratch.get(..length).unwrap_or_default();
            if let Some(so_far) = &mut head {
                so_far.extend_from_slice(bytes);
                if self.accept(so_far)? {
                    head = None;
                }
            }
            body.feed(bytes, |payload| {
                lines.feed(payload, |event| {
                    *had_event = true;
                    permit = None;
                    self.tally.count(&self.client, event);
                });
            })?;
        }
        Ok(())
    }

    /// Whether the head is complete; keeps its cookie.
    fn accept(&self, bytes: &[u8]) -> anyhow::Result<bool> {
        let Some(head) = parse_head(bytes)? else { return Ok(false) };
        if head.status != 200 {
            bail!("status {}", head.status);
        }
        if head.content_length.is_some() {
            bail!("an answer of a fixed length: {:?}", String::from_utf8_lossy(bytes));
        }
        if let Some(cookie) = head.cookie {
            *self.client.cookie.borrow_mut() = Some(cookie);
        }
        Ok(true)
    }
}
