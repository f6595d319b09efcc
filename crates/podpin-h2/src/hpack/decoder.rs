//! Decodes the fields of header blocks, one at a time, to the end of a text of lines (`name: value` CRLF).
//!
//! The text is the head that the caller builds: no field exists twice but for those that the dynamic table keeps. The
//! caller says how much room a field may take, and a field without room is left out while its effect on the table is
//! kept. A string too long to be of use is skipped as it comes; as it is longer than the table, all that
//! is left of it is that it empties the table.

use super::dynamic_table::{DynamicTable, Pair, TABLE_BYTES_MAX};
use super::error::HpackError;
use super::static_table::ENTRIES;
use super::{huffman, integer};
use crate::work;

/// An encoded string above this length is longer than the table when it is decoded: no code has more than 30 bits.
const HELD_BYTES_MIN: usize = TABLE_BYTES_MAX * 30 / 8 + 1;
/// Table sizes that one block may begin with (RFC 7541 section 4.2).
const SIZE_UPDATES_MAX: u8 = 2;

/// The state of one connection's client.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: DynamicTable,
    /// Encoded strings above this length are skipped.
    held_bytes_max: u32,
    skipped: Skipped,
    size_updates: u8,
    has_fields: bool,
}

/// The part of a field that is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skipped {
    Nothing,
    /// The rest of a name, whose value follows.
    Name {
        left: usize,
        indexing: bool,
    },
    /// The length of a value, and the value.
    ValueLength {
        indexing: bool,
    },
    /// The rest of a value.
    Value {
        left: usize,
        indexing: bool,
    },
}

/// The place of a field's line in the text: name, colon, space, value, CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) start: usize,
    pub(crate) name: usize,
    pub(crate) value: usize,
}

impl Line {
    /// Returns where the value begins.
    pub(crate) fn value_start(self) -> usize {
        self.start + self.name + 2
    }

    /// Returns where the next line begins.
    pub(crate) fn end(self) -> usize {
        self.value_start() + self.value + 2
    }
}

/// The outcome of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field, whose line is now the last of the text.
    Field(Line),
    /// A field that had no room.
    Dropped,
    /// The rest of the input is no whole field yet.
    Incomplete,
}

/// A string as it is written.
#[derive(Clone, Copy)]
struct Literal<'a> {
    bytes: &'a [u8],
    is_huffman: bool,
}

/// A string that begins in the input.
enum Text<'a> {
    Whole(Literal<'a>),
    Incomplete,
    /// Too long to be held; so many bytes follow.
    Long(usize),
}

/// The name of a literal field.
enum Name<'a> {
    Indexed(usize),
    Literal(Literal<'a>),
}

/// A literal field whose bytes are there.
struct LiteralField<'a> {
    name: Name<'a>,
    value: Literal<'a>,
    indexing: bool,
}

impl Decoder {
    /// Returns a decoder with an empty table that holds strings of at least `held_bytes_max` bytes.
    pub(crate) fn new(held_bytes_max: u32) -> Decoder {
        let mut decoder = Decoder {
            table: DynamicTable::new(),
            held_bytes_max,
            skipped: Skipped::Nothing,
            size_updates: 0,
            has_fields: false,
        };
        decoder.hold_at_most(held_bytes_max);
        decoder
    }

    /// Changes how long a string may be that is held until all of it is there.
    pub(crate) fn hold_at_most(&mut self, held_bytes_max: u32) {
        let minimum = u32::try_from(HELD_BYTES_MIN).unwrap_or(u32::MAX);
        self.held_bytes_max = held_bytes_max.max(minimum);
    }

    /// Begins a header block.
    pub(crate) fn begin(&mut self) {
        (self.size_updates, self.has_fields) = (0, false);
    }

    /// Ends a header block, of which `left` was not consumed.
    pub(crate) fn finish(&mut self, left: &[u8]) -> Result<(), HpackError> {
        let is_whole = left.is_empty() && self.skipped == Skipped::Nothing;
        if is_whole { Ok(()) } else { Err(HpackError::Truncated) }
    }

