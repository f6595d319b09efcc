//! The frames that this side writes, appended to the caller's output.

use super::head::{FRAME_HEAD_BYTES, FrameHead, Kind, PAYLOAD_BYTES_MAX, flag};
use crate::error::ErrorCode;
use crate::settings::Setting;

/// Appends SETTINGS.
pub(crate) fn settings(out: &mut Vec<u8>, settings: &[Setting]) {
    head(out, settings.len() * 6, Kind::Settings, 0, 0);
    for setting in settings {
        out.extend_from_slice(&setting.id.to_be_bytes());
        out.extend_from_slice(&setting.value.to_be_bytes());
    }
}

/// Appends the acknowledgement of SETTINGS.
pub(crate) fn settings_ack(out: &mut Vec<u8>) {
    head(out, 0, Kind::Settings, flag::ACK, 0);
}

/// Appends a PING, or with [`flag::ACK`] its acknowledgement.
pub(crate) fn ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    head(out, payload.len(), Kind::Ping, flags, 0);
    out.extend_from_slice(&payload);
}

/// Appends a GOAWAY after which streams above `last` are not processed.
pub(crate) fn go_away(out: &mut Vec<u8>, last: u32, code: ErrorCode) {
    head(out, 8, Kind::GoAway, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends the reset of a stream.
pub(crate) fn reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    head(out, 4, Kind::ResetStream, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends a window update of a stream, or with stream 0 of the connection.
pub(crate) fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    head(out, 4, Kind::WindowUpdate, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Writes the head of HEADERS into the nine bytes at `start`, behind which a header block was appended; a block
/// that is larger than a frame goes on in CONTINUATION.
pub(crate) fn seal_headers(out: &mut Vec<u8>, start: usize, stream: u32, flags: u8) {
    let most = usize::try_from(PAYLOAD_BYTES_MAX).unwrap_or(usize::MAX);
    let (mut at, mut kind, mut flags) = (start, Kind::Headers, flags);
    loop {
        let left = out.len().saturating_sub(at + FRAME_HEAD_BYTES);
        let is_last = left <= most;
        flags |= if is_last { flag::END_HEADERS } else { 0 };
        let sealed = frame_head(left.min(most), kind, flags, stream).bytes();
        if let Some(place) = out.get_mut(at..at + FRAME_HEAD_BYTES) {
            place.copy_from_slice(&sealed);
        }
        if is_last {
            return;
        }
        at += FRAME_HEAD_BYTES + most;
        out.splice(at..at, [0; FRAME_HEAD_BYTES]);
        (kind, flags) = (Kind::Continuation, 0);
    }
}

fn head(out: &mut Vec<u8>, length: usize, kind: Kind, flags: u8, stream: u32) {
    out.extend_from_slice(&frame_head(length, kind, flags, stream).bytes());
}

fn frame_head(length: usize, kind: Kind, flags: u8, stream: u32) -> FrameHead {
    FrameHead { length: u32::try_from(length).unwrap_or(u32::MAX), kind, flags, stream }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_larger_than_a_frame_goes_on_in_continuations() {
        let most = 16_384;
        let cases =
            [(100, vec![100]), (most, vec![most]), (most + 1, vec![most, 1]), (3 * most, vec![most; 3])];
        for (length, frames) in cases {
            let mut out = vec![7; 3 + FRAME_HEAD_BYTES];
            out.resize(out.len() + length, b'x');
            seal_headers(&mut out, 3, 5, flag::END_STREAM);
            let mut rest = &out[3..];
            for (place, payload) in frames.iter().enumerate() {
                let head = FrameHead::read(rest[..9].try_into().unwrap());
                let kind = if place == 0 { Kind::Headers } else { Kind::Continuation };
                assert_eq!((head.length as usize, head.kind, head.stream), (*payload, kind, 5));
                assert_eq!(head.has(flag::END_HEADERS), place + 1 == frames.len());
                assert_eq!(head.has(flag::END_STREAM), place == 0);
                assert!(rest[9..9 + payload].iter().all(|byte| *byte == b'x'));
                rest = &rest[9 + payload..];
            }
            assert!(rest.is_empty());
        }
    }
}
