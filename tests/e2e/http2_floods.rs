//! HTTP/2 clients that attack: each is cut off early, its memory is bounded, and others are served meanwhile.
//!
//! With and without TLS. What is bounded by time (so many resets a second) is compared with the time that passed by the
//! test's own clock, which is never less than what the proxy saw.

use std::time::Instant;

use podpin_testkit::{Answer, Connection, Flooded, H2Frame, Pod, Reply, Request, Setup};

use crate::h2_front::{Front, GET, POST, asked, with_path};

/// ENHANCE_YOUR_CALM (RFC 9113 section 7).
const CALM: u8 = 11;
const FLOW_CONTROL_ERROR: u8 = 3;
/// The budgets of `podpin_h2`: at once, and then each second; and one more for each fourth or tenth request.
const RESETS: (usize, usize) = (200 * 4 / 3, 20 * 4 / 3 + 1);
const PROVOKED: (usize, usize) = (100 * 10 / 9, 5 * 10 / 9 + 1);
/// By how much a proxy may grow through what is cut off at once: allocators keep a little.
const GROWTH_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes that a client can send before it learns that it was cut off: the buffers of both sockets.
const SENT_BYTES: usize = 16 * 1024 * 1024;

/// Number of operations that a client can have done under a limit of so much at once and each second; one more is noticed
/// when it is already done.
fn allowed((at_once, per_second): (usize, usize), began: Instant) -> usize {
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    at_once + seconds * per_second + 2
}

fn growth(front: &Front, before: u64) -> u64 {
    front.proxy.process.memory_bytes().saturating_sub(before)
}

/// Floods a connection while a client with manners is served.
async fn flood(front: &Front, connection: Connection, piece: &[u8], pod: &Pod) -> Flooded {
    tokio::join!(connection.flood(piece), front.serves(pod)).0
}

#[tokio::test]
async fn frames_that_bring_nothing_end_their_connection() {
    let pod = Pod::start("pod-a").await;
    let kinds = [
        ("PING", H2Frame::ping()),
        ("SETTINGS", H2Frame::settings()),
        ("SETTINGS that move every window", H2Frame::initial_window(1000)),
        ("PRIORITY", H2Frame::priority(1)),
        ("DATA without a byte", H2Frame::data(1, [])),
        ("DATA that is all padding", H2Frame::new(0, 0x8, 1, [0])),
        ("WINDOW_UPDATE of a stream", H2Frame::window_update(1, 1)),
        ("WINDOW_UPDATE of the connection", H2Frame::window_update(0, 1)),
        ("a type that nobody knows", H2Frame::new(0x77, 0, 0, [0; 8])),
    ];
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        for (what, frame) in &kinds {
            let mut connection = front.begun().await;
            let head = H2Frame::head(1, &with_path(&POST, "/upload"));
            assert!(connection.try_frames(&[head]).await);
            let end = flood(&front, connection, &frame.bytes().repeat(100), &pod).await;
            assert!(end.go_away_code.is_none_or(|code| code == CALM), "{what}: {end:?}");
            assert!(end.sent_bytes < SENT_BYTES, "{what}: {end:?}");
        }
        let grown = growth(&front, before);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes");
        front.wait_cut("frames", 9).await;
    }
    assert!(asked(&pod, "/upload") <= 2 * kinds.len());
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_in_a_burst_is_cut_off_before_a_pod_hears_of_it() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/burst", Answer::ByHand);
    let burst: Vec<u8> = (0..5_000)
        .map(|number| 2 * number + 1)
        .flat_map(|stream| [H2Frame::request(stream, &with_path(&GET, "/burst")), H2Frame::reset(stream)])
        .flat_map(|frame| frame.bytes())
        .collect();
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let (before, earlier) = (front.proxy.process.memory_bytes(), asked(&pod, "/burst"));
        for _ in 0..10 {
            let mut connection = front.begun().await;
            // It is cut off while it sends: the last bytes may go nowhere.
            let _cut = connection.try_send(&burst).await;
            let (end, ()) = tokio::join!(connection.h2_frame_that(|_| false), front.serves(&pod));
            end.unwrap_err();
        }
        let (grown, asked) = (growth(&front, before), asked(&pod, "/burst") - earlier);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes");
        assert!(asked <= 10 * RESETS.0, "the pod was asked {asked} times");
    }
}

