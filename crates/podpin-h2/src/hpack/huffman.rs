//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B), decoding only.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, so that the lengths
//! are the whole table. Codes of up to eight bits, which is nearly everything that is sent, take one look-up;
//! longer ones compare with the last code of each length.

use super::error::HpackError;
use crate::work;

/// The end symbol, which no string may hold.
const END: usize = 256;
const LONGEST: usize = 30;
const SHORT_BITS: usize = 8;

/// The bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// A symbol of at most eight bits; `bits` is 0 where a longer code begins.
#[derive(Clone, Copy)]
struct Short {
    symbol: u8,
    bits: u8,
}

/// Tables that follow from the lengths.
struct Tables {
    /// By the first eight bits.
    short: [Short; 1 << SHORT_BITS],
    /// By length: one more than the last code that is not longer, at that length.
    end: [u32; LONGEST + 1],
    /// By length: added to a code, the place of its symbol among all.
    shift: [i32; LONGEST + 1],
    /// All symbols in the order of their codes.
    symbols: [u16; 257],
}

static TABLES: Tables = Tables::new();

impl Tables {
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: a wrong index does not build")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "symbols end at 256")]
    const fn new() -> Tables {
        let mut tables = Tables {
            short: [Short { symbol: 0, bits: 0 }; 1 << SHORT_BITS],
            end: [0; LONGEST + 1],
            shift: [0; LONGEST + 1],
            symbols: [0; 257],
        };
        let (mut code, mut place, mut bits) = (0_u32, 0_usize, 1);
        while bits <= LONGEST {
            code <<= 1;
            tables.shift[bits] = place as i32 - code as i32;
            let mut symbol = 0;
            while symbol <= END {
                if LENGTHS[symbol] as usize == bits {
                    tables.symbols[place] = symbol as u16;
                    if bits <= SHORT_BITS {
                        let spread = SHORT_BITS - bits;
                        let mut slot = (code as usize) << spread;
                        while slot < (code as usize + 1) << spread {
                            tables.short[slot] = Short { symbol: symbol as u8, bits: bits as u8 };
                            slot += 1;
                        }
                    }
                    place += 1;
                    code += 1;
                }
                symbol += 1;
            }
            tables.end[bits] = code;
            bits += 1;
        }
        tables
    }

    /// Returns symbol and length of a code of more than eight bits that stands at the high end of `bits`.
    fn long(&self, bits: u64) -> Option<(u8, u32)> {
        let lengths = SHORT_BITS + 1..=LONGEST;
        for length in lengths {
            let code = u32::try_from(bits >> (64 - length)).ok()?;
            if code < *self.end.get(length)? {
                let place = i64::from(code) + i64::from(*self.shift.get(length)?);
                let symbol = *self.symbols.get(usize::try_from(place).ok()?)?;
                return Some((u8::try_from(symbol).ok()?, u32::try_from(length).ok()?));
            }
        }
        None
    }
}

/// Appends the decoded bytes of a whole string.
///
/// # Errors
/// `Err` if the string holds the end symbol or is padded with anything but the first bits of that.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    work::count(input.len());
    let mut input = input.iter();
    // The next bits stand at the high end.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56 {
            let Some(byte) = input.next() else { break };
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let first = usize::try_from(bits >> 56).unwrap_or_default();
        let (symbol, length) = match TABLES.short.get(first) {
            Some(short) if short.bits > 0 => (short.symbol, u32::from(short.bits)),
            // All ones: the padding, or an error that the check of the padding finds.
            _ => TABLES.long(bits).unwrap_or((0, 64)),
        };
        if length > count {
            let padding = u64::MAX.checked_shl(64 - count).unwrap_or_default();
            return if count < 8 && bits == padding { Ok(()) } else { Err(HpackError::Huffman) };
        }
        out.push(symbol);
        bits <<= length;
        count -= length;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(symbol: usize) -> (u32, usize) {
        let length = usize::from(LENGTHS[symbol]);
        let place = TABLES.symbols.iter().position(|one| usize::from(*one) == symbol).unwrap();
        (u32::try_from(i32::try_from(place).unwrap() - TABLES.shift[length]).unwrap(), length)
    }

    /// Encodes as a client would.
    pub(crate) fn encode(bytes: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in bytes {
            let (code, length) = code(usize::from(*byte));
            bits += &format!("{code:0length$b}");
        }
        bits += &"1".repeat((8 - bits.len() % 8) % 8);
        bits.as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
            .collect()
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(bytes, &mut out).map(|()| out)
    }

    #[test]
    fn codes_are_those_of_appendix_b() {
        let cases = [
            (0, 0x1ff8, 13),
            (b'0'.into(), 0, 5),
            (b'z'.into(), 0x7b, 7),
            (10, 0x3fff_fffc, 30),
            (END, 0x3fff_ffff, 30),
        ];
        for (symbol, expected, length) in cases {
            assert_eq!(code(symbol), (expected, length), "{symbol}");
        }
        assert_eq!(
            decoded(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]).unwrap(),
            b"www.example.com"
        );
    }

    #[test]
    fn wrong_padding_and_the_end_symbol_are_refused() {
        // Padding of eight ones, of zeros, a whole end symbol, nothing but padding of more than seven bits.
        for bytes in
            [&[0x1f, 0xff][..], &[0x18], &[0xff, 0xff, 0xff, 0xff], &[0xff], &[0xff, 0xff, 0xff, 0xfc, 0x1f]]
        {
            assert_eq!(decoded(bytes), Err(HpackError::Huffman), "{bytes:x?}");
        }
        assert_eq!(decoded(&[]), Ok(vec![]));
        assert_eq!(decoded(&[0x1f]), Ok(b"a".to_vec()));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&bytes)), Ok(bytes));
        }

        #[test]
        fn any_bytes_decode_to_what_encodes_to_them(bytes: Vec<u8>) {
            if let Ok(decoded) = decoded(&bytes) {
                prop_assert_eq!(encode(&decoded), bytes);
            }
        }
    }
}
