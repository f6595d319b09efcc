//! `podpin-example pre-stop`: a pod's preStop hook that waits until podpin has moved the pod's streams away.
//!
//! It asks every replica of podpin at once, because each knows its own streams only:
//!
//! ```text
//! GET /api/drain/wait?pod=<pod>&timeout=<what is left>
//! 200 {"pod":"chat-1","streams":0}     this replica holds no stream to the pod
//! 504 {"pod":"chat-1","streams":3}     it still does, and the time is over
//! ```
//!
//! The hook is a courtesy: it never fails, and it never takes longer than `--timeout`. Without an answer it waits
//! as a `sleep` would (`--fallback`), so that a podpin that is away or too old for the question does no harm.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use podpin_example::parse_interval;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Proxies are asked to answer so long before the end that the answer still comes in time.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// A replica whose node is gone does not refuse, it is silent. Several retransmissions of a SYN, and no more.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

/// A resolver that does not answer must not use up what the streams need: glibc tries a second server after 5 s.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(6);

/// The answer has 50 bytes and a few header lines; more is none of podpin.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Wait until no podpin has a stream to this pod: a preStop hook
#[derive(Debug, clap::Args)]
pub(crate) struct PreStopArguments {
    /// Admin port of podpin; all addresses of the name are asked, as of a headless Service (may be repeated)
    #[arg(long, required = true, value_name = "HOST:PORT")]
    admin: Vec<String>,
    /// Name or uid of the pod that stops [default: POD_NAME, else the host's name]
    #[arg(long)]
    pod: Option<String>,
    /// The longest that this may take
    #[arg(long, default_value = "25s", value_parser = parse_interval)]
    timeout: Duration,
    /// Time to wait when no podpin answers, at most what is left of the timeout
    #[arg(long, default_value = "10s", value_parser = parse_interval)]
    fallback: Duration,
}

/// Waits as asked, and prints a line for each replica.
pub(crate) fn run(arguments: &PreStopArguments, default_pod: fn() -> String) -> io::Result<()> {
    let pod = arguments.pod.clone().unwrap_or_else(default_pod);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(wait(arguments, &pod));
    // A resolver that hangs is on a thread of its own, which is left behind.
    runtime.shutdown_background();
    Ok(())
}

async fn wait(arguments: &PreStopArguments, pod: &str) {
    let deadline = Instant::now() + arguments.timeout;
    let replicas = resolve(&arguments.admin, deadline).await;
    let mut questions = JoinSet::new();
    for replica in replicas {
        let pod = pod.to_owned();
        questions.spawn(async move { (replica, ask(replica, &pod, deadline).await) });
    }
    let mut answers = 0;
    while let Some(Ok((replica, outcome))) = questions.join_next().await {
        println!("{replica}: {outcome}");
        answers += u32::from(outcome.is_answer());
    }
    if answers == 0 {
        println!("no podpin answered: waiting {:?}", arguments.fallback);
        sleep_until(deadline.min(Instant::now() + arguments.fallback)).await;
    }
}

/// Every address of every name, each once. Names that cannot be resolved are said and left out.
async fn resolve(names: &[String], deadline: Instant) -> BTreeSet<SocketAddr> {
    let patience = deadline.min(Instant::now() + RESOLVE_PATIENCE);
    let mut addresses = BTreeSet::new();
    for name in names {
        match timeout_at(patience, lookup_host(name)).await {
            Ok(Ok(found)) => addresses.extend(found),
            Ok(Err(error)) => println!("{name}: {error}"),
            Err(_) => println!("{name}: the resolver does not answer"),
        }
    }
    addresses
}

/// Result of the query to one replica.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// A replica that holds no stream to the pod.
    Empty,
    /// A replica that still holds this many streams.
    Remaining(u64),
    /// Another answer with this status: an older podpin, or no podpin at all.
    Foreign(u16),
    /// No answer, for this reason.
    Silent(String),
}

impl Outcome {
    fn is_answer(&self) -> bool {
        matches!(self, Self::Empty | Self::Remaining(_))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => formatter.write_str("no streams left"),
            Self::Remaining(streams) => write!(formatter, "{streams} streams left at the timeout"),
            Self::Foreign(status) => write!(formatter, "status {status}, ignored"),
            Self::Silent(why) => write!(formatter, "{why}, ignored"),
        }
    }
}

