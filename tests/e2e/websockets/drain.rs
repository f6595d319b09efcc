//! How upgraded connections leave: a Close between two messages of a WebSocket, the deadline for all others.

use std::time::{Duration, Instant};

use podpin_testkit::{EndpointsFile, Request, Setup, Signal, wait_for};
use serde_json::json;

use super::passing::assert_ended;
use super::{ACCEPTED, CLOSE, End, PONG, Scene, TEXT, plain};

/// Streams leave at once, far from their deadline.
const AT_ONCE: &str = "drain: {spread: 0s, timeout: 60s}";

/// Answers the Close of the proxy as a client does, and returns its status and reason.
async fn answer_close(client: &mut End) -> (u16, String) {
    let close = client.frame().await;
    assert!(!close.is_masked);
    client.say_masked(CLOSE, &close.payload).await;
    (close.code(), close.reason())
}

/// Reads the Close that a pod gets, and answers it.
async fn pod_closes(pod: &mut End) -> u16 {
    let close = pod.frame().await;
    assert!(close.is_masked, "the proxy is a client of the pod");
    pod.say(CLOSE, &close.payload).await;
    close.code()
}

async fn departures(scene: &Scene, kind: &str, count: f64) {
    scene.proxy.wait_metric("podpin_drain_departures_total", &[("kind", kind)], count).await;
}

#[tokio::test]
async fn a_websocket_gets_a_close_that_both_sides_can_answer() {
    let scene = Scene::of(&["pod-a", "pod-b"], AT_ONCE).await;
    let (mut client, mut pod, home) = open_anywhere(&scene).await;
    pod.say(TEXT, b"before").await;
    assert_eq!(client.frame().await.payload, b"before");
    scene.drain(&[home]);
    assert_eq!(answer_close(&mut client).await, (1012, "service restart".to_owned()));
    assert_eq!(pod_closes(&mut pod).await, 1001);
    assert_ended(&mut client).await;
    assert_ended(&mut pod).await;
    departures(&scene, "polite", 1.0).await;
    let line = scene.proxy.access_log_line(|line| line["kind"] == "upgrade").await;
    assert_eq!((&line["reason"], &line["endpoint"]), (&json!("drain"), &json!(home)), "{line}");
    scene.proxy.wait_metric("podpin_upgrades_closed_total", &[("reason", "drain")], 1.0).await;
}

#[tokio::test]
async fn code_and_reason_are_the_services_own() {
    let own = format!("{AT_ONCE}\nwebsocket: {{closeCode: 4321, closeReason: bald zurück}}");
    let scene = Scene::one(&own).await;
    let (mut client, _pod) = scene.open().await;
    scene.proxy.process.signal(Signal::TERM);
    assert_eq!(answer_close(&mut client).await, (1001, "bald zurück".to_owned()));
}

#[tokio::test]
async fn nothing_stands_within_a_message_and_what_the_client_sends_reaches_the_pod() {
    let scene = Scene::of(&["pod-a", "pod-b"], AT_ONCE).await;
    let (mut client, mut pod, home) = open_anywhere(&scene).await;
    // The first fragment, half a control frame, and a frame cut in the middle.
    pod.say(0x01, b"frag").await;
    pod.send(&plain(PONG, b"odd")[..3]).await;
    assert_eq!(client.frame().await.payload, b"frag");
    assert_eq!(client.bytes(3).await, plain(PONG, b"odd")[..3]);
    scene.drain(&[home]);
    scene.proxy.wait_metric("podpin_endpoints", &[("state", "draining")], 1.0).await;
    client.say_masked(TEXT, b"meanwhile").await;
    assert_eq!(pod.frame().await.payload, b"meanwhile");
    pod.send(&plain(PONG, b"odd")[3..]).await;
    assert_eq!(client.bytes(2).await, b"dd");
    pod.say(0x00, b"ment").await;
    assert_eq!(client.frame().await.payload, b"ment");
    // The last frame, with the beginning of a message that the client is spared.
    pod.send([plain(0x80, b"!"), plain(TEXT, b"late")[..3].to_vec()].concat()).await;
    assert_eq!(client.frame().await.payload, b"!");
    client.say_masked(TEXT, b"last").await;
    assert_eq!(answer_close(&mut client).await.0, 1012);
    assert_eq!(pod.frame().await.payload, b"last", "before the Close");
    assert_eq!(pod_closes(&mut pod).await, 1001);
    assert_ended(&mut client).await;
    departures(&scene, "polite", 1.0).await;
}

