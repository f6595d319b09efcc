//! Windows both ways: what may be sent is never passed, what is consumed is given back, and a stalled stream stops
//! no other.

use podpin_h2::{Config, End, ErrorCode, Millis, Side, StreamId};

use crate::client::*;

/// The windows that were given back, by stream.
fn updates(server: &mut Server, stream: u32) -> u32 {
    let sent = server.sent();
    sent.iter().filter(|frame| (frame.kind, frame.stream) == (WINDOW_UPDATE, stream)).map(Frame::number).sum()
}

fn answering(server: &mut Server, streams: &[u32]) {
    for stream in streams {
        server.feed(&get(*stream));
        server.stream(*stream).head(200, [], End::No).unwrap();
    }
    server.out.clear();
}

#[test]
fn a_stream_that_sends_more_than_its_window_is_reset() {
    let mut server = Server::new();
    server.consumes = false;
    server.feed(&post(1));
    for _ in 0..4 {
        server.feed(&data(1, 0, &[0; 16_383]));
    }
    let seen = server.feed(&[data(1, 0, &[0; 3]), data(1, 0, b"x"), post(3)].concat());
    assert_eq!(seen[1], Seen::Reset { stream: 1, code: ErrorCode::FLOW_CONTROL_ERROR, by: Side::Server });
    assert!(matches!(seen[2], Seen::Request { stream: 3, .. }));
}

