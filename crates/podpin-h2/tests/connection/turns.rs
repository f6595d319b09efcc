//! The order of bytes among streams: round robin by frame, urgency, and events that wait for no download.

use std::collections::HashMap;

use podpin_h2::{Config, End, ErrorCode, StreamId};
use proptest::prelude::*;

use crate::client::*;

const WINDOW: u32 = 0x7fff_ffff - 70_000;

/// Streams that are answered and whose windows are wide open.
fn downloads(count: u32) -> Server {
    let mut server = Server::new();
    server.feed(&[settings(&[(4, WINDOW)]), window_update(0, WINDOW)].concat());
    for number in 0..count {
        server.feed(&get(2 * number + 1));
        server.stream(2 * number + 1).head(200, [], End::No).unwrap();
    }
    server.out.clear();
    server
}

/// Sends on a stream until it is refused; returns the bytes.
fn send(server: &mut Server, stream: u32, piece: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        match server.stream(stream).data(piece, End::No).unwrap() {
            0 => return sent,
            count => sent += count,
        }
    }
}

#[test]
fn downloads_share_by_turns_of_a_frame() {
    let mut server = downloads(5);
    let mut sent: HashMap<u32, usize> = HashMap::new();
    for stream in [1, 3, 5, 7, 9] {
        *sent.entry(stream).or_default() += send(&mut server, stream, &[0; 100_000]);
    }
    assert!(server.out.len() <= 64 * 1024, "output is bounded: {}", server.out.len());
    for _ in 0..1000 {
        server.out.clear();
        while let Some(id) = server.connection.next_writer(server.out.len()) {
            *sent.entry(id.get()).or_default() += send(&mut server, id.get(), &[0; 100_000]);
        }
        assert!(server.out.len() <= 64 * 1024 && !server.out.is_empty());
    }
    let (least, most) = (sent.values().min().unwrap(), sent.values().max().unwrap());
    assert!(most - least <= 5 * 16_384, "{sent:?}");
}

#[test]
fn an_event_goes_at_once_behind_a_full_output() {
    let mut server = downloads(3);
    send(&mut server, 1, &[0; 100_000]);
    send(&mut server, 3, &[0; 100_000]);
    let before = server.out.len();
    assert!(before + 9 + 2048 > 64 * 1024, "downloads have filled the output");
    assert_eq!(server.stream(5).data(&[b'e'; 300], End::No), Ok(300));
    assert_eq!(server.out.len(), before + 309);
    // And one does not wait for the turns of others either.
    server.out.clear();
    assert_eq!(server.stream(5).data(&[b'e'; 300], End::No), Ok(300));
    assert_eq!(server.stream(5).data(&[b'e'; 3000], End::No), Ok(0), "a large one does");
}

#[test]
fn small_writes_are_bounded_as_well() {
    let mut server = downloads(1);
    while server.stream(1).data(&[b'e'; 300], End::No).unwrap() > 0 {}
    assert!((60 * 1024..=80 * 1024).contains(&server.out.len()), "{}", server.out.len());
}

#[test]
fn an_urgent_stream_goes_before_others_and_one_without_hurry_behind() {
    let mut server = downloads(3);
    server.stream(3).set_urgency(1);
    server.stream(5).set_urgency(6);
    server.feed(&request(7, END_STREAM, &[&GET[..], &[("priority", "u=0")]].concat()));
    server.stream(7).head(200, [], End::No).unwrap();
    for stream in [1, 3, 5, 7] {
        send(&mut server, stream, &[0; 100_000]);
    }
    server.out.clear();
    let order: Vec<u32> =
        std::iter::from_fn(|| server.connection.next_writer(0)).map(StreamId::get).collect();
    assert_eq!(order, [7, 3, 1, 5]);
}

#[test]
fn a_turn_that_is_not_taken_is_lost_with_its_stream() {
    let mut server = downloads(2);
    send(&mut server, 1, &[0; 100_000]);
    assert_eq!(send(&mut server, 3, &[0; 100_000]), 0);
    server.out.clear();
    let granted = server.connection.next_writer(0).unwrap();
    server.stream(granted.get()).reset(ErrorCode::CANCEL);
    let other = server.connection.next_writer(0).unwrap();
    assert_ne!(granted, other);
    assert!(send(&mut server, other.get(), &[0; 100_000]) > 0);
}

#[test]
fn a_stream_that_is_named_can_send_however_much_output_waits() {
    for size in [0, 4096, 64 * 1024] {
        let mut server = Server::with(Config { output_bytes_max: size, ..Config::default() });
        server.feed(&[settings(&[(4, WINDOW)]), window_update(0, WINDOW), get(1), get(3)].concat());
        for stream in [1, 3] {
            server.stream(stream).head(200, [], End::No).unwrap();
            send(&mut server, stream, &[0; 100_000]);
        }
        for free in 0..4096 {
            server.out.resize(size.max(4096).saturating_sub(free), 0);
            while let Some(id) = server.connection.next_writer(server.out.len()) {
                assert!(send(&mut server, id.get(), &[0; 100_000]) > 0, "{free} bytes are free");
            }
        }
        server.out.clear();
        assert!(server.connection.next_writer(0).is_some());
    }
}

proptest! {
    #[test]
    fn nothing_is_sent_beyond_windows_and_all_is_sent_within(
        steps in prop::collection::vec((0_u32..4, 0_usize..30_000, 0_u32..40_000, any::<bool>()), 1..150),
        initial in 0_u32..100_000,
    ) {
        let mut server = Server::new();
        server.feed(&settings(&[(4, initial)]));
        for number in 0..4 {
            server.feed(&get(2 * number + 1));
            server.stream(2 * number + 1).head(200, [], End::No).unwrap();
        }
        server.out.clear();
        let mut windows = [u64::from(initial); 4];
        let mut connection = 65_535_u64;
        let mut held = [0_usize; 4];
        for (which, bytes, update, is_connection) in steps {
            let stream = 2 * which + 1;
            held[which as usize] += bytes;
            let mut writers = vec![which];
            if update > 0 {
                let target = if is_connection { 0 } else { stream };
                let limit = if is_connection { &mut connection } else { &mut windows[which as usize] };
                if *limit + u64::from(update) <= 0x7fff_ffff {
                    *limit += u64::from(update);
                    server.feed(&window_update(target, update));
                }
            }
            loop {
                for which in writers.drain(..) {
                    let piece = vec![0; held[which as usize]];
                    held[which as usize] -= server.stream(2 * which + 1).data(&piece, End::No).unwrap();
                }
                for frame in server.sent().iter().filter(|frame| frame.kind == DATA) {
                    let length = frame.payload.len() as u64;
                    let window = &mut windows[(frame.stream / 2) as usize];
                    prop_assert!(length <= *window && length <= connection);
                    prop_assert!(length > 0);
                    *window -= length;
                    connection -= length;
                }
                match server.connection.next_writer(0) {
                    Some(id) => writers.push(id.get() / 2),
                    None => break,
                }
            }
            // A stream that still holds bytes has no window.
            for (which, held) in held.iter().enumerate() {
                prop_assert!(*held == 0 || windows[which] == 0 || connection == 0, "{held} held by {which}");
            }
        }
    }
}
