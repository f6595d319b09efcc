//! HTTP/2 clients that make much of little: heads that mean more than they say, bodies, streams and windows in the smallest
//! pieces.
//!
//! Each is refused or cut off early, its memory is bounded, and others are served meanwhile.

use podpin_testkit::{Answer, H2Frame, Pod, PodStream, Setup, h2_block};

use crate::h2_front::{Front, GET, POST, asked, with_path};

const CALM: u8 = 11;
const COMPRESSION_ERROR: u8 = 9;
/// How many streams one connection may have open.
const STREAMS: u32 = 100;
/// Memory that a thousand refused heads may pin while their answers wait for a window: 16 KiB each; 900 fields would be 237.
const REFUSED_BYTES: u64 = 16 * 1024 * 1024;
/// By how much a proxy may grow through what is cut off at once: allocators keep a little.
const GROWTH_BYTES: u64 = 4 * 1024 * 1024;

/// A request for `/bomb` with a block of so many more fields, each as `field` writes it.
fn bomb(before: &[u8], field: &[u8]) -> Vec<u8> {
    [h2_block(&with_path(&GET, "/bomb")).as_slice(), before, &field.repeat(900)].concat()
}

#[tokio::test]
async fn small_heads_of_many_fields_are_refused_on_their_streams_and_pin_nothing() {
    let pod = Pod::start("pod-a").await;
    let kinds = [
        // A literal that enters HPACK's table, and references to it (RFC 7541 section 6).
        ("references", bomb(&[0x40, 1, b'a', 1, b'b'], &[0xbe])),
        ("cookie crumbs", bomb(&[], &[0xa0])),
        ("empty values by reference", bomb(&[], &[0x8f])),
        ("empty values", bomb(&[], &[0, 1, b'a', 0])),
    ];
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        let mut refused = 0.0;
        for (what, block) in &kinds {
            let mut connections = Vec::new();
            for _ in 0..10 {
                let mut connection = front.connect().await;
                connection.begin_h2(&H2Frame::initial_window(0)).await;
                let heads = (0..STREAMS).map(|number| H2Frame::new(1, 0x5, 2 * number + 1, block.clone()));
                assert!(connection.try_frames(&heads.collect::<Vec<_>>()).await);
                for _ in 0..STREAMS {
                    let answer = connection.h2_frame_that(|frame| frame.status().is_some()).await;
                    assert_ne!(answer.unwrap().status(), Some(200), "{what}");
                }
                connections.push(connection);
            }
            let grown = front.proxy.process.memory_bytes().saturating_sub(before);
            assert!(grown <= REFUSED_BYTES, "{what}: {grown} bytes");
            front.serves(&pod).await;
            refused += 1_000.0;
            let name = "podpin_request_heads_refused_total";
            front.proxy.wait_metric(name, &[("code", "431")], refused).await;
            for connection in &mut connections {
                assert!(connection.try_frames(&[H2Frame::window_update(1, 1000)]).await);
                let end = connection.h2_frame_that(|frame| frame.stream() == 1 && frame.ends_stream()).await;
                assert!(end.is_ok(), "{what}: the connection is over");
            }
        }
    }
    assert_eq!(asked(&pod, "/bomb"), 0);
}

#[tokio::test]
async fn more_table_size_updates_than_two_for_a_head_end_the_connection() {
    let pod = Pod::start("pod-a").await;
    let get = h2_block(&with_path(&GET, "/who"));
    for front in Front::both(&Setup::chat(&[&pod])).await {
        let mut connection = front.begun().await;
        for stream in [1, 3, 5] {
            // The table to nothing, and to 4 KiB again (RFC 7541 section 4.2).
            let block = [&[0x20, 0x3f, 0xe1, 0x1f][..], &get].concat();
            assert!(connection.try_frames(&[H2Frame::new(1, 0x5, stream, block)]).await);
            let answer = connection.h2_frame_that(|frame| frame.status().is_some()).await.unwrap();
            assert_eq!(answer.status(), Some(200));
        }
        let flood = [vec![0x20; 5_000], get.clone()].concat();
        assert!(connection.try_frames(&[H2Frame::new(1, 0x5, 7, flood)]).await);
        let end = connection.h2_frame_that(|frame| frame.go_away_code().is_some()).await.unwrap();
        assert_eq!(end.go_away_code(), Some(COMPRESSION_ERROR));
        front.serves(&pod).await;
    }
}

