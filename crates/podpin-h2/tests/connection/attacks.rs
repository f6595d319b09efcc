//! Each known attack, its bound, and what it cannot do to memory or to others.

use podpin_h2::{Cause, Config, End, ErrorCode, Excess, Millis, Trust};

use crate::client::*;

/// How many times these bytes are taken before the connection ends, each `pause` milliseconds after the one before.
fn taken(mut server: Server, pause: u64, mut bytes: impl FnMut(u32) -> Vec<u8>) -> (u32, Option<Excess>) {
    for count in 0..12_000 {
        server.now = Millis(u64::from(count) * pause);
        match server.closed_by(&bytes(count)).map(|closed| (closed.code, closed.cause)) {
            Some((code, Cause::Excess(excess))) => {
                assert_eq!(code, ErrorCode::ENHANCE_YOUR_CALM);
                return (count, Some(excess));
            }
            Some(other) => panic!("{other:?} after {count}"),
            // The client reads what it is sent.
            None => server.out.clear(),
        }
    }
    (12_000, None)
}

/// A server with one upload under way.
fn uploading(trust: Trust) -> Server {
    let mut server = Server::trusting(Config::default(), trust);
    server.feed(&post(1));
    server
}

#[test]
fn frames_that_bring_nothing_have_a_budget_that_heals() {
    let kinds: [(&str, Vec<u8>); 11] = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PING that answers nothing", frame(PING, 1, 0, &[0; 8])),
        ("SETTINGS", settings(&[])),
        ("SETTINGS that answer nothing", frame(SETTINGS, 1, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0; 5])),
        ("PRIORITY_UPDATE", frame(0x10, 0, 0, b"\0\0\0\x01u=1")),
        ("an unknown type", frame(0x77, 0, 0, b"anything")),
        ("GOAWAY", frame(GOAWAY, 0, 0, &[0; 8])),
        ("DATA without a byte", data(1, 0, b"")),
        ("DATA that is all padding", frame(DATA, 0x8, 1, &[3, 0, 0, 0])),
        ("WINDOW_UPDATE", window_update(1, 1)),
    ];
    for (what, bytes) in kinds {
        let (count, excess) = taken(uploading(Trust::Client), 0, |_| bytes.clone());
        assert!((1000..=1003).contains(&count), "{what}: {count}");
        assert_eq!(excess, Some(Excess::Frames), "{what}");
        assert_eq!(
            taken(uploading(Trust::Client), 10, |_| bytes.clone()),
            (12_000, None),
            "{what}: 100 a second"
        );
        let (count, _) = taken(uploading(Trust::Proxy(5)), 0, |_| bytes.clone());
        assert!((5000..=5003).contains(&count), "{what}: {count} of a trusted proxy");
    }
}

#[test]
fn resets_of_streams_that_were_never_opened_end_a_clients_connection_and_not_a_proxys() {
    for stream in [0, 5, 4] {
        let closed = uploading(Trust::Client).closed_by(&reset(stream)).unwrap();
        assert_eq!(closed.code, ErrorCode::PROTOCOL_ERROR, "{stream}");
        let mut server = uploading(Trust::Proxy(2));
        assert_eq!(server.closed_by(&reset(stream)), None, "{stream}");
        assert_eq!(server.closed_by(&[get(3), get(7), data(1, END_STREAM, b"x")].concat()), None, "{stream}");
        let (count, excess) = taken(server, 0, |_| reset(stream));
        assert!(
            count < 600 && excess == Some(Excess::Resets),
            "{stream}: they are charged, {count} {excess:?}"
        );
    }
}

#[test]
fn settings_are_charged_by_their_entries_and_move_windows_once() {
    let many = settings(&vec![(4, 1000); 2700]);
    let (count, excess) = taken(uploading(Trust::Client), 0, |_| many.clone());
    assert_eq!((count, excess), (5, Some(Excess::Frames)));
}

#[test]
fn tiny_pieces_of_bodies_are_charged_by_what_they_cost() {
    let (count, excess) = taken(uploading(Trust::Client), 0, |_| data(1, 0, b"x"));
    assert!((4_000..4_300).contains(&count), "{count}");
    assert_eq!(excess, Some(Excess::Frames));
    assert_eq!(taken(uploading(Trust::Client), 3, |_| data(1, 0, b"x")), (12_000, None), "333 a second");
    assert_eq!(
        taken(uploading(Trust::Client), 0, |_| data(1, 0, &[b'x'; 32])),
        (12_000, None),
        "short lines"
    );
    let padded = frame(DATA, 0x8, 1, &[&[250, b'x'][..], &[0; 250]].concat());
    let (count, _) = taken(uploading(Trust::Client), 0, |_| padded.clone());
    assert!((4_000..4_300).contains(&count), "padding is no payload: {count}");
}

