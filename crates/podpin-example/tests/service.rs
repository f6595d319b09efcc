//! The example service over real sockets: streams, replay, publishing, the two ways a pod ends.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "these helpers serve tests only, where a panic is the report"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use podpin_example::{
    ControlError, DemoControl, DemoPod, DemoPodState, ExamplePod, HistoryLimits, Log, PodSettings,
    publish_ticks,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Far above what anything here takes: only a test that would hang meets it.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(name: &str, log: &Arc<Log>) -> ExamplePod {
    ExamplePod::start(PodSettings::new(name, ([127, 0, 0, 1], 0).into(), Arc::clone(log))).unwrap()
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Sends a request and returns the whole answer; HTTP/1.0 makes the body plain and the end its length.
async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (String, String) {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.0\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time(connection.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_lowercase(), body.to_owned())
}

async fn json_of(address: SocketAddr, path: &str, headers: &str) -> Value {
    serde_json::from_str(&exchange(address, "GET", path, headers, "").await.1).unwrap()
}

/// An open event stream, read event by event.
struct EventSource {
    head: String,
    lines: BufReader<TcpStream>,
}

#[derive(Debug, PartialEq)]
struct Event {
    kind: String,
    id: String,
    data: Value,
}

impl EventSource {
    async fn open(pod: &ExamplePod, headers: &str) -> Self {
        Self::open_path(pod, "/events", headers).await
    }

    async fn open_path(pod: &ExamplePod, path: &str, headers: &str) -> Self {
        let mut connection = TcpStream::connect(pod.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nAccept: text/event-stream\r\n{headers}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut source = Self { head: String::new(), lines: BufReader::new(connection) };
        while let Some(line) = source.line().await.filter(|line| !line.is_empty()) {
            source.head.push_str(&line.to_lowercase());
            source.head.push('\n');
        }
        source
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = in_time(self.lines.read_line(&mut line)).await.unwrap();
        (bytes > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn next(&mut self) -> Option<Event> {
        let mut event = Event { kind: "message".to_owned(), id: String::new(), data: Value::Null };
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ if line.is_empty() => return Some(event),
                _ => panic!("unexpected line {line:?}"),
            }
        }
    }

    async fn hello(&mut self) -> Value {
        let event = self.next().await.expect("a hello");
        assert_eq!((event.kind.as_str(), event.id.as_str()), ("hello", ""));
        event.data
    }

    async fn reset(&mut self) -> Value {
        let event = self.next().await.expect("a reset");
        assert_eq!((event.kind.as_str(), event.id.as_str()), ("reset", ""));
        event.data
    }

    async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let event = self.next().await.expect("an event");
            assert_eq!(event.kind, "message");
            assert_eq!(event.id, event.data["n"].to_string());
            ids.push(event.id);
        }
        ids
    }
}

#[tokio::test]
async fn a_new_client_is_greeted_and_gets_only_what_comes_after_it() {
    let log = Log::memory();
    log.append("before").await.unwrap();
    let pod = start("pod-a", &log);
    let mut source =
        EventSource::open(&pod, "X-Podpin-Session: s1\r\nX-Podpin-Repinned: gone\r\nLast-Event-ID: \r\n")
            .await;
    assert!(source.head.starts_with("http/1.0 200"), "{}", source.head);
    for header in
        ["content-type: text/event-stream\n", "cache-control: no-store\n", "x-accel-buffering: no\n"]
    {
        assert!(source.head.contains(header), "{header:?} in {}", source.head);
    }
    assert!(!source.head.contains("content-length") && !source.head.contains("content-encoding"));
    let expected = serde_json::json!(
        {"pod": "pod-a", "session": "s1", "repinned": "gone", "lastEventId": null, "newest": 1}
    );
    assert_eq!(source.hello().await, expected);
    log.append("after").await.unwrap();
    let event = source.next().await.unwrap();
    assert_eq!(event.id, "2");
    assert_eq!((&event.data["pod"], &event.data["text"]), (&"pod-a".into(), &"after".into()));
}