#[tokio::test]
async fn a_client_that_resets_each_request_when_its_pod_was_asked_is_cut_off() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/one", Answer::ByHand);
    for front in Front::both(&Setup::chat(&[&pod])).await {
        for accept in ["*/*", "text/event-stream"] {
            let began = Instant::now();
            let mut connection = front.begun().await;
            let head = [with_path(&GET, "/one"), vec![("accept", accept)]].concat();
            let mut resets = 0;
            while resets < 1_000 {
                let stream = 2 * u32::try_from(resets).unwrap() + 1;
                if !connection.try_frames(&[H2Frame::request(stream, &head)]).await {
                    break;
                }
                // A pod that is not asked any more, or the end.
                let mut upstream = tokio::select! {
                    upstream = pod.next_stream() => upstream,
                    _ = connection.h2_frame_that(|frame| frame.go_away_code().is_some()) => break,
                };
                if !connection.try_frames(&[H2Frame::reset(stream)]).await {
                    break;
                }
                upstream.client_gone().await;
                resets += 1;
            }
            let allowed = allowed(RESETS, began);
            assert!(resets <= allowed, "{resets} of {allowed} for Accept: {accept}");
            front.serves(&pod).await;
        }
    }
}

/// The frames that make the proxy reset a stream.
type Provocation<'a> = &'a dyn Fn(u32) -> Vec<H2Frame>;

/// Opens streams and makes the proxy reset each, until it ends the connection; how many it did reset.
async fn provoke(mut connection: Connection, provocation: Provocation<'_>) -> usize {
    let mut resets = 0;
    while resets < 1_000 {
        let stream = 2 * u32::try_from(resets).unwrap() + 1;
        if !connection.try_frames(&provocation(stream)).await {
            return resets;
        }
        let wanted = |frame: &H2Frame| {
            frame.go_away_code().is_some() || (frame.stream() == stream && frame.reset_code().is_some())
        };
        match connection.h2_frame_that(wanted).await {
            Ok(frame) if frame.go_away_code().is_some() => return resets,
            Ok(_) => resets += 1,
            Err(_) => return resets,
        }
    }
    resets
}

#[tokio::test]
async fn a_client_that_makes_us_reset_its_streams_is_cut_off() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/made", Answer::ByHand);
    let get = with_path(&GET, "/made");
    let post = with_path(&POST, "/made");
    let sized = [post.clone(), vec![("content-length", "1")]].concat();
    let malformed = [get.clone(), vec![("connection", "close")]].concat();
    let depends_on_itself = |stream: u32| {
        let payload = [stream.to_be_bytes().as_slice(), &[0]].concat();
        vec![H2Frame::head(stream, &post), H2Frame::new(2, 0, stream, payload)]
    };
    let kinds: [(&str, Provocation<'_>); 5] = [
        ("a window that is too large", &|stream| {
            vec![H2Frame::request(stream, &get), H2Frame::window_update(stream, 0x7fff_ffff)]
        }),
        ("a body behind the end", &|stream| {
            vec![H2Frame::request(stream, &get), H2Frame::data(stream, *b"x")]
        }),
        ("more than the length", &|stream| {
            vec![H2Frame::head(stream, &sized), H2Frame::data(stream, *b"xyz")]
        }),
        ("a field of HTTP/1", &|stream| vec![H2Frame::request(stream, &malformed)]),
        ("a stream that depends on itself", &depends_on_itself),
    ];
    for front in Front::both(&Setup::chat(&[&pod])).await {
        for (what, provocation) in kinds {
            let (began, earlier) = (Instant::now(), asked(&pod, "/made"));
            let (resets, ()) = tokio::join!(provoke(front.begun().await, provocation), front.serves(&pod));
            let allowed = allowed(PROVOKED, began);
            assert!(resets <= allowed, "{what}: {resets} resets of {allowed}");
            let asked = asked(&pod, "/made") - earlier;
            assert!(asked <= allowed, "{what}: the pod was asked {asked} times");
        }
    }
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let pod = Pod::start("pod-a").await;
    let pieces = [("empty", vec![]), ("small", vec![0, 1, b'a', 1, b'b']), ("large", vec![b'x'; 16_000])];
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        for (what, piece) in &pieces {
            for _ in 0..5 {
                let mut connection = front.begun().await;
                assert!(connection.try_frames(&[H2Frame::unfinished_head(1, [])]).await);
                let more = H2Frame::continuation(1, piece.clone()).bytes();
                let end = flood(&front, connection, &more, &pod).await;
                assert!(end.sent_bytes < SENT_BYTES, "{what}: {end:?}");
            }
        }
        let grown = growth(&front, before);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes");
    }
    assert!(pod.targets().iter().all(|target| target == "/who"));
}