async fn ask(replica: SocketAddr, pod: &str, deadline: Instant) -> Outcome {
    match timeout_at(deadline, exchange(replica, pod, deadline)).await {
        Ok(Ok(answer)) => outcome_of(&answer),
        Ok(Err(error)) => Outcome::Silent(error.to_string()),
        Err(_) => Outcome::Silent("no answer in time".to_owned()),
    }
}

/// Sends the question and returns all bytes of the answer.
async fn exchange(replica: SocketAddr, pod: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut connection = timeout(CONNECT_PATIENCE, TcpStream::connect(replica)).await??;
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(ANSWER_MARGIN);
    let question = format!(
        "GET /api/drain/wait?pod={}&timeout={}ms HTTP/1.1\r\nHost: {replica}\r\nConnection: close\r\n\r\n",
        encoded(pod),
        left.as_millis()
    );
    connection.write_all(question.as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES_MAX && !is_complete(&answer) {
        if connection.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(answer)
}

/// Head, and the body where the answer is whole.
fn parts(answer: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(answer).ok()?.split_once("\r\n\r\n")
}

/// Whether the body has the length that the head says; without one it goes on until the connection ends.
fn is_complete(answer: &[u8]) -> bool {
    let Some((head, body)) = parts(answer) else { return false };
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.and_then(|(_, value)| value.trim().parse::<usize>().ok()).is_some_and(|bytes| body.len() >= bytes)
}

fn outcome_of(answer: &[u8]) -> Outcome {
    let Some((head, body)) = parts(answer) else {
        return Outcome::Silent("it broke off".to_owned());
    };
    let status = head.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    let body: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let streams = body.and_then(|body| body.get("streams")?.as_u64());
    match (status, streams) {
        (Some(200), Some(0)) => Outcome::Empty,
        (Some(504), Some(streams)) => Outcome::Remaining(streams),
        (Some(other), _) => Outcome::Foreign(other),
        (None, _) => Outcome::Silent("it speaks no HTTP".to_owned()),
    }
}

/// For a query: everything but RFC 3986's unreserved characters as `%XX`. Names of pods have no other.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _written = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_what_podpin_says_and_nothing_else() {
        let table = [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 26\r\n\r\n{\"pod\":\"a\",\"streams\":0}\n\n\n\n",
                Outcome::Empty,
            ),
            ("HTTP/1.1 504 Gateway Timeout\r\n\r\n{\"pod\":\"a\",\"streams\":3}", Outcome::Remaining(3)),
            ("HTTP/1.1 504 Gateway Timeout\r\n\r\nno proxy of yours", Outcome::Foreign(504)),
            ("HTTP/1.1 200 OK\r\n\r\n<html>", Outcome::Foreign(200)),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Outcome::Foreign(404)),
            ("HTTP/1.1 200 OK\r\nconte", Outcome::Silent("it broke off".to_owned())),
            ("", Outcome::Silent("it broke off".to_owned())),
            ("SSH-2.0-x\r\n\r\n", Outcome::Silent("it speaks no HTTP".to_owned())),
        ];
        for (answer, expected) in table {
            assert_eq!(outcome_of(answer.as_bytes()), expected, "{answer:?}");
        }
    }

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let whole = "HTTP/1.1 504 X\r\nContent-Length:  4\r\n\r\nabcd";
        assert!(is_complete(whole.as_bytes()));
        for end in 0..whole.len() {
            assert!(!is_complete(&whole.as_bytes()[..end]), "{end}");
        }
        assert!(!is_complete(b"HTTP/1.1 200 OK\r\n\r\nuntil the end"));
    }

    #[test]
    fn a_name_is_one_parameter_whatever_is_in_it() {
        assert_eq!(encoded("chat-7d9f.x_~1"), "chat-7d9f.x_~1");
        assert_eq!(encoded("a&b=c d/\u{e9}%"), "a%26b%3Dc%20d%2F%C3%A9%25");
    }

    #[tokio::test]
    async fn every_address_of_every_name_is_found_once() {
        let deadline = Instant::now() + Duration::from_secs(10);
        let names = ["127.0.0.2:9901", "[::1]:9901", "no.such.name.invalid:1", "no port", "127.0.0.2:9901"];
        let found = resolve(&names.map(str::to_owned), deadline).await;
        let expected = ["127.0.0.2:9901", "[::1]:9901"].map(|one| one.parse().unwrap());
        assert_eq!(found, BTreeSet::from(expected));
    }
}
