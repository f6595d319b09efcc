//! `podpin-example pre-stop` against scripted admin ports on several addresses of the loopback.
#![expect(clippy::unwrap_used, reason = "these helpers serve tests only, where a panic is the report")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use podpin_testkit::{Process, in_time, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 28\r\n\r\n{\"pod\":\"chat-1\",\"streams\":0}";
const THREE_LEFT: &str =
    "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 28\r\n\r\n{\"pod\":\"chat-1\",\"streams\":3}";

/// The admin port of one replica, which answers when the test says so.
struct Replica(TcpListener);

impl Replica {
    async fn on(address: &str) -> Replica {
        Replica(TcpListener::bind(address).await.unwrap())
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    /// The next question: its connection and its head.
    async fn question(&self) -> (TcpStream, String) {
        let (mut connection, _) = in_time("a question", self.0.accept()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(in_time("its head", connection.read_buf(&mut head)).await.unwrap() > 0);
        }
        (connection, String::from_utf8(head).unwrap())
    }

    async fn answer(&self, answer: &str) -> String {
        let (mut connection, head) = self.question().await;
        connection.write_all(answer.as_bytes()).await.unwrap();
        head
    }
}

/// Returns an address without a listener.
async fn nobody() -> String {
    Replica::on("127.0.0.1:0").await.address()
}

/// Runs the hook with `--admin` for each address and more arguments.
fn hook(admins: &[&str], more: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podpin-example"));
    command.arg("pre-stop").env("POD_NAME", "chat-1");
    command.args(admins.iter().flat_map(|admin| ["--admin", admin]));
    Process::spawn(command.args(more))
}

/// Longer than any test waits: only an answer ends the hook in time.
const FOR_AN_ANSWER: [&str; 4] = ["--timeout", "60s", "--fallback", "60s"];

fn said(process: &Process, address: &str) -> String {
    let prefix = format!("{address}: ");
    let lines = process.stdout();
    let found = lines.iter().find_map(|line| line.strip_prefix(&prefix));
    found.unwrap_or_else(|| panic!("no line of {address}: {lines:?}")).to_owned()
}

#[tokio::test]
async fn every_replica_is_asked_at_once_and_the_last_answer_ends_it() {
    let first = Replica::on("127.0.0.1:0").await;
    let second = Replica::on("127.0.0.2:0").await;
    let third = Replica::on("[::1]:0").await;
    let addresses = [first.address(), second.address(), third.address()];
    let mut process = hook(&[&addresses[0], &addresses[1], &addresses[2]], &FOR_AN_ANSWER);
    // All three before any answer.
    let (mut one, head) = first.question().await;
    let (mut two, _) = second.question().await;
    let (mut three, _) = third.question().await;
    assert!(head.starts_with("GET /api/drain/wait?pod=chat-1&timeout="), "{head}");
    let timeout = head.split("timeout=").nth(1).unwrap().split("ms ").next().unwrap();
    let timeout: u64 = timeout.parse().unwrap();
    assert!((40_000..60_000).contains(&timeout), "what is left, so that the answer comes in time: {timeout}");
    assert!(head.contains(&format!("\r\nHost: {}\r\n", addresses[0])), "{head}");
    two.write_all(EMPTY.as_bytes()).await.unwrap();
    three.write_all(THREE_LEFT.as_bytes()).await.unwrap();
    wait_for("two lines", async || process.stdout().len() == 2).await;
    assert_eq!(process.exit_code(), None, "one is still missing");
    one.write_all(EMPTY.as_bytes()).await.unwrap();
    assert_eq!(process.wait_exit().await, 0);
    assert_eq!(said(&process, &addresses[0]), "no streams left");
    assert_eq!(said(&process, &addresses[2]), "3 streams left at the timeout");
}

#[tokio::test]
async fn a_replica_that_refuses_breaks_off_or_does_not_understand_is_ignored() {
    let good = Replica::on("127.0.0.1:0").await;
    let dying = Replica::on("127.0.0.2:0").await;
    let old = Replica::on("127.0.0.3:0").await;
    let (good_at, dying_at, old_at, refusing) =
        (good.address(), dying.address(), old.address(), nobody().await);
    let mut process = hook(&[&refusing, &dying_at, &old_at, &good_at], &FOR_AN_ANSWER);
    drop(dying.question().await);
    old.answer("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    good.answer(EMPTY).await;
    assert_eq!(process.wait_exit().await, 0);
    assert!(said(&process, &refusing).ends_with("ignored"));
    assert!(said(&process, &dying_at).ends_with("ignored"));
    assert_eq!(said(&process, &old_at), "status 404, ignored");
    assert_eq!(said(&process, &good_at), "no streams left");
    assert_eq!(process.stdout().len(), 4, "{:?}", process.stdout());
}

#[tokio::test]
async fn all_addresses_of_a_name_are_asked() {
    let replica = Replica::on("127.0.0.1:0").await;
    let port = replica.address().parse::<SocketAddr>().unwrap().port();
    let mut process = hook(&[&format!("localhost:{port}")], &["--pod", "a&b", "--timeout", "60s"]);
    let head = replica.answer(EMPTY).await;
    assert!(head.starts_with("GET /api/drain/wait?pod=a%26b&"), "{head}");
    assert_eq!(process.wait_exit().await, 0);
    assert_eq!(said(&process, &format!("127.0.0.1:{port}")), "no streams left");
}

#[tokio::test]
async fn where_nobody_answers_it_waits_as_a_sleep_would() {
    let refusing = nobody().await;
    let old = Replica::on("127.0.0.2:0").await;
    for admin in [refusing.as_str(), "no.such.name.invalid:9901", &old.address()] {
        let began = Instant::now();
        let mut process = hook(&[admin], &["--timeout", "60s", "--fallback", "300ms"]);
        if admin == old.address() {
            old.answer("HTTP/1.1 404 Not Found\r\n\r\n").await;
        }
        assert_eq!(process.wait_exit().await, 0);
        assert!(began.elapsed() >= Duration::from_millis(300), "{admin}");
        assert!(process.stdout().contains(&"no podpin answered: waiting 300ms".to_owned()));
    }
}

#[tokio::test]
async fn it_never_takes_longer_than_its_timeout() {
    let silent = Replica::on("127.0.0.1:0").await;
    let short = ["--timeout", "700ms", "--fallback", "60s"];
    // One that accepts and says nothing, and none at all: neither waits for the fallback.
    let mut process = hook(&[&silent.address()], &short);
    let (_held, head) = silent.question().await;
    let timeout: u64 = head.split("timeout=").nth(1).unwrap().split("ms ").next().unwrap().parse().unwrap();
    assert!(timeout <= 200, "the replica's answer has time to come: {timeout}");
    assert_eq!(process.wait_exit().await, 0);
    assert_eq!(said(&process, &silent.address()), "no answer in time, ignored");
    let mut process = hook(&[&nobody().await], &short);
    assert_eq!(process.wait_exit().await, 0);
}

#[tokio::test]
async fn an_answer_that_never_ends_does_not_fill_the_memory() {
    let replica = Replica::on("127.0.0.1:0").await;
    let mut process = hook(&[&replica.address()], &FOR_AN_ANSWER);
    let (mut connection, _) = replica.question().await;
    connection.write_all(EMPTY.replace("length: 28", "length: 9999999999999").as_bytes()).await.unwrap();
    let flood = async { while connection.write_all(&[b' '; 4096]).await.is_ok() {} };
    in_time("the hook having had enough of it", flood).await;
    assert_eq!(process.wait_exit().await, 0);
}

#[tokio::test]
async fn without_an_address_it_is_a_wrong_call() {
    let mut process = hook(&[], &[]);
    assert_eq!(process.wait_exit().await, 2);
}