/// A head of a few kilobytes that means 64 MB: one field of 4,000 bytes in HPACK's table, named again and again.
fn bomb() -> Vec<u8> {
    let mut block = podpin_testkit::h2_block(&with_path(&GET, "/bomb"));
    // A literal with incremental indexing (RFC 7541 section 6.2.1): the name `x`, 4,000 bytes.
    block.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend_from_slice(&[b'y'; 4_000]);
    // The first entry of the dynamic table.
    block.extend_from_slice(&[0xbe; 8_000]);
    block
}

#[tokio::test]
async fn a_small_head_that_means_a_large_one_is_refused_and_costs_little() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        for _ in 0..10 {
            let mut connection = front.begun().await;
            let frame = H2Frame::new(1, 0x5, 1, bomb());
            assert!(connection.try_frames(&[frame]).await);
            let answers = |frame: &H2Frame| {
                let reset = frame.reset_code().or(frame.go_away_code());
                frame.status().is_some() || reset.is_some()
            };
            let (answer, ()) = tokio::join!(connection.h2_frame_that(answers), front.serves(&pod));
            let served = answer.is_ok_and(|frame| frame.status() == Some(200));
            assert!(!served, "it was served");
        }
        let grown = growth(&front, before);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes");
    }
    assert_eq!(asked(&pod, "/bomb"), 0);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_431_and_the_connection_serves_on() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&Setup::chat(&[&pod]).top("limits: {requestHeaderBytes: 8KiB}")).await {
        let mut client = front.client().await;
        for request in [Request::get("/large"), Request::events("/large"), Request::new("POST", "/large")] {
            let response = client.send(&request.header("x-large", &"x".repeat(9_000))).await;
            assert_eq!(response.status, 431);
            assert_eq!(client.send(&Request::get("/who")).await.text(), "pod-a");
        }
        let fits = Request::get("/fits").header("x-large", &"x".repeat(7_000));
        assert_eq!(client.send(&fits).await.status, 200);
    }
    assert_eq!(asked(&pod, "/large"), 0);
}

#[tokio::test]
async fn a_window_that_is_too_large_ends_the_connection() {
    let pod = Pod::start("pod-a").await;
    for front in Front::both(&Setup::chat(&[&pod])).await {
        let mut connection = front.begun().await;
        assert!(connection.try_frames(&[H2Frame::window_update(0, 0x7fff_ffff)]).await);
        let end = connection.h2_frame_that(|frame| frame.go_away_code().is_some()).await;
        assert_eq!(end.unwrap().go_away_code(), Some(FLOW_CONTROL_ERROR));
        front.serves(&pod).await;
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/who", Reply::new(200).body("pod-a"));
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        let mut connections = Vec::new();
        for _ in 0..20 {
            let mut connection = front.begun().await;
            // Fewer than would end the connection, and not one answer is read.
            let pings = vec![H2Frame::ping(); 900];
            assert!(connection.try_frames(&pings).await);
            connections.push(connection);
        }
        front.serves(&pod).await;
        for mut connection in connections {
            for _ in 0..900 {
                connection.h2_frame_that(H2Frame::is_pong).await.unwrap();
            }
        }
        let grown = growth(&front, before);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes");
    }
}