/// A WebSocket at whichever pod it goes to.
async fn open_anywhere(scene: &Scene) -> (End, End, &'static str) {
    let mut client = scene.connect().await;
    client.send(Request::websocket("/ws").bytes()).await;
    let (first, second) = (&scene.pods[0], &scene.pods[1]);
    let (mut pod, name) = tokio::select! {
        (pod, _) = first.request() => (pod, first.name),
        (pod, _) = second.request() => (pod, second.name),
    };
    pod.send(ACCEPTED).await;
    client.head().await;
    (client, pod, name)
}

#[tokio::test]
async fn a_client_that_never_answers_is_waited_for_no_longer_than_the_limit() {
    let scene =
        Scene::of(&["pod-a", "pod-b"], "drain: {spread: 0s, timeout: 60s, closeTimeout: 700ms}").await;
    let (mut client, mut pod, home) = open_anywhere(&scene).await;
    scene.drain(&[home]);
    assert_eq!(client.frame().await.code(), 1012);
    let closed = Instant::now();
    // It goes on sending, which reaches the pod.
    client.say_masked(TEXT, b"what?").await;
    assert_eq!(pod.frame().await.payload, b"what?");
    assert_eq!(pod.frame().await.code(), 1001);
    assert!(closed.elapsed() >= Duration::from_millis(500), "{:?}", closed.elapsed());
    assert_ended(&mut pod).await;
    assert_ended(&mut client).await;
    departures(&scene, "polite", 1.0).await;
}

#[tokio::test]
async fn at_the_deadline_a_message_is_cut_and_so_is_every_other_protocol() {
    let scene = Scene::of(&["pod-a", "pod-b"], "drain: {spread: 0s, timeout: 1s}").await;
    let (mut client, mut pod, home) = open_anywhere(&scene).await;
    pod.say(0x01, b"never ends").await;
    client.frame().await;
    scene.drain(&[home]);
    assert_ended(&mut client).await;
    assert_eq!(pod.frame().await.code(), 1001, "its own side is between two frames");
    departures(&scene, "forced", 1.0).await;

    let scene = Scene::one("drain: {spread: 0s, timeout: 1s}").await;
    let request = Request::get("/x").header("Connection", "Upgrade").header("Upgrade", "SPDY/3.1");
    let answer = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
    let (mut client, mut pod) = scene.open_by(&request, answer).await;
    let began = Instant::now();
    scene.drain(&["pod-a"]);
    scene.proxy.wait_metric("podpin_drain_streams_remaining", &[("endpoint", "pod-a")], 1.0).await;
    pod.send("as before").await;
    assert_eq!(client.bytes(9).await, b"as before");
    assert_ended(&mut client).await;
    assert_ended(&mut pod).await;
    assert!(began.elapsed() >= Duration::from_millis(900), "left alone until then");
    departures(&scene, "forced", 1.0).await;
}

