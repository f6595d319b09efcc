//! How a connection begins and ends: prefaces, settings, deadlines, two GOAWAYs.

use std::time::Duration;

use podpin_h2::{Cause, Config, End, ErrorCode, Excess, Millis, Trust};

use crate::client::*;

const SECOND: u64 = 1000;

fn code(bytes: &[u8]) -> Option<ErrorCode> {
    Server::new().closed_by(bytes).map(|closed| closed.code)
}

#[test]
fn broken_framing_ends_the_connection_with_its_code() {
    let cases = [
        (frame(DATA, 0, 0, b"x"), ErrorCode::PROTOCOL_ERROR),
        (frame(DATA, 0, 1, b"x"), ErrorCode::PROTOCOL_ERROR),
        (frame(HEADERS, 5, 2, &block(&GET)), ErrorCode::PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, &[0; 4]), ErrorCode::PROTOCOL_ERROR),
        (window_update(1, 1), ErrorCode::PROTOCOL_ERROR),
        (window_update(0, 0), ErrorCode::PROTOCOL_ERROR),
        (window_update(0, 0x7fff_ffff), ErrorCode::FLOW_CONTROL_ERROR),
        (frame(CONTINUATION, 4, 1, b""), ErrorCode::PROTOCOL_ERROR),
        ([frame(HEADERS, 0, 1, b""), frame(PING, 0, 0, &[0; 8])].concat(), ErrorCode::PROTOCOL_ERROR),
        ([frame(HEADERS, 0, 1, b""), frame(CONTINUATION, 4, 3, b"")].concat(), ErrorCode::PROTOCOL_ERROR),
        ([frame(HEADERS, 0, 1, b""), frame(0x77, 0, 0, b"")].concat(), ErrorCode::PROTOCOL_ERROR),
        (frame(HEADERS, 5, 1, &[0xbf]), ErrorCode::COMPRESSION_ERROR),
        (frame(HEADERS, 5, 1, &[0x00, 0x05]), ErrorCode::COMPRESSION_ERROR),
        (settings(&[(4, 0x8000_0000)]), ErrorCode::FLOW_CONTROL_ERROR),
        (
            [get(1), window_update(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])].concat(),
            ErrorCode::FLOW_CONTROL_ERROR,
        ),
        (frame(5, 4, 1, &[0; 4]), ErrorCode::PROTOCOL_ERROR),
        (frame(DATA, 0, 1, &[0; 16_385]), ErrorCode::FRAME_SIZE_ERROR),
    ];
    for (bytes, expected) in cases {
        assert_eq!(code(&bytes), Some(expected), "{:?}", &bytes[..9]);
        let mut server = Server::new();
        server.feed(&bytes);
        let sent = server.sent();
        let last = sent.last().unwrap();
        assert_eq!((last.kind, last.number()), (GOAWAY, expected.0));
        assert_eq!(server.feed(&get(5)), [], "nothing is read behind the end");
        assert_eq!((server.connection.due(), server.connection.is_finished()), (None, true));
    }
}

#[test]
fn a_connection_begins_with_preface_and_settings() {
    let wrong: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
        &[PREFACE, &frame(SETTINGS, 1, 0, &[])].concat(),
        &[PREFACE, &get(1)].concat(),
    ];
    for bytes in wrong {
        let mut server = Server::fresh(Config::default(), Trust::Client);
        assert_eq!(server.closed_by(bytes).map(|closed| closed.code), Some(ErrorCode::PROTOCOL_ERROR));
    }
    let mut server = Server::fresh(Config::default(), Trust::Client);
    assert_eq!(server.connection.due(), Some(Millis(10 * SECOND)));
    server.feed(&PREFACE[..10]);
    let closed = server.connection.handle_timeout(Millis(10 * SECOND), &mut server.out).unwrap();
    assert_eq!(closed.cause, Cause::Excess(Excess::Unfinished));
}

