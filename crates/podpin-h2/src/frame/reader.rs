//! Reads the frames of a client out of any pieces, keeping no more than nine bytes.
//!
//! Everything that frames alone say is checked here (RFC 9113 sections 4 and 6): lengths, padding, which types
//! belong to a stream and which to the connection. Payloads of fixed length come as a whole; those that carry a
//! message come in the pieces that the input has, without padding. The same bytes give the same parts however they
//! are cut, but for where the pieces of a message end.

use super::head::{FRAME_HEAD_BYTES, FrameHead, Kind, PAYLOAD_BYTES_MAX, PREFACE, flag};
use crate::error::{Closed, ErrorCode};

/// A part of a frame, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// A frame begins.
    Begin(FrameHead),
    /// The stream that a priority names.
    Dependency(u32),
    /// A piece of a body or header block.
    Content(Piece<'a>),
    /// A setting.
    Setting { id: u16, value: u32 },
    /// The payload of PING, RST_STREAM, WINDOW_UPDATE or GOAWAY, from its first byte on.
    Word([u8; 8]),
    /// The frame ended.
    End(FrameHead),
}

/// A piece of a payload, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) bytes: &'a [u8],
    /// The bytes that follow in the same frame, padding left out.
    pub(crate) left: u32,
    /// Neither more of the payload nor padding follows.
    pub(crate) is_last: bool,
}

/// The place within the bytes of a client.
#[derive(Debug)]
pub(crate) struct Reader {
    phase: Phase,
    /// A frame's head, its prefix or its payload of fixed length, as far as it came.
    buffer: [u8; FRAME_HEAD_BYTES],
    filled: u8,
    padding: u8,
    /// Bytes of the payload that did not come yet, padding left out once it is known.
    left: u32,
    head: FrameHead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preface,
    Head,
    /// Length of the padding, priority.
    Prefix,
    Content,
    Padding,
}

impl Reader {
    /// Returns a reader before the preface.
    pub(crate) fn new() -> Reader {
        let head = FrameHead { length: 0, kind: Kind::Unknown, flags: 0, stream: 0 };
        Reader { phase: Phase::Preface, buffer: [0; FRAME_HEAD_BYTES], filled: 0, padding: 0, left: 0, head }
    }

