//! The data that the pods keep in Redis, and the commands for it. Reading the stream is left to `follow.rs`.
//!
//! ```text
//! podpin-example:events         Stream   n (number of the event), at (microseconds since 1970), text; bounded
//! podpin-example:n              String   number of the newest event
//! podpin-example:ticked         String   beginning of the newest period that has had its tick, in ms; expires
//! podpin-example:session:<id>   Hash     requests, first (microseconds since 1970); expires a day after the last one
//! ```
//!
//! Numbers without a hole let a pod see that events are missing, or that the log is another one, which ids that are
//! times cannot. They are given in a script, so that an event and its number come into being together.

use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::streams::StreamRangeReply;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, RedisError, cmd};
use tokio::sync::{Notify, watch};

use super::EventId;

/// The stream of events.
pub(super) const EVENTS: &str = "podpin-example:events";
const NUMBER: &str = "podpin-example:n";
const TICKED: &str = "podpin-example:ticked";
const SESSION: &str = "podpin-example:session:";

/// A session that is not met for so long begins anew, as `affinity.absoluteTimeout` does by default.
const SESSION_SECONDS: u64 = 24 * 3600;

/// For connecting and for an answer. Redis answers in less than a millisecond or is not there.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Keys: events, number. Arguments: entries to keep, time, text.
const APPEND: &str = "
local n = string.format('%.0f', redis.call('INCR', KEYS[2]))
return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'n', n, 'at', ARGV[2], 'text', ARGV[3])
";

/// Keys: events, number, ticked. Arguments: entries to keep, time, period in ms. Returns the ms until the next period.
const TICK: &str = "
local time = redis.call('TIME')
local now, period = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[3])
local began = now - now % period
if began > tonumber(redis.call('GET', KEYS[3]) or '0') then
    redis.call('SET', KEYS[3], string.format('%.0f', began), 'PX', 2 * period)
    local n = string.format('%.0f', redis.call('INCR', KEYS[2]))
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'n', n, 'at', ARGV[2], 'text', 'tick ' .. n)
end
return began + period - now
";

/// Why Redis did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The URL is none of Redis.
    BadUrl,
    /// A server that cannot be reached, or does not answer.
    Away,
    /// A server that answered with an error, such as `OOM` if its memory is full.
    Refused(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without the URL: it may hold a password.
            Self::BadUrl => formatter.write_str("the URL of Redis is not of the form redis://host:port"),
            Self::Away => formatter.write_str("Redis does not answer"),
            Self::Refused(why) => write!(formatter, "Redis refuses: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        match error.code() {
            Some(code) => Self::Refused(format!("{code} {}", error.detail().unwrap_or_default())),
            None => Self::Away,
        }
    }
}

/// How far a pod has come in reading the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Not once at its end yet.
    Starting,
    /// Events come as they are published.
    Reading,
    /// Working before, failing now.
    Away,
}

/// Redis' record of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meeting {
    /// Requests of the session with this one.
    pub(crate) requests: u64,
    /// The first of them, in microseconds since 1970.
    pub(crate) first: u64,
}

/// The way to Redis.
pub(crate) struct Store {
    client: Client,
    entries_max: usize,
    /// For everything but reading; `follow` brings and takes it.
    commands: RwLock<Option<MultiplexedConnection>>,
    /// Told when a command found that connection dead.
    pub(super) broken: Notify,
    pub(super) reach: watch::Sender<Reach>,
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Store").field("reach", &*self.reach.borrow()).finish_non_exhaustive()
    }
}

impl Store {
    pub(super) fn open(url: &str, entries_max: usize) -> Result<Self, StoreError> {
        let info = url.into_connection_info().map_err(|_| StoreError::BadUrl)?;
        // A command is a small write that is waited for.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self {
            client: Client::open(info).map_err(|_| StoreError::BadUrl)?,
            entries_max,
            commands: RwLock::new(None),
            broken: Notify::new(),
            reach: watch::Sender::new(Reach::Starting),
        })
    }

    /// A new connection on which an answer may take so long.
    pub(super) async fn connect(&self, patience: Duration) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_PATIENCE))
            .set_response_timeout(Some(patience));
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Sets the connection for commands from now on.
    pub(super) fn set_commands(&self, connection: Option<MultiplexedConnection>) {
        *self.commands.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    pub(super) fn is_reading(&self) -> bool {
        *self.reach.borrow() == Reach::Reading
    }

    /// Waits until the stream was read to its end once.
    pub(super) async fn started(&self) {
        // The sender lives in `self`: it cannot fail.
        drop(self.reach.subscribe().wait_for(|reach| *reach != Reach::Starting).await);
    }

    pub(super) async fn append(&self, text: &str, at_micros: u64) -> Result<EventId, StoreError> {
        let script = cmd("EVAL").arg(APPEND).arg(2).arg(EVENTS).arg(NUMBER).take();
        let id: String = self.ask(script.clone().arg(self.entries_max).arg(at_micros).arg(text)).await?;
        EventId::parse(&id).ok_or(StoreError::Refused(id))
    }

    /// Publishes the tick of this period unless another pod has; returns the time until the next period.
    pub(super) async fn tick(&self, period: Duration, at_micros: u64) -> Result<Duration, StoreError> {
        let millis = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        let script = cmd("EVAL").arg(TICK).arg(3).arg(EVENTS).arg(NUMBER).arg(TICKED).take();
        let wait: u64 = self.ask(script.clone().arg(self.entries_max).arg(at_micros).arg(millis)).await?;
        Ok(Duration::from_millis(wait))
    }

    /// Whether the stream has an event of this id.
    pub(super) async fn holds(&self, id: EventId) -> Result<bool, StoreError> {
        // Redis would read a number as all ids of that millisecond.
        let EventId::Entry(..) = id else { return Ok(false) };
        let id = id.to_string();
        let found: StreamRangeReply = self.ask(cmd("XRANGE").arg(EVENTS).arg(&id).arg(&id)).await?;
        Ok(!found.ids.is_empty())
    }

    /// Counts one request of a session, whichever pod it came to.
    pub(crate) async fn meet(&self, session: &str, now_micros: u64) -> Result<Meeting, StoreError> {
        let key = format!("{SESSION}{session}");
        let mut steps = redis::pipe();
        steps.atomic();
        steps.cmd("HSETNX").arg(&key).arg("first").arg(now_micros).ignore();
        steps.cmd("HINCRBY").arg(&key).arg("requests").arg(1);
        steps.cmd("HGET").arg(&key).arg("first");
        steps.cmd("EXPIRE").arg(&key).arg(SESSION_SECONDS).ignore();
        let mut connection = self.commands()?;
        let (requests, first) = self.judged(steps.query_async(&mut connection).await)?;
        Ok(Meeting { requests, first })
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut connection = self.commands()?;
        self.judged(command.query_async(&mut connection).await)
    }

    fn commands(&self) -> Result<MultiplexedConnection, StoreError> {
        let commands = self.commands.read().unwrap_or_else(PoisonError::into_inner);
        commands.clone().ok_or(StoreError::Away)
    }

    fn judged<T>(&self, answer: Result<T, RedisError>) -> Result<T, StoreError> {
        answer.map_err(StoreError::from).inspect_err(|error| {
            if *error == StoreError::Away {
                self.broken.notify_one();
            }
        })
    }
}