    /// Returns the bytes of heap that the dynamic table occupies.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.table.heap_bytes()
    }

    /// Decodes the next field of the block; name and value together may have `room` bytes.
    pub(crate) fn next(
        &mut self,
        input: &mut &[u8],
        text: &mut Vec<u8>,
        room: usize,
    ) -> Result<Step, HpackError> {
        loop {
            if self.skipped != Skipped::Nothing {
                let step = self.skip(input)?;
                return Ok(step);
            }
            let Some(first) = input.first() else { return Ok(Step::Incomplete) };
            work::count(1);
            if first & 0xe0 == 0x20 {
                if !self.update_size(input)? {
                    return Ok(Step::Incomplete);
                }
                continue;
            }
            self.has_fields = true;
            return match *first {
                0x80.. => self.indexed(input, text, room),
                0x40.. => self.literal(input, true, text, room),
                _ => self.literal(input, false, text, room),
            };
        }
    }

    /// Follows a table size update; false if bytes of it are missing.
    fn update_size(&mut self, input: &mut &[u8]) -> Result<bool, HpackError> {
        if self.has_fields || self.size_updates == SIZE_UPDATES_MAX {
            return Err(HpackError::TableSize);
        }
        let Some(size) = integer::decode(input, 5)? else { return Ok(false) };
        self.size_updates += 1;
        self.table.resize(size)?;
        Ok(true)
    }

    fn indexed(&self, input: &mut &[u8], text: &mut Vec<u8>, room: usize) -> Result<Step, HpackError> {
        let Some(index) = integer::decode(input, 7)? else { return Ok(Step::Incomplete) };
        let pair = self.entry(index)?;
        if pair.name.len() + pair.value.len() > room {
            return Ok(Step::Dropped);
        }
        work::count(pair.name.len() + pair.value.len());
        let line = Line { start: text.len(), name: pair.name.len(), value: pair.value.len() };
        text.reserve(line.end() - line.start);
        text.extend_from_slice(pair.name);
        text.extend_from_slice(b": ");
        text.extend_from_slice(pair.value);
        text.extend_from_slice(b"\r\n");
        Ok(Step::Field(line))
    }

    fn literal(
        &mut self,
        input: &mut &[u8],
        indexing: bool,
        text: &mut Vec<u8>,
        room: usize,
    ) -> Result<Step, HpackError> {
        let mut rest = *input;
        let Some(index) = integer::decode(&mut rest, if indexing { 6 } else { 4 })? else {
            return Ok(Step::Incomplete);
        };
        let name = match index {
            0 => match self.string(&mut rest)? {
                Text::Whole(name) => Name::Literal(name),
                Text::Incomplete => return Ok(Step::Incomplete),
                Text::Long(left) => {
                    (*input, self.skipped) = (rest, Skipped::Name { left, indexing });
                    return self.skip(input);
                }
            },
            _ => Name::Indexed(index),
        };
        match self.string(&mut rest)? {
            Text::Whole(value) => {
                *input = rest;
                self.decode_literal(&LiteralField { name, value, indexing }, text, room)
            }
            Text::Incomplete => Ok(Step::Incomplete),
            Text::Long(left) => {
                if let Name::Indexed(index) = name {
                    self.entry(index)?;
                }
                (*input, self.skipped) = (rest, Skipped::Value { left, indexing });
                self.skip(input)
            }
        }
    }

    /// Reads a string, and moves the input behind it or, if it is a long one, behind its length.
    fn string<'a>(&self, input: &mut &'a [u8]) -> Result<Text<'a>, HpackError> {
        let is_huffman = input.first().is_some_and(|first| first & 0x80 != 0);
        let Some(length) = integer::decode(input, 7)? else { return Ok(Text::Incomplete) };
        if u32::try_from(length).is_ok_and(|length| length > self.held_bytes_max) {
            return Ok(Text::Long(length));
        }
        let Some((bytes, rest)) = input.split_at_checked(length) else { return Ok(Text::Incomplete) };
        *input = rest;
        Ok(Text::Whole(Literal { bytes, is_huffman }))
    }

    fn decode_literal(
        &mut self,
        field: &LiteralField<'_>,
        text: &mut Vec<u8>,
        room: usize,
    ) -> Result<Step, HpackError> {
        if room == 0 && !field.indexing {
            if let Name::Indexed(index) = field.name {
                self.entry(index)?;
            }
            return Ok(Step::Dropped);
        }
        let start = text.len();
        text.reserve(field.value.bytes.len() + 32);
        match field.name {
            Name::Indexed(index) => text.extend_from_slice(self.entry(index)?.name),
            Name::Literal(name) => decode_string(name, text)?,
        }
        let name = text.len() - start;
        text.extend_from_slice(b": ");
        let value_start = text.len();
        decode_string(field.value, text)?;
        let line = Line { start, name, value: text.len() - value_start };
        if field.indexing {
            let name = text.get(start..start + name).unwrap_or_default();
            let value = text.get(value_start..).unwrap_or_default();
            self.table.insert(Pair { name, value });
        }
        if line.name + line.value > room {
            text.truncate(start);
            return Ok(Step::Dropped);
        }
        text.extend_from_slice(b"\r\n");
        Ok(Step::Field(line))
    }

    /// Goes on within a field that is skipped.
    fn skip(&mut self, input: &mut &[u8]) -> Result<Step, HpackError> {
        loop {
            match self.skipped {
                Skipped::Nothing => return Ok(Step::Dropped),
                Skipped::Name { left, indexing } => {
                    let left = skip_bytes(input, left);
                    if left > 0 {
                        self.skipped = Skipped::Name { left, indexing };
                        return Ok(Step::Incomplete);
                    }
                    self.skipped = Skipped::ValueLength { indexing };
                }
                Skipped::ValueLength { indexing } => match integer::decode(input, 7)? {
                    Some(left) => self.skipped = Skipped::Value { left, indexing },
                    None => return Ok(Step::Incomplete),
                },
                Skipped::Value { left, indexing } => {
                    let left = skip_bytes(input, left);
                    if left > 0 {
                        self.skipped = Skipped::Value { left, indexing };
                        return Ok(Step::Incomplete);
                    }
                    if indexing {
                        self.table.clear();
                    }
                    self.skipped = Skipped::Nothing;
                }
            }
        }
    }

    /// Returns the entry of an index, the first of which is 1 (RFC 7541 section 2.3.3).
    fn entry(&self, index: usize) -> Result<Pair<'_>, HpackError> {
        let place = index.checked_sub(1).ok_or(HpackError::Index)?;
        match ENTRIES.get(place) {
            Some((name, value)) => Ok(Pair { name: name.as_bytes(), value: value.as_bytes() }),
            None => self.table.get(place - ENTRIES.len()),
        }
    }
}