#[test]
fn settings_are_acknowledged_each_way() {
    let mut server = Server::fresh(Config::default(), Trust::Client);
    let sent = server.sent();
    assert_eq!((sent[0].kind, sent[0].flags), (SETTINGS, 0));
    assert_eq!((sent[1].kind, sent[1].stream, sent[1].number()), (WINDOW_UPDATE, 0, (16 << 20) - 65_535));
    server.feed(&[PREFACE, &settings(&[(3, 100)])].concat());
    assert_eq!(server.sent(), [Frame { kind: SETTINGS, flags: 1, stream: 0, payload: vec![] }]);
    server.feed(&get(1));
    assert_eq!(server.connection.due(), Some(Millis(30 * SECOND)), "ours are not acknowledged");
    let closed = server.connection.handle_timeout(Millis(30 * SECOND), &mut server.out).unwrap();
    assert_eq!((closed.code, closed.cause), (ErrorCode::SETTINGS_TIMEOUT, Cause::Unanswered));
}

#[test]
fn a_ping_is_answered_with_its_payload() {
    let mut server = Server::new();
    server.feed(&frame(PING, 0, 0, b"12345678"));
    assert_eq!(server.sent(), [Frame { kind: PING, flags: 1, stream: 0, payload: b"12345678".to_vec() }]);
}

#[test]
fn a_head_has_so_long_from_its_first_byte_to_its_last_and_a_body_has_not() {
    let mut server = Server::new();
    server.feed(&post(1));
    let headers = frame(HEADERS, 0, 3, &block(&GET));
    let due = |server: &Server| server.connection.due().map(|due| due.0);
    assert_eq!(due(&server), None, "a stream is open");
    server.now = Millis(5);
    server.feed(&headers[..4]);
    assert_eq!(due(&server), Some(5 + 10 * SECOND), "within the frame's head");
    server.now = Millis(6);
    server.feed(&headers[4..]);
    assert_eq!(due(&server), Some(5 + 10 * SECOND), "before END_HEADERS");
    server.feed(&frame(CONTINUATION, 0, 3, b""));
    assert_eq!(due(&server), Some(5 + 10 * SECOND), "an empty continuation changes nothing");
    server.feed(&frame(CONTINUATION, END_HEADERS, 3, b""));
    assert_eq!(due(&server), None);
    let body = data(1, 0, &[0; 100]);
    server.feed(&body[..50]);
    assert_eq!(due(&server), None, "within a body");
    server.feed(&body[50..]);
    server.feed(&frame(PING, 0, 0, &[0; 8])[..12]);
    assert_eq!(due(&server), Some(6 + 10 * SECOND));
    // A byte that comes too late is not better than none.
    server.now = Millis(6 + 10 * SECOND);
    let closed = server.closed_by(&[0]).unwrap();
    assert_eq!(
        (closed.code, closed.cause),
        (ErrorCode::ENHANCE_YOUR_CALM, Cause::Excess(Excess::Unfinished))
    );
}

#[test]
fn silence_has_its_limits() {
    let mut server = Server::new();
    assert_eq!(server.connection.due(), Some(Millis(10 * SECOND)), "before the first request");
    server.now = Millis(5 * SECOND);
    server.feed(&get(1));
    assert_eq!(server.connection.due(), None);
    server.now = Millis(100 * SECOND);
    server.stream(1).head(200, [], End::Yes).unwrap();
    assert_eq!(server.connection.due(), Some(Millis(160 * SECOND)), "after the last stream");
    assert_eq!(server.connection.handle_timeout(Millis(160 * SECOND - 1), &mut server.out), None);
    let closed = server.connection.handle_timeout(Millis(160 * SECOND), &mut server.out).unwrap();
    assert_eq!((closed.code, closed.cause), (ErrorCode::NO_ERROR, Cause::Idle));
}

