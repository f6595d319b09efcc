//! Frames of a client on their way to the upstream: all of them, but pongs to pings of the proxy, and a Close that answers one
//! of the proxy.
//!
//! A pong can be told from others by its payload, which the proxy has drawn at random. It is held until it is whole, at most
//! 14 bytes; any other frame passes as it comes.

use crate::follower::{Follower, Part};
use crate::frame::{Opcode, PING_BYTES};

/// Bytes of a masked pong with a payload of [`PING_BYTES`].
const PONG_BYTES: usize = 2 + 4 + PING_BYTES;
const MASKED: u8 = 0x80;

/// Direction from a client to its upstream.
#[derive(Debug, Default)]
pub struct ClientFrames {
    follower: Follower,
    /// Pongs to be taken out; `None` as long as the proxy has sent no ping.
    pongs: Option<Box<Pongs>>,
    has_closed: bool,
}

/// Treatment of a Close frame of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseFrames {
    /// The frame passes.
    Pass,
    /// The frame answers that of the proxy: neither it nor anything behind it passes.
    End,
}

/// Pongs to the pings of the proxy.
#[derive(Debug)]
struct Pongs {
    payload: [u8; PING_BYTES],
    /// Beginning of a pong that may be one.
    held: Vec<u8>,
    /// Whether the present frame was judged: it is none.
    is_judged: bool,
}

impl ClientFrames {
    /// Returns the position in the frames.
    #[must_use]
    pub fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Returns whether a Close frame was held back under [`CloseFrames::End`].
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_closed
    }

    /// Takes out the pongs to a ping from now on. Returns the payload of that: the one of the first ping, which is `drawn`
    /// at random.
    pub fn expect_pong(&mut self, drawn: [u8; PING_BYTES]) -> [u8; PING_BYTES] {
        // A pong on its way is another's.
        let is_judged = !self.follower.is_between_frames();
        let new = || Box::new(Pongs { payload: drawn, held: Vec::new(), is_judged });
        self.pongs.get_or_insert_with(new).payload
    }

    /// Takes bytes of the client. Returns those that pass, with `out` as their memory if they are not the same.
    pub fn pass<'a>(&mut self, bytes: &'a [u8], closes: CloseFrames, out: &'a mut Vec<u8>) -> &'a [u8] {
        if self.pongs.is_none() && closes == CloseFrames::Pass {
            self.follower.follow(bytes);
            return bytes;
        }
        out.clear();
        let mut rest = bytes;
        while !self.has_closed {
            let is_new = self.follower.is_between_frames();
            let Some(part) = self.follower.next_part(rest) else { break };
            let (these, behind) = rest.split_at(part.length.min(rest.len()));
            rest = behind;
            match &mut self.pongs {
                _ if closes == CloseFrames::End && is_new && part.opcode == Opcode::Close => {
                    self.has_closed = true;
                }
                Some(pongs) => pongs.pass(these, part, is_new, out),
                None => out.extend_from_slice(these),
            }
        }
        out
    }
}

impl Pongs {
    /// Appends what passes of `bytes`, which are a part of a frame.
    fn pass(&mut self, bytes: &[u8], part: Part, is_new: bool, out: &mut Vec<u8>) {
        if is_new {
            self.is_judged = part.opcode != Opcode::Pong;
        }
        if self.is_judged {
            out.extend_from_slice(bytes);
            return;
        }
        self.held.extend_from_slice(bytes);
        let has_length = self.held.get(1).is_none_or(|second| usize::from(*second & !MASKED) == PING_BYTES);
        if has_length && !part.ends_frame {
            return;
        }
        self.is_judged = true;
        if !(has_length && self.is_ours()) {
            out.append(&mut self.held);
        }
        self.held = Vec::new();
    }