#[tokio::test]
async fn a_client_that_comes_back_on_another_pod_gets_what_it_missed() {
    let log = Log::memory();
    let (first, second) = (start("pod-a", &log), start("pod-b", &log));
    let mut source = EventSource::open(&first, "").await;
    source.hello().await;
    for _ in 0..200 {
        log.append("event").await.unwrap();
    }
    assert_eq!(source.ids(2).await, ["1", "2"]);
    drop(source);
    let mut source = EventSource::open(&second, "Last-Event-ID: 2\r\n").await;
    assert_eq!(source.hello().await["lastEventId"], "2");
    let expected: Vec<String> = (3..=200).map(|id: u32| id.to_string()).collect();
    assert_eq!(source.ids(198).await, expected);
    log.append("live").await.unwrap();
    let event = source.next().await.unwrap();
    assert_eq!((event.id.as_str(), &event.data["pod"]), ("201", &"pod-b".into()));
}

#[tokio::test]
async fn an_id_in_the_query_resumes_and_the_header_wins_over_it() {
    let log = Log::memory();
    for _ in 0..9 {
        log.append("event").await.unwrap();
    }
    let pod = start("pod-a", &log);
    let mut source = EventSource::open_path(&pod, "/events?lastEventId=7", "").await;
    source.hello().await;
    assert_eq!(source.ids(2).await, ["8", "9"]);
    let mut source = EventSource::open_path(&pod, "/events?lastEventId=3", "Last-Event-ID: 8\r\n").await;
    source.hello().await;
    assert_eq!(source.ids(1).await, ["9"]);
}

#[tokio::test]
async fn an_id_that_cannot_be_served_begins_at_the_start_of_the_history_and_says_so() {
    let log = Log::bounded(HistoryLimits { entries_max: 3, bytes_max: usize::MAX });
    for _ in 0..10 {
        log.append("event").await.unwrap();
    }
    let pod = start("pod-a", &log);
    for (id, reason) in [("4", "expired"), ("99", "unknown"), ("abc", "unknown"), ("\u{e9}", "unknown")] {
        let mut source = EventSource::open(&pod, &format!("Last-Event-ID: {id}\r\n")).await;
        source.hello().await;
        let reset = source.reset().await;
        assert_eq!(reset, serde_json::json!({"reason": reason, "oldest": 8}), "{id}");
        assert_eq!(source.ids(3).await, ["8", "9", "10"], "{id}");
    }
}