    /// Whether no frame has begun that did not end.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.phase == Phase::Head && self.filled == 0
    }

    /// Whether the payload of DATA is awaited, which may take as long as a body may.
    pub(crate) fn is_within_body(&self) -> bool {
        self.head.kind == Kind::Data && !matches!(self.phase, Phase::Head | Phase::Preface)
    }

    /// Returns the head of the frame that began last.
    pub(crate) fn head(&self) -> FrameHead {
        self.head
    }

    /// Returns the next part, `None` if the input is used up.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, Closed> {
        loop {
            match self.phase {
                Phase::Preface => {
                    if !self.read_preface(input)? {
                        return Ok(None);
                    }
                }
                Phase::Head => {
                    if !self.gather(input, FRAME_HEAD_BYTES) {
                        return Ok(None);
                    }
                    return self.begin().map(Some);
                }
                Phase::Prefix => {
                    if !self.gather(input, self.prefix_bytes()) {
                        return Ok(None);
                    }
                    if let Some(part) = self.end_prefix()? {
                        return Ok(Some(part));
                    }
                }
                Phase::Content if self.left == 0 => self.phase = Phase::Padding,
                Phase::Content => match self.content(input) {
                    Some(part) => return Ok(Some(part)),
                    None if input.is_empty() && self.left > 0 => return Ok(None),
                    None => {}
                },
                Phase::Padding => {
                    let count = input.len().min(usize::from(self.padding));
                    *input = input.get(count..).unwrap_or_default();
                    self.padding -= u8::try_from(count).unwrap_or_default();
                    if self.padding > 0 {
                        return Ok(None);
                    }
                    self.phase = Phase::Head;
                    return Ok(Some(Part::End(self.head)));
                }
            }
        }
    }

    /// Compares with the preface; false if bytes of it are missing.
    fn read_preface(&mut self, input: &mut &[u8]) -> Result<bool, Closed> {
        let expected = PREFACE.get(usize::from(self.filled)..).unwrap_or_default();
        let count = expected.len().min(input.len());
        let (came, rest) = input.split_at_checked(count).unwrap_or_default();
        if !expected.starts_with(came) {
            return Err(Closed::protocol("the connection does not begin with the preface"));
        }
        *input = rest;
        self.filled += u8::try_from(count).unwrap_or_default();
        let is_whole = count == expected.len();
        if is_whole {
            (self.phase, self.filled) = (Phase::Head, 0);
        }
        Ok(is_whole)
    }

    /// Gathers `wanted` bytes in the buffer; false if the input ends before.
    fn gather(&mut self, input: &mut &[u8], wanted: usize) -> bool {
        let filled = usize::from(self.filled);
        let count = wanted.saturating_sub(filled).min(input.len());
        if let (Some(room), Some((bytes, rest))) =
            (self.buffer.get_mut(filled..filled + count), input.split_at_checked(count))
        {
            room.copy_from_slice(bytes);
            *input = rest;
        }
        let is_whole = filled + count == wanted;
        self.filled = if is_whole { 0 } else { self.filled + u8::try_from(count).unwrap_or_default() };
        is_whole
    }

    fn begin(&mut self) -> Result<Part<'static>, Closed> {
        self.head = FrameHead::read(self.buffer);
        check(self.head)?;
        self.left = self.head.length;
        self.padding = 0;
        let prefix = self.prefix_bytes();
        self.phase = if prefix > 0 { Phase::Prefix } else { Phase::Content };
        if usize::try_from(self.left).is_ok_and(|left| left < prefix) {
            return Err(Closed::framing(
                ErrorCode::FRAME_SIZE_ERROR,
                "a frame ends within its padding or priority",
            ));
        }
        Ok(Part::Begin(self.head))
    }

    fn prefix_bytes(&self) -> usize {
        let is_padded = self.head.has(flag::PADDED) && matches!(self.head.kind, Kind::Data | Kind::Headers);
        usize::from(is_padded) + if self.has_priority() { 5 } else { 0 }
    }

    fn has_priority(&self) -> bool {
        self.head.kind == Kind::Headers && self.head.has(flag::PRIORITY)
    }

    fn end_prefix(&mut self) -> Result<Option<Part<'static>>, Closed> {
        let prefix = self.prefix_bytes();
        let has_priority = self.has_priority();
        self.left -= u32::try_from(prefix).unwrap_or_default();
        let [first, second, ..] = self.buffer;
        let is_padded = prefix % 5 == 1;
        self.padding = if is_padded { first } else { 0 };
        self.left = self
            .left
            .checked_sub(self.padding.into())
            .ok_or(Closed::protocol("padding longer than its frame"))?;
        self.phase = Phase::Content;
        let [_, _, third, fourth, fifth, ..] = self.buffer;
        let dependency =
            if is_padded { [second, third, fourth, fifth] } else { [first, second, third, fourth] };
        Ok(has_priority.then(|| Part::Dependency(u32::from_be_bytes(dependency) & 0x7fff_ffff)))
    }

    /// Returns what the input has of the payload, `None` if that is no part yet.
    fn content<'a>(&mut self, input: &mut &'a [u8]) -> Option<Part<'a>> {
        match self.head.kind {
            Kind::Data | Kind::Headers | Kind::Continuation => {
                let bytes = self.take(input);
                let is_last = self.left == 0 && self.padding == 0;
                (!bytes.is_empty()).then_some(Part::Content(Piece { bytes, left: self.left, is_last }))
            }
            Kind::Settings => self.gather(input, 6).then(|| {
                self.left -= 6;
                let [high, low, value @ .., _, _, _] = self.buffer;
                Part::Setting { id: u16::from_be_bytes([high, low]), value: u32::from_be_bytes(value) }
            }),
            Kind::Priority => self.gather(input, 5).then(|| {
                self.left = 0;
                let [stream @ .., _, _, _, _, _] = self.buffer;
                Part::Dependency(u32::from_be_bytes(stream) & 0x7fff_ffff)
            }),
            Kind::ResetStream | Kind::WindowUpdate => self.gather(input, 4).then(|| self.word(4)),
            Kind::Ping => self.gather(input, 8).then(|| self.word(8)),
            Kind::GoAway if self.left == self.head.length => self.gather(input, 8).then(|| self.word(8)),
            Kind::GoAway | Kind::PushPromise | Kind::Unknown => {
                self.take(input);
                None
            }
        }
    }

    fn word(&mut self, length: u32) -> Part<'static> {
        self.left -= length;
        let [word @ .., _] = self.buffer;
        Part::Word(word)
    }

    fn take<'a>(&mut self, input: &mut &'a [u8]) -> &'a [u8] {
        let count = input.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let (bytes, rest) = input.split_at_checked(count).unwrap_or_default();
        *input = rest;
        self.left -= u32::try_from(count).unwrap_or_default();
        bytes
    }
}