    /// Whether the held frame, which is whole, has the payload of the proxy's pings.
    fn is_ours(&self) -> bool {
        let Some(payload) = self.held.last_chunk::<PING_BYTES>() else { return false };
        let key = self.held.get(2..6).filter(|_| self.held.len() == PONG_BYTES).unwrap_or(&[0; 4]);
        payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask).eq(self.payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: [u8; PING_BYTES] = *b"podpin!?";

    /// A pong of a client with this payload, masked.
    fn pong(payload: &[u8]) -> Vec<u8> {
        let key = [9, 8, 7, 6];
        let masked = payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [0x8a, 0x80 | u8::try_from(payload.len()).unwrap()].into_iter().chain(key).chain(masked).collect()
    }

    fn text(length: u8) -> Vec<u8> {
        [&[0x81, 0x80 | length, 1, 2, 3, 4][..], &vec![7; usize::from(length)]].concat()
    }

    /// Returns the part of `bytes` that passes in pieces of this length.
    fn passed(frames: &mut ClientFrames, bytes: &[u8], piece: usize, closes: CloseFrames) -> Vec<u8> {
        let mut all = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut out = Vec::new();
            all.extend_from_slice(frames.pass(piece, closes, &mut out));
        }
        all
    }

    fn expecting() -> ClientFrames {
        let mut frames = ClientFrames::default();
        frames.expect_pong(OURS);
        frames
    }

    #[test]
    fn pongs_to_our_pings_are_taken_out_in_any_pieces_and_no_others() {
        let bytes = [text(3), pong(&OURS), pong(b"another!"), pong(b"x"), pong(b""), text(0), pong(&OURS)];
        let expected = [text(3), pong(b"another!"), pong(b"x"), pong(b""), text(0)].concat();
        for piece in 1..20 {
            assert_eq!(passed(&mut expecting(), &bytes.concat(), piece, CloseFrames::Pass), expected);
        }
        let long = [&pong(&[5; 100])[..], &pong(&OURS)].concat();
        assert_eq!(passed(&mut expecting(), &long, 3, CloseFrames::Pass), pong(&[5; 100]));
        let plain = [&[0x8a, 8][..], &OURS].concat();
        assert_eq!(passed(&mut expecting(), &plain, 3, CloseFrames::Pass), b"", "unmasked");
    }

    #[test]
    fn a_longer_pong_with_our_payload_in_it_passes_whole() {
        let beginning = pong(&[&OURS[..], &[5; 92]].concat());
        assert_eq!(passed(&mut expecting(), &beginning, PONG_BYTES, CloseFrames::Pass), beginning);
        let plain = [&[0x8a, 100, 1, 2, 3][..], &OURS, &[5; 89]].concat();
        assert_eq!(passed(&mut expecting(), &plain, 13, CloseFrames::Pass), plain);
    }

    #[test]
    fn a_pong_that_has_begun_before_the_first_ping_is_not_ours() {
        let mut frames = ClientFrames::default();
        let bytes = pong(&OURS);
        let first = passed(&mut frames, &bytes[..3], 9, CloseFrames::Pass);
        assert_eq!(frames.expect_pong(OURS), OURS);
        assert_eq!(frames.expect_pong(*b"notagain"), OURS);
        let rest = passed(&mut frames, &bytes[3..], 2, CloseFrames::Pass);
        assert_eq!([first, rest].concat(), bytes);
        assert_eq!(passed(&mut frames, &bytes, 2, CloseFrames::Pass), b"");
    }

    #[test]
    fn nothing_passes_from_a_close_on_that_answers_ours() {
        let close = [0x88, 0x80, 1, 2, 3, 4];
        let bytes = [&text(5)[..], &close, &text(1)].concat();
        for piece in [1, 4, 100] {
            for mut frames in [ClientFrames::default(), expecting()] {
                assert_eq!(passed(&mut frames, &bytes, piece, CloseFrames::End), text(5));
                assert!(frames.has_ended());
            }
        }
        let mut own = ClientFrames::default();
        assert_eq!(passed(&mut own, &bytes, 4, CloseFrames::Pass), bytes);
        assert!(!own.has_ended() && own.follower().has_closed());
    }

    proptest! {
        #[test]
        fn without_our_pongs_every_byte_passes(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            piece in 1_usize..50,
        ) {
            // What is still held may be the beginning of one.
            let mut frames = expecting();
            let passed = passed(&mut frames, &bytes, piece, CloseFrames::Pass);
            let held = frames.pongs.unwrap().held;
            prop_assert!(held.len() < PONG_BYTES);
            prop_assert_eq!([passed, held].concat(), bytes);
        }
    }
}
