//! Frames of any peer of a WebSocket: however they are cut, the boundaries are the same, and a client loses no byte but pongs
//! that are ours.

use podpin_ws::{ClientFrames, CloseFrames, Follower, PING_BYTES};

/// The payload of the pings whose answers are taken out.
const OURS: [u8; PING_BYTES] = *b"podpin!?";
/// A pong that is masked and answers them.
const PONG_BYTES: usize = 2 + 4 + PING_BYTES;

/// The first byte says where the frames are cut; the rest is what the peer sends.
pub fn websocket(input: &[u8]) {
    let [cut, bytes @ ..] = input else { return };
    let cut = usize::from(*cut).max(1);
    follow(bytes, cut);
    pass(bytes, cut);
}

/// The position behind the bytes does not depend on the pieces, nor do the messages and boundaries in them.
fn follow(bytes: &[u8], cut: usize) {
    let (mut whole, mut pieces, mut single) = (Follower::default(), Follower::default(), Follower::default());
    let followed = whole.follow(bytes);
    let (mut messages, mut boundary, mut last, mut at) = (0, None, None, 0);
    for piece in bytes.chunks(cut) {
        let part = pieces.follow(piece);
        messages += part.messages;
        boundary = part.boundary.map(|offset| at + offset).or(boundary);
        for byte in piece {
            at += 1;
            if single.follow(std::slice::from_ref(byte)).boundary.is_some() {
                last = Some(at);
            }
        }
    }
    assert_eq!((whole, whole), (pieces, single), "the position depends on the pieces");
    assert_eq!(
        (followed.messages, followed.boundary),
        (messages, boundary),
        "messages are lost in the seams"
    );
    assert_eq!(boundary, last, "a boundary was missed");
}

/// A client loses nothing but whole pongs of ours.
fn pass(bytes: &[u8], cut: usize) {
    let mut frames = ClientFrames::default();
    frames.expect_pong(OURS);
    let mut passed = Vec::new();
    for piece in bytes.chunks(cut) {
        let mut out = Vec::new();
        passed.extend_from_slice(frames.pass(piece, CloseFrames::Pass, &mut out));
    }
    // What is missing is missing in pieces no longer than a pong.
    let (mut rest, mut gap) = (bytes, 0);
    for byte in &passed {
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            if first == byte {
                break;
            }
            gap += 1;
        }
    }
    let missing = bytes.len() - passed.len();
    assert!(gap + rest.len() == missing, "a byte that the client did not send");

    let mut closing = ClientFrames::default();
    let mut out = Vec::new();
    let before = closing.pass(bytes, CloseFrames::End, &mut out).to_vec();
    assert!(bytes.starts_with(&before), "something is missing before the Close");
    assert!(closing.has_ended() || before.len() == bytes.len(), "the end is missing without a Close");
    assert!(missing <= bytes.len().div_ceil(PING_BYTES + 2) * PONG_BYTES);
}
