//! A header block that is being received: HEADERS and the CONTINUATIONs that belong to it.
//!
//! Fields are decoded as they come. What is kept is the head as far as it is decoded and, between two pieces, the
//! bytes of one incomplete field.

use crate::budget::Excess;
use crate::error::{Closed, ErrorCode};
use crate::head::{Bounds, Builder, Head, Purpose, Refusal, Trailers};
use crate::hpack::{Decoder, HpackError, Step};
use crate::settings::Config;
use crate::stream::StreamId;

/// CONTINUATION frames of one block: heads of 32 KiB have two or three, and clients that send small frames are not
/// known.
const CONTINUATIONS_MAX: u8 = 32;
/// Encoded bytes of a block beyond four times what a head may have, for heads that are refused but do no harm.
const WIRE_BYTES_MORE: u32 = 64 * 1024;

/// The use of a block at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A request on a new stream.
    Request,
    /// The trailers of an open stream.
    Trailers,
    /// No use: the stream is gone, or comes after the last one that is taken.
    Ignored,
    /// A new stream is refused: there are too many.
    Refused,
    /// An error of its stream, open or not.
    Reset(ErrorCode),
}

/// A block that did not end.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) stream: StreamId,
    /// The message ends with the block.
    pub(crate) ends: bool,
    pub(crate) outcome: Outcome,
    builder: Builder,
    /// The bytes of an incomplete field.
    tail: Vec<u8>,
    wire_bytes_left: u32,
    continuations: u8,
}

impl Block {
    /// Begins a block.
    pub(crate) fn new(stream: StreamId, ends: bool, outcome: Outcome, config: &Config) -> Block {
        let purpose = match outcome {
            Outcome::Request => Purpose::Request,
            Outcome::Trailers => Purpose::Trailers,
            Outcome::Ignored | Outcome::Refused | Outcome::Reset(_) => Purpose::Nothing,
        };
        Block {
            stream,
            ends,
            outcome,
            builder: Builder::new(purpose, Bounds::of(config)),
            tail: Vec::new(),
            wire_bytes_left: config.head_bytes_max.saturating_mul(4).saturating_add(WIRE_BYTES_MORE),
            continuations: 0,
        }
    }

    /// Takes note of a CONTINUATION.
    pub(crate) fn go_on(&mut self) -> Result<(), Closed> {
        self.continuations += 1;
        if self.continuations > CONTINUATIONS_MAX { Err(Excess::Frames.into()) } else { Ok(()) }
    }

    /// Decodes a piece.
    pub(crate) fn push(&mut self, decoder: &mut Decoder, piece: &[u8]) -> Result<(), Closed> {
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        self.wire_bytes_left = self.wire_bytes_left.checked_sub(length).ok_or(Excess::Frames)?;
        if self.tail.is_empty() {
            let left = decode(decoder, &mut self.builder, piece)?;
            self.tail.extend_from_slice(left);
        } else {
            self.tail.extend_from_slice(piece);
            let left = decode(decoder, &mut self.builder, &self.tail)?.len();
            self.tail.drain(..self.tail.len() - left);
        }
        Ok(())
    }

    /// Checks that nothing is incomplete at the end.
    pub(crate) fn check_end(&self, decoder: &mut Decoder) -> Result<(), HpackError> {
        decoder.finish(&self.tail)
    }

    /// Returns the head of a request.
    pub(crate) fn head(self, extended_connect: bool) -> Result<Head, Refusal> {
        self.builder.finish_head(self.ends, extended_connect)
    }

    /// Returns trailers.
    pub(crate) fn trailers(self) -> Result<Trailers, Refusal> {
        self.builder.finish_trailers()
    }

    /// Returns the bytes of heap that the block occupies.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of::<Block>() + self.tail.capacity() + self.builder.text.capacity()
    }
}

/// Decodes all whole fields; returns what is left.
fn decode<'a>(decoder: &mut Decoder, builder: &mut Builder, bytes: &'a [u8]) -> Result<&'a [u8], HpackError> {
    let mut input = bytes;
    loop {
        let room = builder.room();
        match decoder.next(&mut input, &mut builder.text, room)? {
            Step::Field(line) => builder.line(line),
            Step::Dropped => builder.drop_field(),
            Step::Incomplete => return Ok(input),
        }
    }
}