#[test]
fn a_connection_that_sends_more_than_its_window_ends() {
    let mut server =
        Server::with(Config { connection_window: 65_535, stream_window: 65_535, ..Config::default() });
    server.consumes = false;
    server.feed(&[post(1), post(3)].concat());
    for _ in 0..3 {
        server.feed(&data(1, 0, &[0; 16_384]));
    }
    assert_eq!(server.closed_by(&data(3, 0, &[0; 16_383])), None);
    let closed = server.closed_by(&data(3, 0, b"x")).unwrap();
    assert_eq!(closed.code, ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn windows_are_given_back_as_bytes_are_consumed_and_padding_at_once() {
    let mut server = Server::new();
    server.consumes = false;
    server.now = Millis(1_000);
    server.feed(&[post(1), data(1, 0, &[0; 16_384]), data(1, 0, &[0; 16_384])].concat());
    assert_eq!(updates(&mut server, 1), 0, "nothing was consumed");
    server.now = Millis(2_000);
    server.stream(1).consumed(20_000);
    assert_eq!(updates(&mut server, 1), 0, "less than half");
    server.stream(1).consumed(1_000_000);
    assert_eq!(updates(&mut server, 1), 32_768, "no more than came");
    server.now = Millis(9_000);
    let padded = frame(DATA, 0x8, 1, &[&[255][..], &[0; 255]].concat());
    server.feed(&padded.repeat(128));
    assert_eq!(updates(&mut server, 1), 32_768);
}

#[test]
fn bytes_that_nobody_gets_return_to_the_connection() {
    let mut server = Server::with(Config { connection_window: 80_000, ..Config::default() });
    server.consumes = false;
    server.feed(&[post(1), data(1, 0, &[0; 16_384])].concat());
    server.stream(1).reset(ErrorCode::CANCEL);
    assert_eq!(updates(&mut server, 0), 16_384, "held by a stream that is gone");
    server.feed(&data(1, 0, &[0; 16_384]));
    assert_eq!(updates(&mut server, 0), 16_384, "on its way to it");
    server.feed(&request(3, 0, &[&POST[..], &[("te", "x")]].concat()));
    server.feed(&data(3, 0, &[0; 16_384]));
    assert_eq!(updates(&mut server, 0), 16_384, "of a request that was refused");
    // A stream that is reset in the middle of a frame gives back all of it, once.
    server.feed(&post(5));
    let bytes = data(5, 0, &[0; 12_000]);
    server.feed(&bytes[..5_000]);
    server.stream(5).reset(ErrorCode::CANCEL);
    server.feed(&bytes[5_000..]);
    assert_eq!(updates(&mut server, 0), 12_000);
}

#[test]
fn a_body_is_sent_within_both_windows_and_goes_on_when_they_open() {
    let mut server = Server::new();
    server.feed(&settings(&[(4, 10)]));
    answering(&mut server, &[1]);
    assert_eq!(server.stream(1).data(b"0123456789abc", End::Yes), Ok(10));
    assert_eq!(server.stream(1).data(b"abc", End::Yes), Ok(0));
    assert_eq!(server.connection.next_writer(0), None, "its window is shut");
    server.feed(&window_update(1, 2));
    assert_eq!(server.connection.next_writer(0), Some(StreamId::from_number(1)));
    assert_eq!(server.connection.next_writer(0), None, "it is named once");
    assert_eq!(server.stream(1).data(b"abc", End::Yes), Ok(2));
    server.feed(&settings(&[(4, 11)]));
    assert_eq!(server.connection.next_writer(0), Some(StreamId::from_number(1)));
    assert_eq!(server.stream(1).data(b"c", End::Yes), Ok(1));
    let flags: Vec<_> =
        server.sent().iter().filter(|frame| frame.kind == DATA).map(|frame| frame.flags).collect();
    assert_eq!(flags, [0, 0, 1]);
}

#[test]
fn a_window_that_settings_make_negative_stays_shut_until_it_is_positive() {
    let mut server = Server::new();
    answering(&mut server, &[1]);
    assert_eq!(server.stream(1).data(&[0; 1000], End::No), Ok(1000));
    server.feed(&settings(&[(4, 500)]));
    assert_eq!(server.stream(1).capacity(1), 0);
    server.feed(&window_update(1, 500));
    assert_eq!(server.stream(1).capacity(1), 0);
    server.feed(&window_update(1, 1));
    assert_eq!(server.stream(1).capacity(5), 1);
}

#[test]
fn an_end_without_bytes_needs_no_window() {
    let mut server = Server::new();
    server.feed(&settings(&[(4, 0)]));
    answering(&mut server, &[1]);
    assert_eq!(server.stream(1).data(b"", End::Yes), Ok(0));
    assert_eq!(server.sent(), [Frame { kind: DATA, flags: 1, stream: 1, payload: vec![] }]);
}

#[test]
fn a_shut_stream_holds_up_itself_alone() {
    let mut server = Server::new();
    server.feed(&settings(&[(4, 0)]));
    answering(&mut server, &[1, 3]);
    assert_eq!(server.stream(1).data(&[0; 10_000], End::No), Ok(0));
    server.feed(&window_update(3, 60_000));
    for _ in 0..3 {
        assert_eq!(server.stream(3).data(&[0; 16_375], End::No), Ok(16_375));
        server.out.clear();
    }
}

#[test]
fn stalled_uploads_stop_no_other_however_they_had_grown() {
    let mut server = Server::new();
    // Each grows as long as it is consumed at once, then stalls with all that it may send.
    let mut windows = Vec::new();
    for number in 0..99 {
        let stream = 2 * number + 1;
        server.consumes = true;
        server.feed(&post(stream));
        let mut window = 65_535;
        for _ in 0..60 {
            server.feed(&data(stream, 0, &[0; 16_384]));
            window += updates(&mut server, stream);
            window -= 16_384;
        }
        windows.push(window);
        server.consumes = false;
        while window > 0 {
            let count = window.min(16_384);
            server.feed(&data(stream, 0, &vec![0; count as usize]));
            window -= count;
        }
        server.out.clear();
    }
    assert!(windows.iter().any(|window| *window > 500_000), "some grew: {windows:?}");
    assert_eq!(server.connection.closed(), None);
    server.feed(&post(199));
    let mut window = 65_535;
    server.consumes = true;
    for _ in 0..100 {
        assert_eq!(server.feed(&data(199, 0, &[0; 16_384])).len(), 1);
        window = window - 16_384 + updates(&mut server, 199);
        assert!(window >= 16_384, "the last upload goes on");
    }
}
