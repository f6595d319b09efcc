//! The bytes of upgraded connections pass: every byte, both ways, each way by itself; and offers that are not taken.

use std::time::Duration;

use podpin_testkit::{Request, in_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ACCEPTED, End, Scene};

/// Bytes each way: far more than all buffers between two ends hold.
const MANY: usize = 20 << 20;

fn pattern(seed: usize) -> Vec<u8> {
    (0..MANY).map(|at| u8::try_from((at * 31 + seed + at / 251) % 256).unwrap()).collect()
}

fn offer(protocol: &str) -> Request {
    Request::new("POST", "/attach").header("Connection", "Upgrade").header("Upgrade", protocol)
}

fn taken(protocol: &str) -> String {
    format!("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")
}

#[tokio::test]
async fn twenty_megabytes_pass_each_way_while_the_pod_reads_nothing_before_it_has_written_all() {
    let scene = Scene::one("").await;
    let (client, mut pod) = scene.open_by(&offer("tcp"), &taken("tcp")).await;
    let (to_client, to_pod) = (pattern(1), pattern(2));
    let (mut from_proxy, mut to_proxy) = client.0.into_split();
    let sent = to_pod.clone();
    let writer = tokio::spawn(async move {
        to_proxy.write_all(&sent).await.unwrap();
        to_proxy
    });
    let expected = to_client.clone();
    let pod = tokio::spawn(async move {
        pod.send(&to_client).await;
        pod.bytes(MANY).await
    });
    let mut read = vec![0; MANY];
    in_time("all bytes of the pod", from_proxy.read_exact(&mut read)).await.unwrap();
    assert!(read == expected, "other bytes to the client");
    assert!(in_time("all bytes of the client", pod).await.unwrap() == to_pod, "other bytes to the pod");
    drop(in_time("the client's writes", writer).await);
}

#[tokio::test]
async fn a_byte_reaches_the_pod_while_it_floods_a_client_that_reads_nothing() {
    let scene = Scene::one("").await;
    let (mut client, pod) = scene.open_by(&offer("tcp"), &taken("tcp")).await;
    let (mut from_proxy, mut to_proxy) = pod.0.into_split();
    let flood = tokio::spawn(async move {
        let chunk = vec![b'y'; 64 << 10];
        while to_proxy.write_all(&chunk).await.is_ok() {}
    });
    // Blocked once a write has waited for so long that it takes no more.
    client.send(b"\x03").await;
    let mut byte = [0];
    in_time("Ctrl-C", from_proxy.read_exact(&mut byte)).await.unwrap();
    assert_eq!(byte, [3]);
    drop((client, from_proxy));
    in_time("the end of the flood", flood).await.unwrap();
}

#[tokio::test]
async fn each_way_ends_by_itself() {
    let scene = Scene::one("").await;
    for client_is_first in [true, false] {
        let (client, pod) = scene.open_by(&offer("tcp"), &taken("tcp")).await;
        let (mut first, mut second) = if client_is_first { (client, pod) } else { (pod, client) };
        first.send("last words").await;
        first.0.shutdown().await.unwrap();
        assert_eq!(second.rest().await.as_deref(), Some(&b"last words"[..]));
        second.send("not yet mine").await;
        second.0.shutdown().await.unwrap();
        assert_eq!(first.rest().await.as_deref(), Some(&b"not yet mine"[..]));
        let reason = if client_is_first { "client" } else { "upstream_end" };
        let closed = [("reason", reason)];
        scene.proxy.wait_metric("podpin_upgrades_closed_total", &closed, 1.0).await;
    }
}

