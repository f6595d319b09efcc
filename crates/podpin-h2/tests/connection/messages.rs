//! Requests and responses: what passes, what is refused, and how streams end.

use podpin_h2::{Config, End, ErrorCode, Field, SendError, Side};

use crate::client::*;

#[test]
fn a_request_with_a_body_and_trailers_passes() {
    let mut server = Server::new();
    let bytes =
        [post(1), data(1, 0, b"ab"), data(1, 0, b"c"), request(1, END_STREAM, &[("x-sum", "3")])].concat();
    let expected = [
        Seen::Request { stream: 1, path: "/".to_owned(), ends: false },
        Seen::Data { stream: 1, bytes: b"abc".to_vec(), ends: false },
        Seen::Trailers { stream: 1, lines: "x-sum: 3\r\n".to_owned() },
    ];
    assert_eq!(server.feed(&bytes), expected);
}

#[test]
fn a_response_has_interim_heads_a_head_a_body_and_trailers() {
    let mut server = Server::new();
    server.feed(&get(1));
    let mut stream = server.stream(1);
    stream.interim(103, [Field::new("link", "</a>; rel=preload")]).unwrap();
    stream.interim(103, []).unwrap();
    assert_eq!(stream.data(b"early", End::No), Err(SendError::NoHead));
    assert_eq!(stream.trailers([]), Err(SendError::NoHead));
    assert_eq!(
        (stream.interim(101, []), stream.head(150, [], End::No)),
        (Err(SendError::Status), Err(SendError::Status))
    );
    stream
        .head(200, [Field::new("Content-Type", "text/plain"), Field::new("Connection", "close")], End::No)
        .unwrap();
    assert_eq!(stream.head(200, [], End::No), Err(SendError::HasHead));
    assert_eq!(stream.interim(103, []), Err(SendError::HasHead));
    assert_eq!(stream.data(b"hello", End::No), Ok(5));
    stream.trailers([Field::new("grpc-status", "0")]).unwrap();
    assert_eq!(stream.data(b"late", End::No), Err(SendError::Ended));
    let sent = server.sent();
    let shape: Vec<_> = sent.iter().map(|frame| (frame.kind, frame.flags, frame.stream)).collect();
    assert_eq!(shape, [(HEADERS, 4, 1), (HEADERS, 4, 1), (HEADERS, 4, 1), (DATA, 0, 1), (HEADERS, 5, 1)]);
    assert!(!sent[2].payload.windows(10).any(|window| window.eq_ignore_ascii_case(b"connection")));
    assert_eq!(server.connection.open_streams(), 0);
}

#[test]
fn a_head_may_end_the_response_and_a_body_may_end_with_nothing() {
    let mut server = Server::new();
    server.feed(&[get(1), get(3)].concat());
    server.stream(1).head(304, [], End::Yes).unwrap();
    server.stream(3).head(200, [], End::No).unwrap();
    assert_eq!(server.stream(3).data(b"", End::Yes), Ok(0));
    let sent = server.sent();
    assert_eq!(sent[0], Frame { kind: HEADERS, flags: 5, stream: 1, payload: vec![0x20, 0x8b] });
    assert_eq!(sent[2], Frame { kind: DATA, flags: 1, stream: 3, payload: vec![] });
    assert_eq!(server.connection.open_streams(), 0);
}

#[test]
fn a_body_is_framed_where_it_stands() {
    let mut server = Server::new();
    server.feed(&get(1));
    server.stream(1).head(200, [], End::No).unwrap();
    server.out.clear();
    let piece = vec![b'x'; 20_000];
    let written = |frame: podpin_h2::DataFrame| [&frame.head[..], &piece[..frame.payload]].concat();
    let frame = server.stream(1).frame(piece.len(), End::Yes).unwrap();
    let first = frame.payload;
    assert_eq!(
        Frame::all(&written(frame)),
        [Frame { kind: DATA, flags: 0, stream: 1, payload: vec![b'x'; first] }]
    );
    assert_eq!(9 + first, 16 * 1024, "a frame and its head fill a TLS record");
    assert_eq!(server.connection.next_writer(0), Some(podpin_h2::StreamId::from_number(1)));
    let frame = server.stream(1).frame(piece.len() - first, End::Yes).unwrap();
    let second = frame.payload;
    assert_eq!(first + second, 20_000);
    assert_eq!(
        Frame::all(&written(frame)),
        [Frame { kind: DATA, flags: 1, stream: 1, payload: vec![b'x'; second] }]
    );
    assert!(server.out.is_empty() && server.find(1).is_none());
}