#[test]
fn a_silent_client_with_open_streams_is_asked_whether_it_lives() {
    let config = || Config { ping_interval: Some(Duration::from_secs(20)), ..Config::default() };
    for answers in [true, false] {
        let mut server = Server::with(config());
        server.now = Millis(SECOND);
        server.feed(&get(1));
        server.out.clear();
        assert_eq!(server.connection.due(), Some(Millis(21 * SECOND)));
        assert_eq!(server.connection.handle_timeout(Millis(21 * SECOND), &mut server.out), None);
        let ping = server.sent().remove(0);
        assert_eq!((ping.kind, ping.flags), (PING, 0));
        assert_eq!(server.connection.due(), Some(Millis(41 * SECOND)));
        if answers {
            server.now = Millis(22 * SECOND);
            server.feed(&frame(PING, 1, 0, &ping.payload));
            assert_eq!(server.connection.due(), Some(Millis(42 * SECOND)));
        } else {
            server.now = Millis(30 * SECOND);
            server.feed(&window_update(1, 1));
            assert_eq!(server.connection.due(), Some(Millis(50 * SECOND)), "it lives, whatever it sends");
            let closed = server.connection.handle_timeout(Millis(50 * SECOND), &mut server.out).unwrap();
            assert_eq!(closed.cause, Cause::Unanswered);
        }
    }
}

#[test]
fn no_client_is_asked_whether_it_lives_without_a_stream_or_behind_output_that_it_does_not_take() {
    let config = Config { ping_interval: Some(Duration::from_secs(60)), ..Config::default() };
    let mut server = Server::with(config);
    server.feed(&get(1));
    server.out = vec![0; 9];
    assert_eq!(server.connection.handle_timeout(Millis(60 * SECOND), &mut server.out), None);
    assert_eq!((server.out.len(), server.connection.due()), (9, Some(Millis(120 * SECOND))));
    server.out.clear();
    assert_eq!(server.connection.handle_timeout(Millis(120 * SECOND), &mut server.out), None);
    assert_eq!(server.sent().len(), 1);
    assert_eq!(server.connection.due(), Some(Millis(150 * SECOND)), "no longer than other acknowledgements");
    server.out = vec![0; 9];
    assert_eq!(server.connection.handle_timeout(Millis(150 * SECOND), &mut server.out), None);
    server.out.clear();
    let mut server =
        Server::with(Config { ping_interval: Some(Duration::from_secs(1)), ..Config::default() });
    server.feed(&get(1));
    server.stream(1).head(200, [], End::Yes).unwrap();
    assert_eq!(server.connection.due(), Some(Millis(60 * SECOND)), "the end of an idle connection");
}

#[test]
fn a_connection_leaves_in_two_steps() {
    for acknowledges in [true, false] {
        let mut server = Server::new();
        server.feed(&get(1));
        server.connection.shut_down(server.now, &mut server.out);
        let sent = server.sent();
        assert_eq!((sent[0].kind, &sent[0].payload[..4]), (GOAWAY, &[0x7f, 0xff, 0xff, 0xff][..]));
        assert_eq!(server.feed(&get(3)).len(), 1, "a stream on its way is served");
        if acknowledges {
            server.feed(&frame(PING, 1, 0, &sent[1].payload));
        } else {
            assert_eq!(server.connection.due(), Some(Millis(SECOND)));
            assert_eq!(server.connection.handle_timeout(Millis(SECOND), &mut server.out), None);
        }
        let last = server.sent().pop().unwrap();
        assert_eq!((last.kind, last.payload), (GOAWAY, vec![0, 0, 0, 3, 0, 0, 0, 0]));
        let ignored = [post(5), data(5, 0, b"x"), window_update(5, 1), reset(5)].concat();
        assert_eq!((server.feed(&ignored), server.sent()), (vec![], vec![]));
        server.stream(1).head(200, [], End::Yes).unwrap();
        assert!(!server.connection.is_finished());
        server.stream(3).head(200, [], End::Yes).unwrap();
        assert!(server.connection.is_finished());
    }
}

#[test]
fn a_client_that_leaves_is_finished_with_its_last_stream() {
    let mut server = Server::new();
    server.feed(&[get(1), frame(GOAWAY, 0, 0, &[0; 12])].concat());
    assert!(!server.connection.is_finished());
    server.stream(1).head(200, [], End::Yes).unwrap();
    assert!(server.connection.is_finished());
}
