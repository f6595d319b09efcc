//! HTTP/2 header blocks: HPACK over the life of a connection, and the heads that come out of it.

use std::sync::Arc;

use podpin_h2::{Config, Connection, ErrorCode, Event, Head, Millis, Trust};

const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const FIELDS_MAX: u16 = 20;
const HEAD_BYTES_MAX: u32 = 2000;

/// Blocks, each behind a byte that says its length, on one connection: cut or whole they give the same, and a head keeps what
/// is promised of heads.
pub fn h2_heads(input: &[u8]) {
    let mut bytes = BEGINNING.to_vec();
    let (mut rest, mut stream) = (input, 1_u32);
    while let Some((length, more)) = rest.split_first() {
        let (block, left) = more.split_at(usize::from(*length).min(more.len()));
        // HEADERS with END_STREAM and END_HEADERS.
        bytes.extend([0, 0, u8::try_from(block.len()).unwrap_or(u8::MAX), 1, 5]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend_from_slice(block);
        (rest, stream) = (left, stream + 2);
    }
    assert_eq!(heads(&bytes, 1), heads(&bytes, usize::MAX));
}

fn heads(bytes: &[u8], cut: usize) -> Vec<String> {
    let config = Config { head_bytes_max: HEAD_BYTES_MAX, head_fields_max: FIELDS_MAX, ..Config::default() };
    let (mut out, mut seen) = (Vec::new(), Vec::new());
    let mut connection = Connection::accept(Arc::new(config), Trust::Client, Millis(0), &mut out);
    for piece in bytes.chunks(cut) {
        let mut input = piece;
        while let Some(event) = connection.receive(Millis(0), &mut input, &mut out) {
            seen.push(format!("{event:?}"));
            match event {
                Event::Request { stream, head, .. } => {
                    check(&head);
                    let stream = connection.stream(stream, Millis(0), &mut out).expect("an open stream");
                    stream.reset(ErrorCode::CANCEL);
                }
                Event::Refused { stream, .. } => {
                    let stream = connection.stream(stream, Millis(0), &mut out).expect("an open stream");
                    stream.reset(ErrorCode::CANCEL);
                }
                Event::Closed(_) => {}
                other => panic!("requests have heads only: {other:?}"),
            }
        }
    }
    seen
}

fn check(head: &Head) {
    assert!(head.lines().len() <= usize::try_from(HEAD_BYTES_MAX).unwrap_or_default());
    assert!(head.fields().count() <= usize::from(FIELDS_MAX));
    let mut lines = Vec::new();
    for field in head.fields() {
        assert!(!field.name.is_empty() && !field.name.iter().any(u8::is_ascii_uppercase));
        assert!(!field.value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'));
        assert!(!matches!(field.name, b"host" | b"connection" | b"transfer-encoding" | b"upgrade"));
        lines.extend([field.name, b": ", field.value, b"\r\n"].concat());
    }
    assert_eq!(lines, head.lines(), "fields are the lines");
    assert!(head.fields().filter(|field| field.name == b"cookie").count() <= 1);
    assert!(!head.method().is_empty() && !head.authority().is_empty());
    if let Some(path) = head.path() {
        assert!(path.first().is_some_and(|byte| matches!(byte, b'/' | b'*')));
        assert!(!path.iter().any(|byte| *byte <= b' ' || *byte == 0x7f));
    }
}