#[test]
fn a_malformed_request_is_answered_and_the_connection_goes_on() {
    let mut server = Server::new();
    let bad = [&GET[..], &[("connection", "close")]].concat();
    let seen = server.feed(&[request(1, END_STREAM, &bad), get(3)].concat());
    assert_eq!(seen[0], Seen::Refused { stream: 1, status: 400 });
    assert_eq!(seen[1], Seen::Request { stream: 3, path: "/".to_owned(), ends: true });
    server.stream(1).head(400, [], End::Yes).unwrap();
    // RFC 9113 section 8.1.1: an answer may go before the error of the stream.
    assert!(server.sent().last().unwrap().is_reset(1, ErrorCode::PROTOCOL_ERROR));
    assert!(server.find(1).is_none() && server.find(3).is_some());
}

#[test]
fn the_body_of_a_refused_request_is_thrown_away_and_its_answer_stops_it() {
    let mut server = Server::new();
    let bad = [&POST[..], &[("te", "gzip")]].concat();
    let seen = server.feed(&[request(1, 0, &bad), data(1, 0, &[b'x'; 1000])].concat());
    assert_eq!(seen, [Seen::Refused { stream: 1, status: 400 }]);
    server.stream(1).head(400, [], End::No).unwrap();
    server.stream(1).data(b"no", End::Yes).unwrap();
    assert!(server.sent().last().unwrap().is_reset(1, ErrorCode::PROTOCOL_ERROR));
    assert_eq!(server.feed(&[data(1, 0, b"x"), data(1, END_STREAM, b"y")].concat()), []);
    assert_eq!(server.sent(), [], "what was on its way is ignored");
}

#[test]
fn a_head_that_is_too_large_is_refused_and_hpack_stays_in_step() {
    let mut server = Server::with(Config { head_bytes_max: 8 * 1024, ..Config::default() });
    let value = "x".repeat(9_000);
    let large = [&GET[..], &[("x-large", value.as_str())]].concat();
    let many = [&GET[..], &[("x", "y"); 101]].concat();
    // `x-kept: value` enters the table behind the bound.
    let indexed = [block(&many), b"\x40\x06x-kept\x05value".to_vec()].concat();
    let seen = server.feed(&[request(1, END_STREAM, &large), frame(HEADERS, 5, 3, &indexed)].concat());
    assert_eq!(seen, [Seen::Refused { stream: 1, status: 431 }, Seen::Refused { stream: 3, status: 431 }]);
    let mut input = &frame(HEADERS, 5, 5, &[block(&GET), vec![0xbe]].concat())[..];
    let Some(podpin_h2::Event::Request { head, .. }) =
        server.connection.receive(server.now, &mut input, &mut server.out)
    else {
        panic!("no request");
    };
    assert_eq!(head.lines(), b"x-kept: value\r\n");
}

#[test]
fn bodies_keep_to_their_length() {
    let sized = |stream, length| request(stream, 0, &[&POST[..], &[("content-length", length)]].concat());
    let wrong: [(&str, Vec<u8>); 6] = [
        ("longer", [sized(1, "1"), data(1, 0, b"xy")].concat()),
        ("longer in another frame", [sized(1, "1"), data(1, 0, b"x"), data(1, END_STREAM, b"y")].concat()),
        ("shorter", [sized(1, "3"), data(1, END_STREAM, b"xy")].concat()),
        ("shorter by nothing", [sized(1, "3"), data(1, END_STREAM, b"")].concat()),
        (
            "shorter before trailers",
            [sized(1, "3"), data(1, 0, b"xy"), request(1, END_STREAM, &[("x", "y")])].concat(),
        ),
        ("trailers with a pseudo field", [sized(1, "0"), request(1, END_STREAM, &[(":path", "/")])].concat()),
    ];
    for (what, bytes) in wrong {
        let mut server = Server::new();
        let seen = server.feed(&bytes);
        assert_eq!(seen.last(), Some(&Seen::Refused { stream: 1, status: 400 }), "{what}");
        server.stream(1).head(400, [], End::Yes).unwrap();
        assert!(server.find(1).is_none(), "{what}");
        // Behind a head that was sent only a reset tells the client.
        let mut server = Server::new();
        server.feed(&bytes[..sized(1, "1").len()]);
        server.stream(1).head(200, [], End::No).unwrap();
        let seen = server.feed(&bytes[sized(1, "1").len()..]);
        let reset = Seen::Reset { stream: 1, code: ErrorCode::PROTOCOL_ERROR, by: Side::Server };
        assert_eq!(seen.last(), Some(&reset), "{what}");
        assert_eq!(server.connection.closed(), None);
    }
    let mut server = Server::new();
    let seen = server.feed(&[sized(1, "2"), data(1, 0, b"x"), data(1, END_STREAM, b"y")].concat());
    assert_eq!(seen.last(), Some(&Seen::Data { stream: 1, bytes: b"xy".to_vec(), ends: true }));
}