#[test]
fn rapid_resets_have_a_budget() {
    let burst = |count| [get(2 * count + 1), reset(2 * count + 1)].concat();
    let (count, excess) = taken(Server::new(), 0, burst);
    assert_eq!((count, excess), (266, Some(Excess::Resets)));
    assert_eq!(taken(Server::new(), 50, burst), (12_000, None), "20 a second");
    let (count, _) = taken(Server::trusting(Config::default(), Trust::Proxy(10)), 0, burst);
    assert!(count > 2_600, "{count}");
}

#[test]
fn resets_that_the_client_provokes_have_a_budget() {
    type Provocation = fn(u32) -> Vec<u8>;
    let kinds: [(&str, Provocation); 6] = [
        ("a window of nothing", |stream| [get(stream), window_update(stream, 0)].concat()),
        ("a window that is too large", |stream| [get(stream), window_update(stream, 0x7fff_ffff)].concat()),
        ("a body behind the end", |stream| [get(stream), data(stream, 0, b"x")].concat()),
        ("trailers behind the end", |stream| [get(stream), request(stream, 1, &[("x", "y")])].concat()),
        ("a stream that depends on itself", |stream| {
            [post(stream), frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[0]].concat())].concat()
        }),
        ("a head that depends on itself", |stream| {
            frame(HEADERS, 0x25, stream, &[&stream.to_be_bytes()[..], &[0], &block(&GET)].concat())
        }),
    ];
    for (what, provocation) in kinds {
        let (count, excess) = taken(Server::new(), 0, |count| provocation(2 * count + 1));
        assert_eq!((count, excess), (111, Some(Excess::Provoked)), "{what}");
        assert_eq!(taken(Server::new(), 200, |count| provocation(2 * count + 1)), (12_000, None), "{what}");
    }
}

#[test]
fn malformed_requests_that_are_answered_have_the_same_budget() {
    let bad = [&GET[..], &[("connection", "close")]].concat();
    let mut server = Server::new();
    for count in 0..111 {
        let stream = 2 * count + 1;
        assert_eq!(server.feed(&request(stream, END_STREAM, &bad)).len(), 1);
        server.stream(stream).head(400, [], End::Yes).unwrap();
        server.out.clear();
    }
    let closed = server.closed_by(&request(223, END_STREAM, &bad)).unwrap();
    assert_eq!(closed.cause, Cause::Excess(Excess::Provoked));
}

#[test]
fn streams_above_the_limit_are_refused_and_have_a_budget() {
    let mut server = Server::new();
    for stream in 0..100 {
        assert_eq!(server.feed(&get(2 * stream + 1)).len(), 1);
    }
    assert_eq!(server.feed(&get(201)), []);
    assert!(server.sent().pop().unwrap().is_reset(201, ErrorCode::REFUSED_STREAM));
    server.stream(1).head(200, [], End::Yes).unwrap();
    assert_eq!(server.feed(&get(203)).len(), 1, "there is room for one");
    let (count, excess) = taken(server, 0, |count| get(2 * count + 205));
    assert_eq!((count, excess), (1000, Some(Excess::Frames)));
}

#[test]
fn a_head_over_continuations_is_bounded_in_frames_and_bytes() {
    let begun = || {
        let mut server = Server::new();
        server.feed(&frame(HEADERS, 0, 1, &block(&GET)));
        server
    };
    let pieces =
        [("empty", vec![], 32), ("small", vec![0, 1, b'a', 1, b'b'], 32), ("large", vec![0x82; 16_000], 12)];
    for (what, piece, most) in pieces {
        let (count, excess) = taken(begun(), 0, |_| frame(CONTINUATION, 0, 1, &piece));
        assert_eq!((count, excess), (most, Some(Excess::Frames)), "{what}");
    }
}