#[tokio::test]
async fn what_is_published_on_one_pod_reaches_every_client_of_all_pods() {
    let log = Log::memory();
    let pods = [start("pod-a", &log), start("pod-b", &log)];
    let mut sources = Vec::new();
    for pod in pods.iter().cycle().take(60) {
        let mut source = EventSource::open(pod, "").await;
        source.hello().await;
        sources.push(source);
    }
    assert_eq!(pods[0].open_streams() + pods[1].open_streams(), 60);
    let (head, body) = exchange(pods[1].address(), "POST", "/publish", "", "two\nlines").await;
    assert!(head.starts_with("http/1.0 200"), "{head}");
    assert_eq!(body, r#"{"id":1,"pod":"pod-b"}"#);
    for source in &mut sources {
        let event = source.next().await.unwrap();
        assert_eq!((event.id.as_str(), &event.data["text"]), ("1", &"two\nlines".into()));
    }
}

#[tokio::test]
async fn a_text_too_long_or_not_a_text_is_refused() {
    let log = Log::memory();
    let pod = start("pod-a", &log);
    let (head, _) = exchange(pod.address(), "POST", "/publish", "", &"x".repeat((16 << 10) + 1)).await;
    assert!(head.starts_with("http/1.0 413"), "{head}");
    let (head, _) = exchange(pod.address(), "POST", "/publish", "", &"x".repeat(16 << 10)).await;
    assert!(head.starts_with("http/1.0 200"), "{head}");
    let mut connection = TcpStream::connect(pod.address()).await.unwrap();
    connection.write_all(b"POST /publish HTTP/1.0\r\nContent-Length: 1\r\n\r\n\xff").await.unwrap();
    let mut answer = String::new();
    in_time(connection.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400"), "{answer}");
    assert_eq!(log.newest(), 1);
}

#[tokio::test]
async fn stopping_a_pod_cuts_its_streams_in_the_middle_and_frees_its_port() {
    let log = Log::memory();
    let pod = start("pod-a", &log);
    let address = pod.address();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(b"GET /events HTTP/1.1\r\nHost: pod\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"\n\n\r\n") {
        assert!(in_time(connection.read_buf(&mut received)).await.unwrap() > 0);
    }
    pod.stop();
    assert!(TcpStream::connect(address).await.is_err());
    in_time(connection.read_to_end(&mut received)).await.unwrap();
    let received = String::from_utf8(received).unwrap();
    assert!(received.contains("transfer-encoding: chunked"), "{received}");
    assert!(!received.contains("\r\n0\r\n\r\n"), "the end looks clean: {received}");
    let pod = start("pod-a", &log);
    EventSource::open(&pod, "").await.hello().await;
}

#[tokio::test]
async fn a_pod_that_ends_in_good_order_turns_unready_and_finishes_its_streams() {
    let log = Log::memory();
    let pod = start("pod-a", &log);
    let address = pod.address();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(b"GET /events HTTP/1.1\r\nHost: pod\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    assert!(in_time(connection.read_buf(&mut received)).await.unwrap() > 0);
    assert!(exchange(address, "GET", "/healthz", "", "").await.0.starts_with("http/1.0 200"));
    pod.retire();
    assert!(exchange(address, "GET", "/healthz", "", "").await.0.starts_with("http/1.0 503"));
    log.append("still served").await.unwrap();
    let ended = tokio::spawn(pod.end(PATIENCE));
    in_time(connection.read_to_end(&mut received)).await.unwrap();
    in_time(ended).await.unwrap();
    let received = String::from_utf8(received).unwrap();
    assert!(received.ends_with("\r\n0\r\n\r\n"), "{received}");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_an_idle_stream_is_noticed() {
    let log = Log::memory();
    let pod = start("pod-a", &log);
    let mut source = EventSource::open(&pod, "").await;
    source.hello().await;
    assert_eq!(pod.open_streams(), 1);
    drop(source);
    in_time(async {
        while pod.open_streams() > 0 {
            json_of(pod.address(), "/whoami", "").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_pod_says_who_it_is_and_how_often_it_met_the_session() {
    let pod = start("pod-a", &Log::memory());
    let mut first = None;
    for requests in 1..=3 {
        let answer = json_of(pod.address(), "/whoami", "X-Podpin-Session: s1\r\n").await;
        let since = *first.get_or_insert_with(|| answer["firstMet"].as_u64().unwrap());
        let expected =
            serde_json::json!({"pod": "pod-a", "session": "s1", "requests": requests, "firstMet": since});
        assert_eq!(answer, expected);
    }
    assert!(first > Some(1_600_000_000_000_000));
    for (headers, session) in [("X-Podpin-Session: s2\r\n", "s2".into()), ("", Value::Null)] {
        let answer = json_of(pod.address(), "/whoami", headers).await;
        assert_eq!((&answer["session"], &answer["requests"]), (&session, &1.into()));
    }
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_between_its_events() {
    let log = Log::memory();
    let settings = PodSettings {
        keep_alive: Duration::from_millis(20),
        ..PodSettings::new("pod-a", ([127, 0, 0, 1], 0).into(), Arc::clone(&log))
    };
    let pod = ExamplePod::start(settings).unwrap();
    let mut source = EventSource::open(&pod, "").await;
    source.hello().await;
    for _ in 0..2 {
        assert_eq!(source.line().await.as_deref(), Some(":"));
        assert_eq!(source.line().await.as_deref(), Some(""));
    }
    log.append("news").await.unwrap();
    let mut line = source.line().await.unwrap();
    while line == ":" || line.is_empty() {
        line = source.line().await.unwrap();
    }
    assert_eq!(line, "id: 1");
}

#[tokio::test]
async fn one_ticker_numbers_the_events_of_the_shared_log() {
    let log = Log::memory();
    let pod = start("pod-a", &log);
    let mut source = EventSource::open(&pod, "").await;
    source.hello().await;
    let ticks = publish_ticks(log, Duration::from_millis(1));
    tokio::select! {
        _ = ticks => {}
        ids = source.ids(5) => assert_eq!(ids, ["1", "2", "3", "4", "5"]),
    }
}

/// Records what was asked of it; only pod-b can be stopped.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl DemoControl for Recorder {
    fn pods(&self) -> Vec<DemoPod> {
        vec![DemoPod { name: "pod-a".into(), state: DemoPodState::Stopped, address: None, streams: 0 }]
    }

    fn stop(&self, name: &str) -> Result<(), ControlError> {
        self.0.lock().unwrap().push(format!("stop {name}"));
        if name == "pod-b" { Ok(()) } else { Err(ControlError::LastPod) }
    }

    fn kill(&self, name: &str) -> Result<(), ControlError> {
        self.0.lock().unwrap().push(format!("kill {name}"));
        Err(ControlError::AlreadySo)
    }

    fn start(&self, name: &str) -> Result<(), ControlError> {
        self.0.lock().unwrap().push(format!("start {name}"));
        Err(ControlError::UnknownPod)
    }
}

#[tokio::test]
async fn the_demo_routes_reach_the_control_and_are_not_there_without_one() {
    let alone = start("pod-a", &Log::memory());
    for (method, path) in [("GET", "/demo/pods"), ("POST", "/demo/pods/pod-a/stop")] {
        assert!(exchange(alone.address(), method, path, "", "").await.0.starts_with("http/1.0 404"));
    }
    let recorder = Arc::new(Recorder::default());
    let settings = PodSettings {
        control: Some(Arc::clone(&recorder) as Arc<dyn DemoControl>),
        ..PodSettings::new("pod-a", ([127, 0, 0, 1], 0).into(), Log::memory())
    };
    let pod = ExamplePod::start(settings).unwrap();
    let listed = json_of(pod.address(), "/demo/pods", "").await;
    let expected = serde_json::json!(
        {"pods": [{"name": "pod-a", "state": "stopped", "address": null, "streams": 0}], "admin": null, "plain": null}
    );
    assert_eq!(listed, expected);
    let table = [("pod-b/stop", "202"), ("pod-a/stop", "409"), ("pod-b/kill", "409"), ("pod-x/start", "404")];
    for (path, status) in table {
        let (head, _) = exchange(pod.address(), "POST", &format!("/demo/pods/{path}"), "", "").await;
        assert!(head.starts_with(&format!("http/1.0 {status}")), "{path}: {head}");
    }
    assert_eq!(*recorder.0.lock().unwrap(), ["stop pod-b", "stop pod-a", "kill pod-b", "start pod-x"]);
}

#[tokio::test]
async fn the_page_is_one_file_that_loads_nothing_from_elsewhere() {
    let pod = start("pod-a", &Log::memory());
    let (head, page) = exchange(pod.address(), "GET", "/", "", "").await;
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    assert!(head.contains("default-src 'none'"), "{head}");
    assert!(page.contains("new EventSource("));
    for marker in [
        "id=\"pod\"",
        "id=\"state\"",
        "id=\"events\"",
        "id=\"gaps\"",
        "id=\"duplicates\"",
        "id=\"moves\"",
        "id=\"reconnects\"",
    ] {
        assert!(page.contains(marker), "{marker}");
    }
    for elsewhere in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
}
