//! Counts the fields of HTTP/2 header blocks on their way to the library (RFC 7541 section 6), without decoding them.
//!
//! A field that only refers to the dynamic table is one byte on the wire and some 250 bytes in memory. The library
//! bounds a header list by its bytes alone, and holds trailers until its stream ends.

/// Flags of HEADERS (RFC 9113 section 6.2).
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// The header block that is passing by, over HEADERS and CONTINUATION.
#[derive(Debug, Default)]
pub(crate) struct FieldCounter {
    fields: usize,
    point: Point,
    /// The frame's first byte is the length of its padding.
    pad_length_next: bool,
    priority_left: usize,
    /// Bytes of the block in this frame; padding comes after them.
    block_left: usize,
}

/// A point in the grammar of header blocks.
#[derive(Clone, Copy, Debug, Default)]
enum Point {
    /// The first byte of a representation.
    #[default]
    Start,
    /// The rest of an index or table size, before this many strings.
    Index { strings: u8 },
    /// The first byte of a string's length; this string and those behind it.
    Length { strings: u8 },
    /// The rest of a string's length.
    LengthRest { length: u64, shift: u32, strings: u8 },
    /// The bytes of a string.
    Text { left: u64, strings: u8 },
}

impl FieldCounter {
    /// Begins a block with a HEADERS frame.
    pub(crate) fn begin(&mut self, flags: u8, payload_bytes: usize) {
        let priority_left = if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
        let pad_length_next = flags & PADDED != 0;
        *self = FieldCounter {
            pad_length_next,
            priority_left,
            block_left: payload_bytes.saturating_sub(priority_left + usize::from(pad_length_next)),
            ..FieldCounter::default()
        };
    }

    /// Continues the block with a CONTINUATION frame.
    pub(crate) fn resume(&mut self, payload_bytes: usize) {
        (self.pad_length_next, self.priority_left, self.block_left) = (false, 0, payload_bytes);
    }

    /// Takes payload of the frame; returns the number of fields that have begun in the block.
    pub(crate) fn push(&mut self, payload: &[u8]) -> usize {
        let mut rest = payload;
        if self.pad_length_next
            && let Some((padding, behind)) = rest.split_first()
        {
            self.pad_length_next = false;
            self.block_left = self.block_left.saturating_sub(usize::from(*padding));
            rest = behind;
        }
        let skipped = self.priority_left.min(rest.len());
        self.priority_left -= skipped;
        rest = rest.get(skipped..).unwrap_or_default();
        rest = rest.get(..self.block_left).unwrap_or(rest);
        self.block_left -= rest.len();
        while let Some((byte, behind)) = rest.split_first() {
            if let Point::Text { left, strings } = self.point {
                let count = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.point = Point::text(left - u64::try_from(count).unwrap_or(left), strings);
                rest = rest.get(count..).unwrap_or_default();
            } else {
                self.step(*byte);
                rest = behind;
            }
        }
        self.fields
    }

    fn step(&mut self, byte: u8) {
        self.point = match self.point {
            Point::Start => self.representation(byte),
            Point::Index { strings } if byte & 0x80 == 0 => Point::strings(strings),
            index @ Point::Index { .. } => index,
            Point::Length { strings } if byte & 0x7f == 0x7f => {
                Point::LengthRest { length: 0x7f, shift: 0, strings }
            }
            Point::Length { strings } => Point::text(u64::from(byte & 0x7f), strings),
            Point::LengthRest { length, shift, strings } => {
                // The library refuses lengths that do not fit.
                let part = u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(u64::MAX);
                let length = length.saturating_add(part);
                if byte & 0x80 == 0 {
                    Point::text(length, strings)
                } else {
                    Point::LengthRest { length, shift: shift.saturating_add(7), strings }
                }
            }
            text @ Point::Text { .. } => text,
        };
    }

    /// Counts what begins with this byte, unless it only changes the size of the table.
    fn representation(&mut self, byte: u8) -> Point {
        let (mask, is_field, is_literal) = match byte {
            0x80.. => (0x7f, true, false),
            0x40..0x80 => (0x3f, true, true),
            0x20..0x40 => (0x1f, false, false),
            0x00..0x20 => (0x0f, true, true),
        };
        self.fields += usize::from(is_field);
        let strings = match (is_literal, byte & mask) {
            (false, _) => 0,
            (true, 0) => 2,
            (true, _) => 1,
        };
        if byte & mask == mask { Point::Index { strings } } else { Point::strings(strings) }
    }
}

impl Point {
    /// The point before this many strings.
    fn strings(strings: u8) -> Point {
        if strings == 0 { Point::Start } else { Point::Length { strings } }
    }

    /// The point within the first of these strings.
    fn text(left: u64, strings: u8) -> Point {
        if left == 0 { Point::strings(strings - 1) } else { Point::Text { left, strings } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(block: &[u8], step: usize) -> usize {
        let mut counter = FieldCounter::default();
        counter.begin(0, block.len());
        block.chunks(step).fold(0, |_, piece| counter.push(piece))
    }

    #[test]
    fn each_representation_is_one_field_but_the_change_of_the_table() {
        let long = [[0x00, 1, b'a', 0x7f, 0x80, 0x01].as_slice(), &[b'x'; 255]].concat();
        let table: [(&[u8], usize); 9] = [
            (&[], 0),
            (&[0x82, 0xbe, 0xbe], 3),
            (&[0xff, 0x80, 0x01, 0x82], 2),
            (&[0x20, 0x3f, 0xe1, 0x1f, 0x82], 1),
            (&[0x40, 1, b'a', 1, b'b', 0x82], 2),
            (&[0x41, 0, 0x10, 0x81, b'a', 0, 0x04, 0], 3),
            (&[0x0f, 0x2f, 2, 0x82, 0x82, 0x82], 2),
            (&[0x00, 1, b'a', 2, 0x82], 1),
            (&long, 1),
        ];
        for (block, expected) in table {
            for step in [1, 2, 1000] {
                assert_eq!(count(block, step), expected, "{block:02x?}");
            }
        }
    }

    #[test]
    fn padding_and_priority_are_no_fields_and_a_block_goes_on_in_the_next_frame() {
        let mut counter = FieldCounter::default();
        let payload = [3, 0, 0, 0, 0, 9, 0x82, 0x00, 1, b'a', 0x82, 0x82, 0x82];
        counter.begin(PADDED | PRIORITY, payload.len());
        assert_eq!(payload.chunks(2).fold(0, |_, piece| counter.push(piece)), 2);
        counter.resume(3);
        assert_eq!(counter.push(&[1, b'b', 0x82]), 3);
        counter.begin(0, 1);
        assert_eq!(counter.push(&[0x82]), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_count_the_same_however_they_are_cut(
            block in prop::collection::vec(any::<u8>(), 0..300),
            step in 1_usize..9,
        ) {
            prop_assert_eq!(count(&block, step), count(&block, 1000));
            prop_assert!(count(&block, step) <= block.len());
        }
    }
}
