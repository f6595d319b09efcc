//! Finds a body in the bytes behind its head, of requests and of responses alike (RFC 9112 sections 6 and 7).
//!
//! Decodes in place, in whatever buffer the caller read into, and holds nothing but its place in the grammar. Every
//! length that the other side could stretch has a limit.

use crate::http1::request_head::FIELDS_MAX;

/// A chunk's extensions, or a trailer section, larger than this is refused.
const CHUNK_LINE_BYTES_MAX: u16 = 8 * 1024;

/// Digits of a chunk's size that are read at once: chunks of 16 MB and more are rare enough for the long way.
const LEAP_DIGITS_MAX: usize = 6;

/// Where in a body the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyDecoder {
    /// All of it has been read.
    Done,
    /// This many bytes are left.
    Length(u64),
    /// Chunks, at this point of their grammar.
    Chunked(Chunk),
    /// Until the connection ends.
    UntilClose,
}

/// A point in the grammar of chunks (RFC 9112 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In the hexadecimal size; so many digits seen.
    Size {
        /// Value of the digits so far.
        value: u64,
        /// Number of digits so far.
        digits: u8,
    },
    /// In white space before the size.
    Lead {
        /// Bytes of white space so far.
        seen: u16,
    },
    /// In white space behind the size.
    Pad {
        /// Size of the chunk.
        value: u64,
        /// Bytes of white space so far.
        seen: u16,
    },
    /// Behind the size, until the end of the line.
    Extension {
        /// Size of the chunk.
        value: u64,
        /// Bytes of the extension so far.
        seen: u16,
    },
    /// The LF of the size line.
    SizeLf {
        /// Size of the chunk.
        value: u64,
    },
    /// In the data; so much is left.
    Data {
        /// Bytes of the chunk that are still to come.
        left: u64,
    },
    /// The CR after the data.
    DataCr,
    /// The LF after the data.
    DataLf,
    /// In the trailer section.
    Trailer {
        /// Bytes of the section so far.
        seen: u16,
        /// Bytes of this line so far.
        line: u16,
        /// Fields before this line.
        fields: u8,
    },
    /// The LF of a trailer line.
    TrailerLf {
        /// Bytes of the section so far.
        seen: u16,
        /// Bytes of the line that ends.
        line: u16,
        /// Fields before this line.
        fields: u8,
    },
}

/// Where a chunked body begins.
pub const FIRST_CHUNK: Chunk = Chunk::Size { value: 0, digits: 0 };

/// Result of a decoding step.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Body bytes.
    Data(&'a [u8]),
    /// Bytes of the trailer section's lines, without the empty one at its end.
    Trailers(&'a [u8]),
    /// The input is used up.
    More,
    /// The body ended as it should.
    End,
}

/// The body breaks its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunk: {0}")]
pub struct ChunkError(&'static str);

impl ChunkError {
    /// More than [`FIELDS_MAX`] trailer fields.
    pub const TOO_MANY_FIELDS: ChunkError = ChunkError("there are too many trailer fields");
}

impl BodyDecoder {
    /// The body's length where the head says it.
    #[inline]
    pub fn known_length(&self) -> Option<u64> {
        match self {
            BodyDecoder::Done => Some(0),
            BodyDecoder::Length(left) => Some(*left),
            BodyDecoder::Chunked(_) | BodyDecoder::UntilClose => None,
        }
    }

    /// Whether the end of the connection is the proper end of the body now.
    #[inline]
    pub fn ends_at_close(&self) -> bool {
        matches!(self, BodyDecoder::Done | BodyDecoder::UntilClose)
    }

    /// Takes one piece off the input. Call until it says [`Piece::More`] or [`Piece::End`].
    ///
    /// # Errors
    /// When a chunk is malformed; the decoder is of no use then.
    #[inline]
    pub fn decode<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, ChunkError> {
        self.decode_with(input, Padding::Refused)
    }

    /// The same for a response, whose chunk sizes may have white space around them: some servers pad them to one width. What a
    /// client sends is read strictly, for another server could read it otherwise.
    ///
    /// # Errors
    /// As [`BodyDecoder::decode`].
    #[inline]
    pub fn decode_padded<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, ChunkError> {
        self.decode_with(input, Padding::Allowed)
    }

    #[inline]
    fn decode_with<'a>(&mut self, input: &mut &'a [u8], padding: Padding) -> Result<Piece<'a>, ChunkError> {
        match self {
            BodyDecoder::Done => Ok(Piece::End),
            BodyDecoder::UntilClose if input.is_empty() => Ok(Piece::More),
            BodyDecoder::UntilClose => Ok(Piece::Data(std::mem::take(input))),
            BodyDecoder::Length(_) if input.is_empty() => Ok(Piece::More),
            BodyDecoder::Length(left) => {
                let data = take_data(input, left);
                if *left == 0 {
                    *self = BodyDecoder::Done;
                }
                Ok(Piece::Data(data))
            }
            BodyDecoder::Chunked(chunk) => match chunk.decode(input, padding)? {
                Piece::End => {
                    *self = BodyDecoder::Done;
                    Ok(Piece::End)
                }
                piece => Ok(piece),
            },
        }
    }
}

