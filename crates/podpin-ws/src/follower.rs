//! Follows the frames of one direction: which bytes belong to one, and where a message ends.
//!
//! What breaks the protocol passes as it is: masked frames of a server, reserved bits and opcodes, control frames that are
//! fragmented or too long, messages that begin within another. The peer judges them. Only a length that no frame may have
//! (the top bit of 64 is set) leaves no position to go on from: the follower is lost then, and no boundary follows.

use crate::frame::{Opcode, bytes_behind, is_final, length_bytes};

/// Bytes of a header that the follower collects: all but the masking key, which it skips with the payload.
const HEADER_BYTES: usize = 10;

/// Position of one direction of a connection in its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    place: Place,
    opcode: Opcode,
    /// Whether the last data frame was not the last of its message.
    is_within_message: bool,
    /// Whether a Close frame has begun.
    has_closed: bool,
}

/// Position within a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// So many bytes of a header have come; 0 between two frames.
    Header { bytes: [u8; HEADER_BYTES], count: u8 },
    /// So many bytes of the frame are still to come, at least one.
    Skipping { left: u64 },
    /// The position is unknown.
    Lost,
}

/// Bytes of one frame at the beginning of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of the bytes, at least one.
    pub length: usize,
    /// Opcode of the frame.
    pub opcode: Opcode,
    /// Whether the frame ends with them.
    pub ends_frame: bool,
    /// Whether a message ends with them. A control frame ends none.
    pub ends_message: bool,
}

/// Result of [`Follower::follow`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Offset of the last boundary between two messages in the bytes, behind at least one of them; `None` if there is none.
    pub boundary: Option<usize>,
    /// Number of messages that end in the bytes.
    pub messages: u32,
}

impl Default for Follower {
    fn default() -> Follower {
        Follower { place: Place::START, opcode: Opcode::Data, is_within_message: false, has_closed: false }
    }
}

impl Place {
    const START: Place = Place::Header { bytes: [0; HEADER_BYTES], count: 0 };
}

impl Follower {
    /// Returns whether the bytes so far end with a frame.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.place, Place::Header { count: 0, .. })
    }

    /// Returns whether the bytes so far end with a frame, and no message is incomplete: a control frame may follow without
    /// standing within one.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.is_between_frames() && !self.is_within_message
    }

    /// Returns whether a Close frame has begun.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Returns whether the position is unknown for good: a length was none.
    #[cfg(test)]
    fn is_lost(&self) -> bool {
        self.place == Place::Lost
    }

    /// Takes bytes up to the end of the present frame, all of them if the frame does not end there; `None` without bytes.
    pub fn next_part(&mut self, bytes: &[u8]) -> Option<Part> {
        let first = *bytes.first()?;
        if self.is_between_frames() {
            self.opcode = Opcode::of(first);
            self.has_closed |= self.opcode == Opcode::Close;
            if self.opcode == Opcode::Data {
                self.is_within_message = !is_final(first);
            }
        }
        let length = self.take(bytes);
        let ends_frame = self.is_between_frames();
        let ends_message = ends_frame && self.opcode == Opcode::Data && !self.is_within_message;
        Some(Part { length, opcode: self.opcode, ends_frame, ends_message })
    }

    /// Takes all bytes.
    pub fn follow(&mut self, bytes: &[u8]) -> Followed {
        let (mut taken, mut followed) = (0, Followed::default());
        while let Some(part) = self.next_part(bytes.get(taken..).unwrap_or_default()) {
            taken += part.length;
            followed.messages += u32::from(part.ends_message);
            if self.is_between_messages() {
                followed.boundary = Some(taken);
            }
        }
        followed
    }

    /// Takes bytes of the frame; returns how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if let Place::Header { bytes: mut header, mut count } = self.place {
            for byte in bytes {
                if let Some(place) = header.get_mut(usize::from(count)) {
                    *place = *byte;
                }
                count += 1;
                taken += 1;
                if let Some(behind) = behind(&header, usize::from(count)) {
                    self.place = behind;
                    break;
                }
                self.place = Place::Header { bytes: header, count };
            }
        }
        let rest = bytes.len().saturating_sub(taken);
        match &mut self.place {
            Place::Header { .. } => taken,
            Place::Skipping { left } => {
                let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(rest);
                *left = left.saturating_sub(u64::try_from(skipped).unwrap_or(u64::MAX));
                if *left == 0 {
                    self.place = Place::START;
                }
                taken + skipped
            }
            Place::Lost => bytes.len(),
        }
    }
}