#[tokio::test]
async fn bodies_and_settings_in_the_smallest_pieces_end_their_connection() {
    let pod = Pod::start("pod-a").await;
    let padded = [&[250, b'x'][..], &[0; 250]].concat();
    let window = [0, 4, 0, 0, 3, 0xe8];
    let kinds = [
        ("DATA of one byte", H2Frame::data(1, *b"x")),
        ("one byte and padding", H2Frame::new(0, 0x8, 1, padded)),
        ("SETTINGS of many entries", H2Frame::new(4, 0, 0, window.repeat(2_700))),
        ("PRIORITY_UPDATE", H2Frame::new(0x10, 0, 0, *b"\0\0\0\x01u=1")),
        ("acknowledged PINGs that were not sent", H2Frame::new(6, 1, 0, [0; 8])),
    ];
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        for (place, (what, frame)) in kinds.iter().enumerate() {
            let mut connection = front.begun().await;
            assert!(connection.try_frames(&[H2Frame::head(1, &with_path(&POST, "/upload"))]).await);
            let piece = frame.bytes().repeat(100);
            let (end, ()) = tokio::join!(connection.flood(&piece), front.serves(&pod));
            assert!(end.go_away_code.is_none_or(|code| code == CALM), "{what}: {end:?}");
            front.wait_cut("frames", u32::try_from(place).unwrap() + 1).await;
        }
        let grown = front.proxy.process.memory_bytes().saturating_sub(before);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes");
    }
}

#[tokio::test]
async fn a_client_that_opens_streams_above_the_limit_again_and_again_is_cut_off() {
    let pod = Pod::start("pod-a").await;
    pod.answer("/held", Answer::ByHand);
    let head = with_path(&GET, "/held");
    let flood: Vec<H2Frame> =
        (0..STREAMS + 5_000).map(|number| H2Frame::request(2 * number + 1, &head)).collect();
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let (before, earlier) = (front.proxy.process.memory_bytes(), asked(&pod, "/held"));
        let mut connection = front.begun().await;
        // It may be cut off while it sends.
        let _cut = connection.try_frames(&flood).await;
        let (end, ()) = tokio::join!(connection.h2_frame_that(|_| false), front.serves(&pod));
        end.unwrap_err();
        front.wait_cut("frames", 1).await;
        let grown = front.proxy.process.memory_bytes().saturating_sub(before);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes");
        assert!(asked(&pod, "/held") - earlier <= STREAMS as usize);
        drop(pod.waiting_streams().await);
    }
}

/// A response without end, from a pod that writes until it is left.
async fn pour(mut upstream: PodStream) {
    if upstream.try_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000000\r\n\r\n").await {
        while upstream.try_raw(&[b'x'; 40_000]).await {}
    }
}

#[tokio::test]
async fn responses_that_are_drawn_byte_by_byte_hold_little() {
    const DRAWN: u32 = 20;
    const ROUNDS: usize = 100;
    let pod = Pod::start("pod-a").await;
    pod.answer("/drawn", Answer::ByHand);
    for front in Front::both(&Setup::chat(&[&pod])).await {
        front.serves(&pod).await;
        let before = front.proxy.process.memory_bytes();
        let mut connection = front.connect().await;
        connection.begin_h2(&H2Frame::initial_window(0)).await;
        let streams: Vec<u32> = (0..DRAWN).map(|number| 2 * number + 1).collect();
        let head = with_path(&GET, "/drawn");
        let heads: Vec<_> = streams.iter().map(|stream| H2Frame::request(*stream, &head)).collect();
        assert!(connection.try_frames(&heads).await);
        let mut upstreams = Vec::new();
        for _ in 0..DRAWN {
            upstreams.push(tokio::spawn(pour(pod.next_stream().await)));
        }
        let updates: Vec<_> = streams.iter().map(|stream| H2Frame::window_update(*stream, 1)).collect();
        for _ in 0..ROUNDS {
            assert!(connection.try_frames(&updates).await);
            let mut drawn = 0;
            while drawn < updates.len() {
                let frame = connection.h2_frame_that(|frame| frame.body_bytes().is_some()).await.unwrap();
                assert_eq!(frame.body_bytes(), Some(1));
                drawn += 1;
            }
        }
        front.serves(&pod).await;
        let grown = front.proxy.process.memory_bytes().saturating_sub(before);
        assert!(grown <= GROWTH_BYTES, "{grown} bytes");
        drop(connection);
        for upstream in upstreams {
            upstream.await.unwrap();
        }
    }
}