#[inline]
fn take_data<'a>(input: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    let (data, rest) = input.split_at_checked(count).unwrap_or((input, &[]));
    *input = rest;
    *left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
    data
}

/// Whether white space may be around the size of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Padding {
    Refused,
    Allowed,
}

impl Chunk {
    #[inline]
    fn decode<'a>(&mut self, input: &mut &'a [u8], padding: Padding) -> Result<Piece<'a>, ChunkError> {
        loop {
            if let Chunk::Data { left } = self {
                if input.is_empty() {
                    return Ok(Piece::More);
                }
                let data = take_data(input, left);
                if *left == 0 {
                    *self = Chunk::DataCr;
                }
                return Ok(Piece::Data(data));
            }
            if self.is_in_trailers() {
                return self.decode_trailers(input);
            }
            if self.leap(input) {
                continue;
            }
            let Some((byte, rest)) = input.split_first() else { return Ok(Piece::More) };
            *input = rest;
            if padding == Padding::Allowed && matches!(byte, b' ' | b'\t') && self.pad()? {
                continue;
            }
            match self.step(*byte)? {
                Some(next) => *self = next,
                None => return Ok(Piece::End),
            }
        }
    }

    /// Takes a byte of white space around a size; returns whether this is such a place.
    fn pad(&mut self) -> Result<bool, ChunkError> {
        *self = match *self {
            Chunk::Size { digits: 0, .. } => Chunk::Lead { seen: 1 },
            Chunk::Lead { seen } => Chunk::Lead { seen: one_more(seen)? },
            Chunk::Size { value, .. } => Chunk::Pad { value, seen: 1 },
            Chunk::Pad { value, seen } => Chunk::Pad { value, seen: one_more(seen)? },
            _ => return Ok(false),
        };
        Ok(true)
    }

    fn is_in_trailers(self) -> bool {
        matches!(self, Chunk::Trailer { .. } | Chunk::TrailerLf { .. })
    }

    /// Takes the lines of the trailer section that are there, or a part of one.
    fn decode_trailers<'a>(&mut self, input: &mut &'a [u8]) -> Result<Piece<'a>, ChunkError> {
        let start = *input;
        let mut lines = 0;
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            let Some(next) = self.step(*byte)? else {
                // The empty line is no field's.
                return Ok(match start.split_at_checked(lines) {
                    Some((fields @ [_, ..], end)) => {
                        *self = Chunk::Trailer { seen: 0, line: 0, fields: 0 };
                        *input = end;
                        Piece::Trailers(fields)
                    }
                    _ => Piece::End,
                });
            };
            *self = next;
            let is_empty_line = matches!(next, Chunk::TrailerLf { line: 0, .. });
            if !is_empty_line {
                lines = start.len() - rest.len();
            }
        }
        match start.get(..lines) {
            Some(fields @ [_, ..]) => Ok(Piece::Trailers(fields)),
            _ => Ok(Piece::More),
        }
    }

    /// The usual way to the next data in one step: CRLF behind the last, some digits, CRLF, all at hand. Whatever looks
    /// otherwise is left to [`Chunk::step`].
    #[inline]
    fn leap(&mut self, input: &mut &[u8]) -> bool {
        let line = match self {
            Chunk::DataCr => input.strip_prefix(b"\r\n"),
            Chunk::Size { digits: 0, .. } => Some(*input),
            _ => None,
        };
        let mut rest = line.unwrap_or_default();
        let mut size = 0_u64;
        for _ in 0..LEAP_DIGITS_MAX {
            let Some((byte, after)) = rest.split_first() else { return false };
            let Some(digit) = char::from(*byte).to_digit(16) else { break };
            size = size * 16 + u64::from(digit);
            rest = after;
        }
        match rest.strip_prefix(b"\r\n").filter(|_| size > 0) {
            Some(data) => {
                *self = Chunk::Data { left: size };
                *input = data;
                true
            }
            None => false,
        }
    }

    /// The point after one byte of the grammar around the data; `None` at the end of the body.
    #[inline]
    fn step(self, byte: u8) -> Result<Option<Chunk>, ChunkError> {
        let next = match (self, byte) {
            (Chunk::Size { value, digits }, _) => return size_step(value, digits, byte).map(Some),
            (Chunk::Lead { .. }, _) => return size_step(0, 0, byte).map(Some),
            (Chunk::Pad { value, .. }, b'\r') => Chunk::SizeLf { value },
            (Chunk::Pad { value, seen }, b';') => Chunk::Extension { value, seen: one_more(seen)? },
            (Chunk::Pad { .. }, _) => return Err(ChunkError("the size is not hexadecimal")),
            (Chunk::Extension { value, .. }, b'\r') => Chunk::SizeLf { value },
            (Chunk::Extension { .. }, b'\n') => return Err(ChunkError("a size line ends in a bare LF")),
            (Chunk::Extension { value, seen }, _) => Chunk::Extension { value, seen: one_more(seen)? },
            (Chunk::SizeLf { value: 0 }, b'\n') => Chunk::Trailer { seen: 0, line: 0, fields: 0 },
            (Chunk::SizeLf { value }, b'\n') => Chunk::Data { left: value },
            (Chunk::SizeLf { .. }, _) => return Err(ChunkError("CR without LF after a size")),
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => FIRST_CHUNK,
            (Chunk::DataCr | Chunk::DataLf | Chunk::Data { .. }, _) => {
                return Err(ChunkError("the data does not end where its size says"));
            }
            (Chunk::Trailer { seen, line, fields }, b'\r') => Chunk::TrailerLf { seen, line, fields },
            (Chunk::Trailer { .. }, b'\n') => return Err(ChunkError("a trailer line ends in a bare LF")),
            (Chunk::Trailer { seen, line, fields }, _) => {
                Chunk::Trailer { seen: one_more(seen)?, line: line.saturating_add(1), fields }
            }
            (Chunk::TrailerLf { line: 0, .. }, b'\n') => return Ok(None),
            (Chunk::TrailerLf { fields, .. }, b'\n') if usize::from(fields) >= FIELDS_MAX => {
                return Err(ChunkError::TOO_MANY_FIELDS);
            }
            (Chunk::TrailerLf { seen, fields, .. }, b'\n') => {
                Chunk::Trailer { seen, line: 0, fields: fields + 1 }
            }
            (Chunk::TrailerLf { .. }, _) => return Err(ChunkError("CR without LF in the trailer section")),
        };
        Ok(Some(next))
    }
}