fn decode_string(literal: Literal<'_>, text: &mut Vec<u8>) -> Result<(), HpackError> {
    if literal.is_huffman {
        return huffman::decode(literal.bytes, text);
    }
    work::count(literal.bytes.len());
    text.extend_from_slice(literal.bytes);
    Ok(())
}

/// Skips up to `left` bytes; returns how many are left to skip.
fn skip_bytes(input: &mut &[u8], left: usize) -> usize {
    let count = left.min(input.len());
    *input = input.get(count..).unwrap_or_default();
    left - count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::huffman::tests::encode as huffman_encode;
    use super::*;

    const ROOM: usize = 100_000;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// Decodes a block that comes in these pieces, as a caller that keeps the incomplete tail.
    fn block(decoder: &mut Decoder, pieces: &[&[u8]], room: usize) -> Result<(String, usize), HpackError> {
        let (mut text, mut dropped, mut tail) = (Vec::new(), 0, Vec::new());
        decoder.begin();
        for piece in pieces {
            tail.extend_from_slice(piece);
            let mut input = &tail[..];
            loop {
                match decoder.next(&mut input, &mut text, room)? {
                    Step::Field(line) => assert_eq!(line.end(), text.len()),
                    Step::Dropped => dropped += 1,
                    Step::Incomplete => break,
                }
            }
            tail = input.to_vec();
        }
        decoder.finish(&tail)?;
        Ok((text.iter().map(|byte| char::from(*byte)).collect(), dropped))
    }

    fn decoded(decoder: &mut Decoder, block_hex: &str) -> String {
        block(decoder, &[&hex(block_hex)], ROOM).unwrap().0
    }

    #[test]
    fn the_requests_of_rfc_7541_c_3_and_c_4() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let huffman = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::new(0);
            let first = ":method: GET\r\n:scheme: http\r\n:path: /\r\n:authority: www.example.com\r\n";
            assert_eq!(decoded(&mut decoder, blocks[0]), first);
            assert_eq!(decoded(&mut decoder, blocks[1]), format!("{first}cache-control: no-cache\r\n"));
            let third = ":method: GET\r\n:scheme: https\r\n:path: /index.html\r\n:authority: www.example.com\r\ncustom-key: custom-value\r\n";
            assert_eq!(decoded(&mut decoder, blocks[2]), third);
        }
    }

    #[test]
    fn the_responses_of_rfc_7541_c_5_and_c_6_with_a_table_of_256_bytes() {
        let plain = [
            "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ];
        let huffman = [
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::new(0);
            let tail = "cache-control: private\r\ndate: Mon, 21 Oct 2013 20:13:21 GMT\r\nlocation: https://www.example.com\r\n";
            assert_eq!(decoded(&mut decoder, blocks[0]), format!(":status: 302\r\n{tail}"));
            assert_eq!(decoded(&mut decoder, blocks[1]), format!(":status: 307\r\n{tail}"));
            let third = decoded(&mut decoder, blocks[2]);
            let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\r\n";
            assert!(
                third
                    .starts_with(":status: 200\r\ncache-control: private\r\ndate: Mon, 21 Oct 2013 20:13:22")
            );
            assert!(third.ends_with(&format!("content-encoding: gzip\r\n{cookie}")), "{third}");
        }
    }

    #[test]
    fn literals_of_rfc_7541_c_2() {
        let mut decoder = Decoder::new(0);
        assert_eq!(
            decoded(&mut decoder, "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572 be"),
            "custom-key: custom-header\r\n".repeat(2)
        );
        assert_eq!(decoded(&mut decoder, "040c 2f73 616d 706c 652f 7061 7468"), ":path: /sample/path\r\n");
        assert_eq!(
            decoded(&mut decoder, "1008 7061 7373 776f 7264 0673 6563 7265 74"),
            "password: secret\r\n"
        );
    }

    #[test]
    fn lost_state_is_an_error() {
        let cases = [
            ("80", HpackError::Index),
            ("be", HpackError::Index),
            ("7f00 0161", HpackError::Index),
            ("82 20", HpackError::TableSize),
            ("20 20 20 82", HpackError::TableSize),
            ("3fe2 1f 82", HpackError::TableSize),
            ("00", HpackError::Truncated),
            ("0001 61", HpackError::Truncated),
            ("007f", HpackError::Truncated),
            ("ff ffff ffff ff", HpackError::Integer),
            ("0001 61 81 ff", HpackError::Huffman),
        ];
        for (block_hex, error) in cases {
            assert_eq!(block(&mut Decoder::new(0), &[&hex(block_hex)], ROOM), Err(error), "{block_hex}");
        }
    }

    #[test]
    fn a_field_without_room_still_enters_the_table() {
        let mut decoder = Decoder::new(0);
        let long = [hex("4001 61 7f e91e").as_slice(), &[b'v'; 4_000]].concat();
        let (text, dropped) =
            block(&mut decoder, &[&hex("4001 78 0179"), &hex("be"), &hex("0001 7a 0179")], 0).unwrap();
        assert_eq!((text.as_str(), dropped), ("", 3));
        assert_eq!(decoded(&mut decoder, "be"), "x: y\r\n");
        // 4,072 bytes push the entry before them out and would have had no room.
        block(&mut decoder, &[&hex("4001 61 7fa1 1e"), &[b'v'; 4_000]], 10).unwrap();
        assert_eq!(decoded(&mut decoder, "be").len(), 4_005);
        drop(long);
    }

    #[test]
    fn a_string_that_nobody_wants_is_skipped_and_empties_the_table() {
        for indexing in [true, false] {
            for long_name in [true, false] {
                let mut decoder = Decoder::new(0);
                decoded(&mut decoder, "4001 78 0179");
                // A length of 100,000: 0x7f, then 99,873 in groups of seven bits.
                let long = [&[0x7f, 0xa1, 0x8c, 0x06][..], &vec![b'v'; 100_000]].concat();
                let short = [1, b'a'];
                let first = [if indexing { 0x40 } else { 0 }];
                let (name, value) = if long_name { (&long[..], &short[..]) } else { (&short[..], &long[..]) };
                let bytes = [&first[..], name, value, &[0x82]].concat();
                let pieces: Vec<&[u8]> = bytes.chunks(1000).collect();
                let (text, dropped) = block(&mut decoder, &pieces, ROOM).unwrap();
                assert_eq!((text.as_str(), dropped), (":method: GET\r\n", 1));
                assert_eq!(block(&mut decoder, &[&[0xbe]], ROOM).is_err(), indexing);
            }
        }
    }

    #[test]
    fn work_is_linear_in_the_bytes_of_a_block_however_they_come() {
        let reference = [&hex("4001 78 7fa1 1e")[..], &[b'v'; 4_000], &vec![0xbe; 30_000]].concat();
        let tiny_entries = [0x40, 0, 0].repeat(10_000);
        let huffman = [&[0, 1, b'a', 0xff, 0xa1, 0x8c, 0x00][..], &vec![0x1f; 1_700]].concat();
        let long_tail = [&[0, 1, b'a', 0x7f, 0x81, 0x7e][..], &vec![b'v'; 16_256]].concat();
        for (what, bytes) in [
            ("references", reference),
            ("tiny entries", tiny_entries),
            ("huffman", huffman),
            ("one long", long_tail),
        ] {
            for chunk in [1, 100, 100_000] {
                work::taken();
                let pieces: Vec<&[u8]> = bytes.chunks(chunk).collect();
                let _ended = block(&mut Decoder::new(0), &pieces, 0);
                let steps = work::taken();
                assert!(steps <= bytes.len() * 10 + 10_000, "{what} by {chunk}: {steps} for {}", bytes.len());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(1_usize..20, 1..50),
            room in 0_usize..200,
        ) {
            let whole = block(&mut Decoder::new(0), &[&bytes], room);
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            prop_assert_eq!(block(&mut Decoder::new(0), &pieces, room), whole);
        }

        #[test]
        fn fields_come_out_as_a_client_put_them_in(
            fields in prop::collection::vec(("[a-z]{1,8}", "[ -~]{0,40}", 0_u8..3, any::<bool>()), 0..40),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), String::new());
            for (name, value, kind, is_huffman) in fields {
                bytes.push([0x40, 0x00, 0x10][usize::from(kind)]);
                for text in [&name, &value] {
                    let coded = if is_huffman { huffman_encode(text.as_bytes()) } else { text.as_bytes().to_vec() };
                    integer::encode(&mut bytes, if is_huffman { 0x80 } else { 0 }, 7, coded.len());
                    bytes.extend_from_slice(&coded);
                }
                expected += &format!("{name}: {value}\r\n");
                if kind == 0 {
                    bytes.push(0xbe);
                    expected += &format!("{name}: {value}\r\n");
                }
            }
            prop_assert_eq!(block(&mut Decoder::new(0), &[&bytes], ROOM), Ok((expected, 0)));
        }
    }
}