#[test]
fn a_frame_that_breaks_the_length_of_its_body_is_not_delivered_in_part() {
    for (length, bytes) in [("5", data(1, 0, b"123456")), ("5", data(1, END_STREAM, b"1234"))] {
        let head = request(1, 0, &[&POST[..], &[("content-length", length)]].concat());
        let mut server = Server::new();
        server.feed(&head);
        let seen: Vec<_> = bytes.chunks(1).flat_map(|piece| server.feed(piece)).collect();
        assert_eq!(seen, [Seen::Refused { stream: 1, status: 400 }]);
    }
}

#[test]
fn trailers_that_do_not_end_their_request_and_frames_behind_its_end_reset_it() {
    let cases = [
        ([post(1), request(1, 0, &[("x", "y")])].concat(), ErrorCode::PROTOCOL_ERROR),
        ([get(1), data(1, 0, b"x")].concat(), ErrorCode::STREAM_CLOSED),
        ([get(1), request(1, END_STREAM, &[("x", "y")])].concat(), ErrorCode::STREAM_CLOSED),
        ([get(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])].concat(), ErrorCode::PROTOCOL_ERROR),
        ([get(1), window_update(1, 0)].concat(), ErrorCode::PROTOCOL_ERROR),
        ([get(1), window_update(1, 0x7fff_ffff)].concat(), ErrorCode::FLOW_CONTROL_ERROR),
    ];
    for (bytes, code) in cases {
        let mut server = Server::new();
        let seen = server.feed(&[bytes, get(3)].concat());
        assert_eq!(seen[1], Seen::Reset { stream: 1, code, by: Side::Server });
        assert!(server.sent().iter().any(|frame| frame.is_reset(1, code)));
        assert!(server.find(3).is_some(), "the next stream is served");
    }
}

#[test]
fn frames_on_closed_streams_are_ignored_or_answered_once() {
    let mut server = Server::new();
    server.feed(&[post(1), post(3)].concat());
    server.stream(1).reset(ErrorCode::CANCEL);
    server.out.clear();
    let late =
        [data(1, 0, b"x"), request(1, END_STREAM, &[("x", "y")]), window_update(1, 5), reset(1)].concat();
    assert_eq!(server.feed(&late), []);
    assert_eq!(server.sent(), [], "what was sent before the client knew");
    server.feed(&reset(3));
    server.feed(&[data(3, 0, b"x"), data(3, 0, b"y"), request(3, END_STREAM, &[("x", "y")])].concat());
    let sent = server.sent();
    assert!(sent.len() == 1 && sent[0].is_reset(3, ErrorCode::STREAM_CLOSED), "{sent:?}");
}

#[test]
fn a_stream_number_that_goes_backwards_ends_the_connection_where_it_was_never_used() {
    let mut server = Server::new();
    server.feed(&get(5));
    assert_eq!(server.closed_by(&get(3)).map(|closed| closed.code), Some(ErrorCode::PROTOCOL_ERROR));
}

#[test]
fn a_reset_by_the_client_is_told() {
    let mut server = Server::new();
    let seen = server.feed(&[get(1), reset(1)].concat());
    assert_eq!(seen[1], Seen::Reset { stream: 1, code: ErrorCode::CANCEL, by: Side::Client });
    assert!(server.find(1).is_none());
}

#[test]
fn extended_connect_is_announced_where_it_is_taken() {
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/chat"),
        (":authority", "app"),
    ];
    for taken in [true, false] {
        let mut server =
            Server::fresh(Config { extended_connect: taken, ..Config::default() }, podpin_h2::Trust::Client);
        let announced = server.sent()[0].payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]);
        assert_eq!(announced, taken);
        let seen =
            server.feed(&[PREFACE, &settings(&[]), &request(1, 0, &connect), &data(1, 0, b"frame")].concat());
        assert_eq!(matches!(seen[0], Seen::Request { .. }), taken);
        assert_eq!(seen.len(), if taken { 2 } else { 1 });
    }
}

#[test]
fn a_block_over_many_frames_is_one_head() {
    let block = block(&[&GET[..], &[("x", "y"); 50]].concat());
    let pieces: Vec<&[u8]> = block.chunks(block.len() / 20 + 1).collect();
    let mut bytes = frame(HEADERS, END_STREAM, 1, pieces[0]);
    for piece in &pieces[1..] {
        bytes.extend(frame(CONTINUATION, 0, 1, piece));
    }
    bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &[]));
    let seen = Server::new().feed(&bytes);
    assert_eq!(seen, [Seen::Request { stream: 1, path: "/".to_owned(), ends: true }]);
}