#[tokio::test]
async fn a_length_that_lies_leaves_no_place_for_a_close() {
    let scene = Scene::of(&["pod-a", "pod-b"], "drain: {spread: 0s, timeout: 1s}").await;
    let (mut client, mut pod, home) = open_anywhere(&scene).await;
    let lie = [0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    pod.send(lie).await;
    pod.say(TEXT, b"x").await;
    assert_eq!(client.bytes(13).await, [&lie[..], &plain(TEXT, b"x")].concat(), "it passes as it is");
    scene.drain(&[home]);
    assert_ended(&mut client).await;
    departures(&scene, "forced", 1.0).await;
}

#[tokio::test]
async fn a_close_of_either_side_is_left_to_them() {
    let scene = Scene::of(&["pod-a", "pod-b"], AT_ONCE).await;
    let (mut client, mut pod, home) = open_anywhere(&scene).await;
    pod.say(CLOSE, &1000_u16.to_be_bytes()).await;
    assert_eq!(client.frame().await.code(), 1000);
    scene.drain(&[home]);
    scene.proxy.wait_metric("podpin_endpoints", &[("state", "draining")], 1.0).await;
    client.say_masked(CLOSE, &1000_u16.to_be_bytes()).await;
    assert_eq!(pod.frame().await.code(), 1000, "the client's own");
    drop(pod);
    assert_ended(&mut client).await;
    scene.proxy.wait_metric("podpin_upgrades_closed_total", &[("reason", "upstream_end")], 1.0).await;
}

#[tokio::test]
async fn podpin_itself_goes_away_with_1001_and_ends_once_all_have_answered() {
    let scene = Scene::one(AT_ONCE).await;
    let (mut client, mut pod) = scene.open().await;
    scene.proxy.process.signal(Signal::TERM);
    assert_eq!(answer_close(&mut client).await.0, 1001);
    assert_eq!(pod_closes(&mut pod).await, 1001);
    assert_ended(&mut client).await;
    let line = scene.proxy.access_log_line(|line| line["kind"] == "upgrade").await;
    assert_eq!(line["reason"], "shutdown", "{line}");
    let Scene { mut proxy, .. } = scene;
    assert_eq!(proxy.process.wait_exit().await, 0);
}

#[tokio::test]
async fn a_reload_that_removes_the_route_closes_its_websockets_and_no_others() {
    let raw = super::RawPod::start("raw").await;
    let file = EndpointsFile::with(&[("raw", raw.address(), "ready")]);
    let route = |path: &str| {
        format!(
            "{{name: r{}, matches: [{{path: {{type: PathPrefix, value: /{path}}}}}], service: chat}}",
            path
        )
    };
    let setup = |paths: &[&str]| {
        let setup = Setup::new().service_in("chat", &file).with(AT_ONCE);
        paths.iter().fold(setup, |setup, path| setup.route(&route(path)))
    };
    let proxy = setup(&["stays", "goes"]).start().await;
    let mut clients = Vec::new();
    for path in ["/stays", "/goes"] {
        let mut client = End(tokio::net::TcpStream::connect(proxy.address).await.unwrap());
        client.send(Request::websocket(path).bytes()).await;
        let (mut pod, _) = raw.request().await;
        pod.send(ACCEPTED).await;
        client.head().await;
        clients.push((client, pod));
    }
    proxy.reload(&setup(&["stays"])).await;
    let (mut gone, mut gone_pod) = clients.pop().unwrap();
    assert_eq!(answer_close(&mut gone).await.0, 1012);
    assert_eq!(pod_closes(&mut gone_pod).await, 1001);
    let (mut kept, mut kept_pod) = clients.pop().unwrap();
    kept_pod.say(TEXT, b"on").await;
    assert_eq!(kept.frame().await.payload, b"on");
}

#[tokio::test]
async fn a_client_comes_back_with_its_cookie_to_the_heir_and_the_drain_says_so() {
    let names = ["pod-a", "pod-b", "pod-c"];
    let scene = Scene::of(&names, "drain: {spread: 0s, timeout: 60s, returnWindow: 30s}").await;
    let mut cookie = String::new();
    let mut visits = Vec::new();
    for round in 0..3 {
        let mut client = scene.connect().await;
        let request = Request::websocket("/ws");
        let request = if round == 0 { request } else { request.header("Cookie", &cookie) };
        client.send(request.bytes()).await;
        let [a, b, c] = [0, 1, 2].map(|at| scene.pods[at].request());
        let ((mut pod, head), home) = tokio::select! {
            pod = a => (pod, names[0]), pod = b => (pod, names[1]), pod = c => (pod, names[2]),
        };
        pod.send(ACCEPTED).await;
        let response = client.head().await;
        if let Some(line) = response.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")) {
            cookie = line.split(';').next().unwrap().to_owned();
        }
        visits.push((home, head.contains("X-Podpin-Repinned: draining")));
        if round == 0 {
            scene.drain(&[home]);
            assert_eq!(answer_close(&mut client).await.0, 1012);
            pod_closes(&mut pod).await;
            assert_ended(&mut client).await;
        }
    }
    assert!(visits[0].0 != visits[1].0 && visits[1].1, "moved: {visits:?}");
    assert_eq!(visits[1].0, visits[2].0, "and pinned there: {visits:?}");
    scene.proxy.wait_metric("podpin_reconnects_total", &[("outcome", "returned")], 1.0).await;
    wait_for("the record of the drain", async || {
        let said = scene.proxy.process.stderr().join("\n");
        said.contains("returned=1") || said.contains("\"returned\":1")
    })
    .await;
}
