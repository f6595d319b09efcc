//! Event streams by the thousand, held open until they are closed together.
//!
//! All tasks run on one thread and share one read buffer, so that an idle stream costs this process a descriptor and
//! a few hundred bytes, and the descriptor limit of the proxy (two for each stream) is reached first.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::bail;
use tokio::io::{AsyncWriteExt, ReadBuf};
use tokio::task::JoinSet;

use super::body::Body;
use super::messages::Messages;
use super::request::{Accept, Request};
use super::stamps::Stamps;
use super::streams_h2;
use super::tally::Tally;
pub(crate) use super::tally::Wanted;
use super::target::{Target, Wire};

/// How long all streams together may take to open, at least. 9,500 take seconds; more is a proxy that lost some.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);
/// Additional time for each stream: a full TLS handshake on a machine that others use, too.
const OPEN_EACH: Duration = Duration::from_millis(4);

/// Open event streams.
#[derive(Debug)]
pub(crate) struct Streams {
    tasks: JoinSet<()>,
    tally: Rc<Tally>,
}

impl Streams {
    /// Opens the streams; done when the first event of each has come.
    ///
    /// # Errors
    /// If one of them fails or ends, or not all are open in time.
    pub(crate) async fn open(wanted: Wanted) -> anyhow::Result<Self> {
        let tally = Rc::new(Tally::new());
        let mut tasks = JoinSet::new();
        let request = Request::event_stream(&format!("/events?rate={}", wanted.rate), wanted.accept);
        let accept = wanted.accept;
        if wanted.target.protocol.is_h2() {
            streams_h2::open(&mut tasks, &wanted, &request, &tally)?;
        } else {
            let target = Rc::new(wanted.target);
            let request: Rc<str> = request.http1_head().into();
            for _ in 0..wanted.count {
                tasks.spawn_local(hold(Rc::clone(&target), Rc::clone(&request), accept, Rc::clone(&tally)));
            }
        }
        let streams = Self { tasks, tally };
        streams.wait_until_open(wanted.count).await?;
        Ok(streams)
    }

    async fn wait_until_open(&self, count: u32) -> anyhow::Result<()> {
        let tally = &self.tally;
        let all = async {
            while tally.opened.get() < count && tally.ended.get() == 0 {
                tally.changed.notified().await;
            }
        };
        let timed_out = tokio::time::timeout(open_deadline(count), all).await.is_err();
        self.check_all_open()?;
        if timed_out {
            bail!(
                "only {} of {count} streams were open after {} s",
                tally.opened.get(),
                open_deadline(count).as_secs()
            );
        }
        Ok(())
    }

    /// # Errors
    /// When a stream ended by itself.
    pub(crate) fn check_all_open(&self) -> anyhow::Result<()> {
        match self.tally.ended.get() {
            0 => Ok(()),
            ended => {
                let why = self.tally.why.borrow().clone().unwrap_or_default();
                bail!(
                    "{ended} streams ended by themselves, {} had opened; the first: {why}",
                    self.tally.opened.get()
                )
            }
        }
    }

    /// All events so far.
    pub(crate) fn events(&self) -> u64 {
        self.tally.events.get()
    }

    /// From now on the latency of each event is kept.
    pub(crate) fn keep_latencies(&self) {
        *self.tally.latencies.borrow_mut() = Some(Vec::new());
    }

    /// The latencies kept, in nanoseconds.
    pub(crate) fn take_latencies(&self) -> Vec<u64> {
        self.tally.latencies.take().unwrap_or_default()
    }

    /// Closes all connections; done when the last one is closed.
    pub(crate) async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn hold(target: Rc<Target>, request: Rc<str>, accept: Accept, tally: Rc<Tally>) {
    if let Err(error) = read_until_end(&target, &request, accept, &tally).await {
        tally.count_end(&error);
    }
}

/// Never returns without an error: a stream that ends did not stay open.
async fn read_until_end(target: &Target, request: &str, accept: Accept, tally: &Tally) -> anyhow::Result<()> {
    let permit = tally.opening.acquire().await?;
    let mut stream = target.connect().await?;
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut opening = Some(permit);
    let mut stamps = Stamps::default();
    let mut content = match accept {
        Accept::WebSocket => Content::Messages(Messages::new()),
        Accept::EventStream | Accept::Anything => Content::Events(Body::new()),
    };
    let mut status = true;
    loop {
        let length = poll_fn(|context| poll_read(&mut *stream, &tally.scratch, context)).await?;
        if length == 0 {
            bail!("the proxy ended the stream");
        }
        let scratch = tally.scratch.borrow();
        let bytes = scratch.get(..length).unwrap_or_default();
        if std::mem::take(&mut status) && !bytes.starts_with(content.status_line()) {
            bail!("refused: {}", String::from_utf8_lossy(bytes).lines().next().unwrap_or_default());
        }
        let mut any = false;
        let count = |payload: &[u8]| any |= tally.count_events(&mut stamps, payload);
        match &mut content {
            Content::Events(body) => body.feed(bytes, count)?,
            Content::Messages(messages) => messages.feed(bytes, count)?,
        }
        if any && opening.take().is_some() {
            tally.count_opened();
        }
    }
}

/// The answer of a stream.
enum Content {
    Events(Body),
    Messages(Messages),
}

impl Content {
    fn status_line(&self) -> &'static [u8] {
        match self {
            Self::Events(_) => b"HTTP/1.1 200",
            Self::Messages(_) => b"HTTP/1.1 101",
        }
    }
}

/// How long `count` streams may take to open.
pub(super) fn open_deadline(count: u32) -> Duration {
    OPEN_DEADLINE.max(OPEN_EACH * count)
}

/// Reads once into the buffer that all streams share: no other task runs between the read and the look at it.
pub(super) fn poll_read(
    stream: &mut dyn Wire,
    scratch: &RefCell<Vec<u8>>,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut scratch = scratch.borrow_mut();
    let mut buffer = ReadBuf::new(&mut scratch);
    ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}