/// Checks what a frame's head alone can break.
fn check(head: FrameHead) -> Result<(), Closed> {
    if head.length > PAYLOAD_BYTES_MAX {
        return Err(Closed::framing(ErrorCode::FRAME_SIZE_ERROR, "a frame is longer than was announced"));
    }
    let is_length_right = match head.kind {
        Kind::Priority => head.length == 5,
        Kind::ResetStream | Kind::WindowUpdate => head.length == 4,
        Kind::Ping => head.length == 8,
        Kind::GoAway => head.length >= 8,
        Kind::Settings if head.has(flag::ACK) => head.length == 0,
        Kind::Settings => head.length.is_multiple_of(6),
        Kind::Data | Kind::Headers | Kind::Continuation | Kind::PushPromise | Kind::Unknown => true,
    };
    if !is_length_right {
        return Err(Closed::framing(
            ErrorCode::FRAME_SIZE_ERROR,
            "a frame has a length that its type does not have",
        ));
    }
    let is_stream_right = match head.kind {
        Kind::Data | Kind::Headers | Kind::Priority | Kind::Continuation => head.stream != 0,
        Kind::Settings | Kind::Ping | Kind::GoAway => head.stream == 0,
        // Whose resets may be on any stream, the connection knows.
        Kind::ResetStream | Kind::WindowUpdate | Kind::Unknown => true,
        Kind::PushPromise => return Err(Closed::protocol("a client pushes")),
    };
    if is_stream_right { Ok(()) } else { Err(Closed::protocol("a frame is on the wrong stream")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// Parts as text, pieces of one message joined; then the error.
    fn parts(bytes: &[u8], chunk: usize) -> (Vec<String>, Option<Closed>) {
        let mut reader = Reader { phase: Phase::Head, ..Reader::new() };
        let (mut parts, mut content) = (Vec::new(), Vec::new());
        for mut input in bytes.chunks(chunk) {
            loop {
                let part = match reader.next(&mut input) {
                    Ok(Some(part)) => part,
                    Ok(None) => break,
                    Err(closed) => return (parts, Some(closed)),
                };
                if let Part::Content(Piece { bytes, is_last, .. }) = part {
                    assert!(!bytes.is_empty());
                    content.extend_from_slice(bytes);
                    if is_last {
                        parts.push("last".to_owned());
                    }
                } else {
                    if !content.is_empty() {
                        parts.push(format!("{:?}", std::mem::take(&mut content)));
                    }
                    parts.push(format!("{part:?}"));
                }
            }
            assert!(input.is_empty());
        }
        (parts, None)
    }

    #[test]
    fn frames_are_cut_into_their_parts() {
        let cases = [
            (frame(0, 0x9, 1, &[2, b'a', b'b', 0, 0]), vec!["[97, 98]"]),
            (frame(0, 0, 1, b"ab"), vec!["last", "[97, 98]"]),
            (frame(0, 0x8, 1, &[0, b'a']), vec!["last", "[97]"]),
            (frame(0, 0x8, 1, &[3, 0, 0, 0]), vec![]),
            (frame(1, 0x2c, 1, &[1, 0x80, 0, 0, 3, 16, 0x82, 0]), vec!["Dependency(3)", "[130]"]),
            (frame(1, 0x24, 1, &[0, 0, 0, 5, 16, 0x82]), vec!["Dependency(5)", "last", "[130]"]),
            (frame(2, 0, 1, &[0, 0, 0, 7, 16]), vec!["Dependency(7)"]),
            (frame(3, 0, 1, &[0, 0, 0, 8]), vec!["Word([0, 0, 0, 8, 0, 0, 0, 0])"]),
            (
                frame(4, 0, 0, &[0, 4, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0]),
                vec!["Setting { id: 4, value: 256 }", "Setting { id: 1, value: 0 }"],
            ),
            (frame(6, 0, 0, b"12345678"), vec!["Word([49, 50, 51, 52, 53, 54, 55, 56])"]),
            (frame(7, 0, 0, b"\0\0\0\x01\0\0\0\x02debug"), vec!["Word([0, 0, 0, 1, 0, 0, 0, 2])"]),
            (frame(0x77, 0xff, 9, b"anything"), vec![]),
        ];
        for (bytes, expected) in cases {
            for chunk in [1, 3, 1000] {
                let (parts, closed) = parts(&bytes, chunk);
                assert_eq!(closed, None);
                assert!(
                    parts[0].starts_with("Begin") && parts.last().unwrap().starts_with("End"),
                    "{parts:?}"
                );
                assert_eq!(parts[1..parts.len() - 1], expected, "{bytes:?} by {chunk}");
            }
        }
    }

    #[test]
    fn frames_that_break_the_framing_end_the_connection() {
        let size = [
            frame(0, 0, 1, &[0; 16_385]),
            frame(0, 0x8, 1, &[]),
            frame(1, 0x20, 1, &[0; 4]),
            frame(1, 0x28, 1, &[0; 5]),
            frame(2, 0, 1, &[0; 4]),
            frame(3, 0, 1, &[0; 5]),
            frame(4, 0, 0, &[0; 5]),
            frame(4, 1, 0, &[0; 6]),
            frame(6, 0, 0, &[0; 7]),
            frame(7, 0, 0, &[0; 7]),
            frame(8, 0, 0, &[0; 3]),
        ];
        let protocol = [
            frame(0, 0, 0, b"x"),
            frame(0, 0x8, 1, &[1]),
            frame(0, 0x8, 1, &[200, 1, 2]),
            frame(1, 0, 0, b"x"),
            frame(1, 0x28, 1, &[1, 0, 0, 0, 0, 0]),
            frame(2, 0, 0, &[0; 5]),
            frame(4, 0, 1, &[]),
            frame(5, 0, 1, &[0; 4]),
            frame(6, 0, 1, &[0; 8]),
            frame(7, 0, 1, &[0; 8]),
            frame(9, 0, 0, b"x"),
        ];
        let coded = |code, cases: &[Vec<u8>]| {
            for bytes in cases {
                for chunk in [1, 100_000] {
                    let (_, closed) = parts(bytes, chunk);
                    assert_eq!(closed.map(|closed| closed.code), Some(code), "{:?}", &bytes[..9]);
                }
            }
        };
        coded(ErrorCode::FRAME_SIZE_ERROR, &size);
        coded(ErrorCode::PROTOCOL_ERROR, &protocol);
    }

    #[test]
    fn the_preface_is_compared_as_it_comes() {
        for chunk in [1, 5, 100] {
            let mut reader = Reader::new();
            let bytes = [&PREFACE[..], &frame(6, 0, 0, &[0; 8])].concat();
            let parts: usize = bytes
                .chunks(chunk)
                .map(|mut input| std::iter::from_fn(|| reader.next(&mut input).unwrap()).count())
                .sum();
            assert_eq!(parts, 3);
        }
        assert!(Reader::new().next(&mut &b"GET /"[..]).is_err());
        assert!(Reader::new().next(&mut &b"PRI * HTTP/2.0\r\n\r\nXX"[..]).is_err());
        assert_eq!(Reader::new().next(&mut &b"PRI * HT"[..]), Ok(None));
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_parts_however_they_are_cut(
            frames in prop::collection::vec((0_u8..11, any::<u8>(), 0_u32..3, prop::collection::vec(any::<u8>(), 0..20)), 0..10),
            chunk in 1_usize..20,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).collect();
            prop_assert_eq!(parts(&bytes, chunk), parts(&bytes, 1_000_000));
        }
    }
}