#[test]
fn a_bomb_of_references_is_refused_and_pins_nothing() {
    // One field of 4,000 bytes in the table, named again and again; and 900 one-byte references to a tiny one.
    let long =
        [block(&GET), b"\x40\x01x\x7f\xa1\x1e".to_vec(), vec![b'y'; 4_000], vec![0xbe; 8_000]].concat();
    let tiny = [block(&GET), b"\x40\x01x\x01y".to_vec(), vec![0xbe; 900]].concat();
    let crumbs = [block(&GET), b"\x40\x06cookie\x01a".to_vec(), vec![0xbe; 900]].concat();
    let empty = [block(&GET), b"\x40\x01x\x00".to_vec(), vec![0xbe; 900]].concat();
    for (what, bomb) in [("long", long), ("tiny", tiny), ("crumbs", crumbs), ("empty values", empty)] {
        let mut server = Server::new();
        let pieces: Vec<_> = bomb.chunks(16_000).collect();
        let mut bytes = frame(HEADERS, END_STREAM, 1, pieces[0]);
        let before = server.connection.heap_bytes();
        assert_eq!(server.feed(&bytes), []);
        assert!(
            server.connection.heap_bytes() <= before + 7 * 1024 + 1024,
            "{what}: {}",
            server.connection.heap_bytes()
        );
        bytes.clear();
        bytes.extend(frame(CONTINUATION, END_HEADERS, 1, b""));
        assert_eq!(server.feed(&bytes), [Seen::Refused { stream: 1, status: 431 }], "{what}");
    }
}

#[test]
fn a_head_that_never_ends_holds_what_one_head_may() {
    // A value of 65,000 bytes, twice what a head may have: nothing of it is kept. One of 30,000: it is, until it is
    // whole.
    for (length, most) in [(&b"\x7f\xe9\xfa\x03"[..], 4 * 1024), (b"\x7f\xb1\xe9\x01", 64 * 1024)] {
        let mut server = Server::new();
        server.feed(&frame(HEADERS, 0, 1, &[&block(&GET), &b"\x00\x01x"[..], length].concat()));
        for _ in 0..29 {
            server.feed(&frame(CONTINUATION, 0, 1, &[b'v'; 1_000]));
            let held = server.connection.heap_bytes();
            assert!(held <= most, "{held}");
        }
    }
}

#[test]
fn a_head_holds_no_more_than_its_bound_while_it_is_decoded() {
    // Each reference names 4,000 bytes: the bound has room for eight of them.
    let bomb = [block(&GET), b"\x40\x01x\x7f\xa1\x1e".to_vec(), vec![b'y'; 4_000]].concat();
    let mut server = Server::new();
    server.feed(&frame(HEADERS, 0, 1, &bomb));
    for _ in 0..30 {
        let info = allocation_counter::measure(|| drop(server.feed(&frame(CONTINUATION, 0, 1, &[0xbe]))));
        assert!(info.bytes_max <= 80 * 1024, "{info:?}");
        assert!(server.connection.heap_bytes() <= 80 * 1024);
    }
    // In one piece nothing beyond the bound is ever decoded.
    let mut server = Server::new();
    let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &[bomb, vec![0xbe; 8_000]].concat());
    let info = allocation_counter::measure(|| drop(server.feed(&bytes)));
    assert!(info.bytes_max <= 128 * 1024, "{info:?}");
}

#[test]
fn table_sizes_are_bounded_in_number_and_place() {
    for update in [&[0x20, 0x20, 0x20][..], &[0x82, 0x20], &[0x3f, 0xe2, 0x1f]] {
        let bytes = frame(HEADERS, 5, 1, &[update, &block(&GET)].concat());
        assert_eq!(
            Server::new().closed_by(&bytes).map(|closed| closed.code),
            Some(ErrorCode::COMPRESSION_ERROR)
        );
    }
}

#[test]
fn answers_to_a_client_that_reads_nothing_end() {
    let mut server = Server::trusting(Config::default(), Trust::Proxy(1000));
    let mut count = 0;
    while server.connection.closed().is_none() && server.connection.wants_input(server.out.len()) {
        server.feed(&frame(PING, 0, 0, &[0; 8]));
        count += 1;
    }
    assert!(count * 17 <= 81 * 1024 + 17, "the caller stops reading: {count}");
    while server.connection.closed().is_none() {
        server.feed(&frame(PING, 0, 0, &[0; 8]));
        assert!(server.out.len() <= (64 + 256) * 1024 + 100);
    }
}