/// Returns the place behind `count` bytes of a header; `None` if it is incomplete.
fn behind(header: &[u8; HEADER_BYTES], count: usize) -> Option<Place> {
    let [_, second, rest @ ..] = header;
    let wanted = length_bytes(*second);
    if count < 2 + wanted {
        return None;
    }
    Some(match bytes_behind(*second, rest.get(..wanted).unwrap_or_default()) {
        None => Place::Lost,
        Some(0) => Place::START,
        Some(left) => Place::Skipping { left },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with these first bytes and a payload of zeros.
    fn frame(first: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match length {
            0..=125 => bytes.push(mask | u8::try_from(length).unwrap()),
            126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        bytes.extend(std::iter::repeat_n(0, length + if masked { 4 } else { 0 }));
        bytes
    }

    /// The offsets behind which a message may follow, one byte at a time.
    fn boundaries(bytes: &[u8]) -> Vec<usize> {
        let mut follower = Follower::default();
        let mut found = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            if follower.follow(&[*byte]).boundary.is_some() {
                found.push(at + 1);
            }
        }
        found
    }

    #[test]
    fn a_message_ends_with_its_last_frame_and_control_frames_stand_between() {
        let parts = [
            (frame(0x01, false, 3), false),
            (frame(0x89, false, 2), false),
            (frame(0x00, false, 126), false),
            (frame(0x8a, false, 0), false),
            (frame(0x80, false, 0), true),
            (frame(0x82, false, 70_000), true),
            (frame(0x89, false, 125), true),
            (frame(0x81, true, 5), true),
            (frame(0x88, false, 2), true),
        ];
        let mut follower = Follower::default();
        assert!(follower.is_between_messages() && !follower.has_closed());
        for (number, (bytes, is_boundary)) in parts.iter().enumerate() {
            let (last, start) = bytes.split_last().unwrap();
            follower.follow(start);
            assert!(!follower.is_between_frames(), "{number}");
            assert_eq!(follower.follow(&[*last]).boundary.is_some(), *is_boundary, "{number}");
            assert!(follower.is_between_frames(), "{number}");
        }
        assert!(follower.has_closed() && !follower.is_lost());
    }

    #[test]
    fn the_last_boundary_of_a_piece_is_found() {
        let bytes = [frame(0x81, false, 3), frame(0x82, false, 4), frame(0x01, false, 1)].concat();
        let mut follower = Follower::default();
        assert_eq!(follower.follow(&bytes), Followed { boundary: Some(5 + 6), messages: 2 });
        assert!(follower.is_between_frames() && !follower.is_between_messages());
        assert_eq!(follower.follow(&[]), Followed::default());
    }

    #[test]
    fn a_length_that_no_frame_may_have_leaves_no_boundary_to_find() {
        let mut follower = Follower::default();
        follower.follow(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        assert!(follower.is_lost() && !follower.is_between_frames());
        assert_eq!(follower.follow(&frame(0x81, false, 1)), Followed::default());
        // The longest that one may have is believed.
        let mut longest = Follower::default();
        longest.follow(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(!longest.is_lost());
        assert_eq!(longest.follow(&[0x88, 0]), Followed::default(), "payload");
    }

    #[test]
    fn what_breaks_the_protocol_is_followed_all_the_same() {
        // Reserved bits; reserved opcodes; a control frame that is not final; a message within another; a longer length form.
        let odd = [
            frame(0xf1, false, 3),
            frame(0x83, false, 3),
            frame(0x8b, false, 3),
            frame(0x09, false, 3),
            vec![0x81, 126, 0, 1, 7],
        ];
        assert_eq!(boundaries(&odd.concat()), [5, 10, 15, 20, 25]);
        let within = [frame(0x01, false, 1), frame(0x81, false, 1)].concat();
        assert_eq!(boundaries(&within), [6]);
    }

    #[test]
    fn a_follower_is_small() {
        assert!(size_of::<Follower>() <= 24, "{}", size_of::<Follower>());
    }

    fn any_frames() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![0_usize..130, 126_usize..300, 65_530_usize..65_540];
        let one = (any::<u8>(), any::<bool>(), length)
            .prop_map(|(first, masked, length)| frame(first, masked, length));
        prop::collection::vec(one, 0..6).prop_map(|frames| frames.concat())
    }

    proptest! {
        #[test]
        fn any_chunking_of_any_frames_gives_the_same_boundaries(
            bytes in prop_oneof![any_frames(), prop::collection::vec(any::<u8>(), 0..400)],
            cuts in prop::collection::vec(1_usize..5_000, 1..8),
        ) {
            let expected = boundaries(&bytes);
            let mut pieces = Follower::default();
            let (mut at, mut cuts) = (0, cuts.iter().cycle());
            while at < bytes.len() {
                let end = (at + cuts.next().unwrap()).min(bytes.len());
                let last = expected.iter().copied().rfind(|offset| *offset <= end).filter(|offset| *offset > at);
                prop_assert_eq!(pieces.follow(&bytes[at..end]).boundary.map(|offset| at + offset), last);
                at = end;
            }
            let mut whole = Follower::default();
            whole.follow(&bytes);
            prop_assert_eq!(pieces, whole);
        }
    }
}
