//! A whole HTTP/2 connection: any frames, answered by the number of their stream.

use std::sync::Arc;

use podpin_h2::{Config, Connection, End, ErrorCode, Event, Millis, Trust};

/// A client's preface and SETTINGS without a setting.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// More than a block, HPACK's table and the streams of this configuration may hold.
const HEAP_BYTES_MAX: usize = 60 * 1024;

/// The first byte says how the rest is cut: the events have to be those of one piece, memory is bounded, and output is whole
/// frames.
pub fn h2_connection(input: &[u8]) {
    let Some((cut, frames)) = input.split_first() else { return };
    let bytes = [BEGINNING, frames].concat();
    assert_eq!(events(&bytes, usize::from(*cut).max(1)), events(&bytes, usize::MAX));
}

/// The events as text, pieces of a body joined.
fn events(bytes: &[u8], cut: usize) -> Vec<String> {
    let config = Config { head_bytes_max: 600, head_fields_max: 8, streams_max: 4, ..Config::default() };
    let mut out = Vec::new();
    let mut connection = Connection::accept(Arc::new(config), Trust::Client, Millis(0), &mut out);
    let (mut events, mut body) = (Vec::new(), None);
    for piece in bytes.chunks(cut) {
        let mut input = piece;
        while let Some(event) = connection.receive(Millis(0), &mut input, &mut out) {
            answer(&mut connection, &event, &mut out);
            match event {
                Event::Data { stream, bytes, ends: false } => match &mut body {
                    Some((of, joined)) if *of == stream => Vec::extend_from_slice(joined, bytes),
                    _ => {
                        events.extend(body.replace((stream, bytes.to_vec())).map(|body| format!("{body:?}")))
                    }
                },
                Event::Data { stream, bytes, ends: true } => {
                    let before = body.take().filter(|(of, _)| *of == stream);
                    let joined =
                        [before.map(|(_, bytes)| bytes).unwrap_or_default().as_slice(), bytes].concat();
                    events.push(format!("{stream:?} ends with {joined:?}"));
                }
                other => {
                    events.extend(body.take().map(|body| format!("{body:?}")));
                    events.push(format!("{other:?}"));
                }
            }
        }
        assert!(input.is_empty(), "all input is taken");
        assert!(connection.heap_bytes() <= HEAP_BYTES_MAX, "{} bytes are held", connection.heap_bytes());
    }
    check_frames(&out);
    events
}

fn answer(connection: &mut Connection, event: &Event<'_>, out: &mut Vec<u8>) {
    let id = match event {
        Event::Request { stream, .. } | Event::Refused { stream, .. } | Event::Data { stream, .. } => *stream,
        Event::Trailers { .. } | Event::Reset { .. } | Event::Closed(_) => return,
    };
    let Some(mut stream) = connection.stream(id, Millis(0), out) else { return };
    match (event, id.get() % 5) {
        (Event::Data { bytes, .. }, _) => stream.consumed(bytes.len()),
        (Event::Refused { refusal, .. }, _) => {
            stream.head(refusal.status(), [], End::Yes).expect("an answer that has not begun");
        }
        (_, 0) => stream.reset(ErrorCode::CANCEL),
        (_, 1) => stream.head(204, [], End::Yes).expect("an answer that has not begun"),
        (_, 2) => stream.head(200, [], End::No).expect("an answer that has not begun"),
        _ => {}
    }
}

/// Output is whole frames, none larger than a client without settings takes.
fn check_frames(mut out: &[u8]) {
    while let Some((head, rest)) = out.split_first_chunk::<9>() {
        let [high, middle, low, ..] = *head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        assert!(length <= 16_384, "a frame of {length} bytes");
        out = usize::try_from(length).ok().and_then(|length| rest.get(length..)).expect("a whole frame");
    }
    assert!(out.is_empty(), "output ends within a frame");
}