#[tokio::test]
async fn a_reset_of_either_end_is_one_at_the_other_and_a_client_that_leaves_frees_its_pod() {
    let scene = Scene::one("").await;
    let (client, mut pod) = scene.open_by(&offer("tcp"), &taken("tcp")).await;
    client.0.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(pod.rest().await, None, "a reset");
    let (mut client, pod) = scene.open_by(&offer("tcp"), &taken("tcp")).await;
    pod.0.set_zero_linger().unwrap();
    drop(pod);
    assert_eq!(client.rest().await, None, "a reset");
    scene.proxy.wait_metric("podpin_upgrades_closed_total", &[("reason", "upstream_reset")], 1.0).await;
    let (client, mut pod) = scene.open().await;
    drop(client);
    assert_eq!(pod.rest().await.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn bytes_of_either_side_around_the_switch_are_not_lost() {
    let scene = Scene::one("").await;
    let mut client = scene.connect().await;
    client.send([Request::websocket("/ws").bytes(), b"early ".to_vec()].concat()).await;
    let (mut pod, _) = scene.pods[0].request().await;
    client.send("and later").await;
    pod.send([ACCEPTED.as_bytes(), b"at once"].concat()).await;
    client.head().await;
    assert_eq!(client.bytes(7).await, b"at once");
    assert_eq!(pod.bytes(15).await, b"early and later");
}

#[tokio::test]
async fn any_protocol_passes_that_the_client_offers_and_the_pod_takes() {
    let scene = Scene::one("").await;
    // What kubectl and docker send.
    let exec = Request::new("POST", "/api/v1/namespaces/x/pods/y/exec?command=sh")
        .header("Connection", "Upgrade")
        .header("Upgrade", "SPDY/3.1")
        .header("X-Stream-Protocol-Version", "v4.channel.k8s.io")
        .body("");
    let attach = Request::new("POST", "/v1.47/exec/1/start")
        .header("Connection", "Upgrade")
        .header("Upgrade", "tcp")
        .header("Content-Type", "application/json")
        .body("{\"Detach\":false}");
    for (request, protocol, body) in [(exec, "SPDY/3.1", ""), (attach, "tcp", "{\"Detach\":false}")] {
        let mut client = scene.connect().await;
        client.send(request.bytes()).await;
        let (mut pod, head) = scene.pods[0].request().await;
        assert!(head.contains(&format!("\r\nUpgrade: {protocol}\r\n")), "{head}");
        assert!(head.contains("\r\nConnection: Upgrade\r\n"), "{head}");
        assert_eq!(pod.bytes(body.len()).await, body.as_bytes());
        pod.send(taken(protocol)).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("\r\nUpgrade: {protocol}\r\n")), "{head}");
        assert!(head.contains("\r\nConnection: Upgrade\r\n"), "{head}");
        assert!(!head.to_lowercase().contains("content-length"), "{head}");
        for (one, other) in [(b"\x80\x03\x00\x01", true), (b"\x00\x01\x80\x03", false)] {
            let (from, to) = if other { (&mut client, &mut pod) } else { (&mut pod, &mut client) };
            from.send(one).await;
            assert_eq!(to.bytes(4).await, one);
        }
    }
}

#[tokio::test]
async fn several_offers_reach_the_pod_without_http2_and_it_chooses_one() {
    let scene = Scene::one("").await;
    let mut client = scene.connect().await;
    let request = Request::get("/ws")
        .header("Connection", "keep-alive, Upgrade, X-Own")
        .header("X-Own", "1")
        .header("Upgrade", "h2c, tcp")
        .header("Upgrade", "WebSocket");
    client.send(request.bytes()).await;
    let (mut pod, head) = scene.pods[0].request().await;
    assert!(head.contains("\r\nUpgrade: tcp, WebSocket\r\n") && !head.contains("X-Own"), "{head}");
    pod.send(ACCEPTED).await;
    assert!(client.head().await.contains("\r\nUpgrade: websocket\r\n"));
}

/// The status of the response to `request` when the pod answers with `answer`, and whether the connection goes on.
async fn status_of(scene: &Scene, request: &Request, answer: &str) -> (u16, bool) {
    let mut client = scene.connect().await;
    client.send(request.bytes()).await;
    let (mut pod, _) = scene.pods[0].request().await;
    pod.send(answer).await;
    let head = client.head().await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, !head.contains("Connection: close"))
}

#[tokio::test]
async fn a_switch_that_was_not_asked_for_or_names_something_else_is_a_bad_gateway() {
    let scene = Scene::one("health: off").await;
    let (plain, websocket) = (Request::get("/"), Request::websocket("/ws"));
    let cases = [
        (&plain, taken("websocket")),
        (&websocket, taken("tcp")),
        (&websocket, taken("websocket, tcp")),
        (&websocket, taken("h2c")),
        (&websocket, "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned()),
    ];
    for (request, answer) in &cases {
        assert_eq!(status_of(&scene, request, answer).await, (502, true), "{answer}");
    }
    let old = Request::websocket("/ws").http10();
    assert_eq!(status_of(&scene, &old, ACCEPTED).await.0, 502, "HTTP/1.0 has no upgrades");
    let http2 = Request::get("/").header("Connection", "Upgrade").header("Upgrade", "h2c");
    assert_eq!(status_of(&scene, &http2, &taken("h2c")).await.0, 502, "not this way");
    assert_eq!(scene.proxy.metric("podpin_upgrades_opened_total", &[]).await, 0.0);
}

#[tokio::test]
async fn interim_responses_pass_before_the_switch() {
    let scene = Scene::one("").await;
    let mut client = scene.connect().await;
    client.send(Request::websocket("/ws").bytes()).await;
    let (mut pod, _) = scene.pods[0].request().await;
    pod.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 103 "));
    pod.send(ACCEPTED).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn a_pod_that_takes_an_offer_and_says_nothing_is_left_alone() {
    let scene =
        Scene::one("timeouts: {responseHeader: 300ms, upstreamIdle: 300ms, clientWrite: 300ms}").await;
    let (mut client, mut pod) = scene.open().await;
    // Longer than all limits of a request.
    client.silence(Duration::from_millis(900)).await;
    pod.send("still here").await;
    assert_eq!(client.bytes(10).await, b"still here");
}

/// Whether `end` has ended.
pub(super) async fn assert_ended(end: &mut End) {
    assert_eq!(end.rest().await.as_deref(), Some(&b""[..]));
}