#[inline]
fn size_step(value: u64, digits: u8, byte: u8) -> Result<Chunk, ChunkError> {
    match (char::from(byte).to_digit(16), byte) {
        (Some(_), _) if digits == 15 => Err(ChunkError("the size is too large")),
        (Some(digit), _) => Ok(Chunk::Size { value: value * 16 + u64::from(digit), digits: digits + 1 }),
        (None, _) if digits == 0 => Err(ChunkError("the size is not hexadecimal")),
        (None, b'\r') => Ok(Chunk::SizeLf { value }),
        (None, b';') => Ok(Chunk::Extension { value, seen: 1 }),
        (None, _) => Err(ChunkError("the size is not hexadecimal")),
    }
}

#[inline]
fn one_more(seen: u16) -> Result<u16, ChunkError> {
    if seen >= CHUNK_LINE_BYTES_MAX {
        Err(ChunkError("an extension or trailer section is too long"))
    } else {
        Ok(seen + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(decoder: &mut BodyDecoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), ChunkError> {
        decode_all_with(decoder, pieces, Padding::Refused)
    }

    fn decode_padded(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), ChunkError> {
        decode_all_with(&mut BodyDecoder::Chunked(FIRST_CHUNK), pieces, Padding::Allowed)
    }

    fn decode_all_with(
        decoder: &mut BodyDecoder,
        pieces: &[&[u8]],
        padding: Padding,
    ) -> Result<(Vec<u8>, bool), ChunkError> {
        let mut body = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            loop {
                match decoder.decode_with(&mut input, padding)? {
                    Piece::Data(data) => body.extend_from_slice(data),
                    Piece::Trailers(_) => {}
                    Piece::More => break,
                    Piece::End => return Ok((body, true)),
                }
            }
        }
        Ok((body, false))
    }

    #[test]
    fn white_space_around_the_sizes_of_pods_is_skipped_and_that_of_clients_refused() {
        for (text, expected) in [
            ("3  \r\nabc\r\n 0\t\r\n\r\n", Some("abc")),
            ("\t 3 ;x=1\r\nabc\r\n  00 \r\n\r\n", Some("abc")),
            ("3 3\r\nabc\r\n0\r\n\r\n", None),
            ("  \r\nabc\r\n0\r\n\r\n", None),
            ("3\r\nabc \r\n0\r\n\r\n", None),
            ("3\n\r\nabc\r\n0\r\n\r\n", None),
        ] {
            for step in [1, 3, text.len()] {
                let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
                let padded = decode_padded(&pieces).ok();
                let whole = padded.filter(|(_, ended)| *ended).map(|(body, _)| body);
                assert_eq!(whole.as_deref(), expected.map(str::as_bytes), "{text:?}");
                assert!(decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &pieces).is_err(), "{text:?}");
            }
        }
        let endless = [b' '; 64 * 1024];
        assert!(decode_padded(&[&endless]).is_err());
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let cases = [
            "g\r\n",
            "\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1\n",
            "1;a\n",
            "1\r\rx",
            "1\r\nab\r\n",
            "1\r\na\nb",
            "1\r\na\r\r",
            "1111111111111111\r\n",
            "0\r\nA: b\n",
            "0\r\n\rx",
            "1 \r\n",
            " 1\r\n",
        ];
        for case in cases {
            let result = decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &[case.as_bytes()]);
            assert!(result.is_err(), "{case:?}: {result:?}");
        }
        let endless = format!("1;{}", "x".repeat(9000));
        assert!(decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &[endless.as_bytes()]).is_err());
    }

    #[test]
    fn extensions_and_trailers_are_dropped() {
        let body = b"3;name=value\r\nabc\r\n2;a\r\nde\r\n0\r\nA: b\r\nC: d\r\n\r\n";
        let result = decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &[body]);
        assert_eq!(result, Ok((b"abcde".to_vec(), true)));
    }

    #[test]
    fn trailers_are_the_same_however_they_are_cut() {
        let body = b"1\r\na\r\n0;x\r\nA: b\r\nC:\r\n\r\nGET /next";
        for size in 1..body.len() {
            let (mut decoder, mut trailers, mut rest) =
                (BodyDecoder::Chunked(FIRST_CHUNK), Vec::new(), Vec::new());
            for piece in body.chunks(size) {
                let mut input = piece;
                loop {
                    match decoder.decode(&mut input).unwrap() {
                        Piece::Data(_) => {}
                        Piece::Trailers(lines) => trailers.extend_from_slice(lines),
                        Piece::More => break,
                        Piece::End => {
                            rest.extend_from_slice(input);
                            break;
                        }
                    }
                }
            }
            assert_eq!(String::from_utf8(trailers).unwrap(), "A: b\r\nC:\r\n", "{size}");
            assert_eq!(String::from_utf8(rest).unwrap(), "GET /next", "{size}");
        }
    }

    #[test]
    fn trailers_have_as_many_fields_as_a_head_and_no_more() {
        let body = |fields: usize| format!("1\r\na\r\n0\r\n{}\r\n", "b:\r\n".repeat(fields));
        let decoded = |fields| decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &[body(fields).as_bytes()]);
        assert_eq!(decoded(FIELDS_MAX), Ok((b"a".to_vec(), true)));
        assert_eq!(decoded(FIELDS_MAX + 1), Err(ChunkError::TOO_MANY_FIELDS));
    }

    proptest! {
        #[test]
        fn any_chunking_on_the_wire_gives_the_same_body(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(1_usize..9, 1..200),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut pieces = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let result = decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &pieces);
            prop_assert_eq!(result, Ok((chunks.concat(), true)));
        }

        /// Decoding at once and byte by byte gives the same result, for well formed and malformed bodies.
        #[test]
        fn a_leap_is_no_other_way_than_its_steps(
            parts in prop::collection::vec(
                prop_oneof![
                    4 => prop::sample::select(vec!["3\r\nabc\r\n", "1\r\nx\r\n", "00a\r\n0123456789\r\n"]),
                    1 => prop::sample::select(vec![
                        "0\r\n", "\r\n", "\r", "\n", "f", "1000000\r\n", "2;a=b\r\nab\r\n", "g", "0000001\r\nx\r\n",
                    ]),
                ],
                0..12,
            )
        ) {
            let wire = parts.concat().into_bytes();
            let bytes: Vec<&[u8]> = wire.chunks(1).collect();
            let at_once = decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &[&wire]);
            let by_byte = decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &bytes);
            prop_assert_eq!(at_once.is_err(), by_byte.is_err());
            prop_assert_eq!(at_once.ok(), by_byte.ok());
        }

        #[test]
        fn no_bytes_panic_the_decoders(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_all(&mut BodyDecoder::Chunked(FIRST_CHUNK), &[&bytes]);
        }
    }
}
