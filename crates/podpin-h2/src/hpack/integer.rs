//! Integers of HPACK (RFC 7541 section 5.1): a prefix of some bits, then seven bits a byte.

use super::error::HpackError;

/// Continuation bytes that an integer of 32 bits needs at most; more of them are padding that only costs.
const CONTINUATIONS_MAX: usize = 5;

/// Reads an integer whose prefix has `prefix_bits` bits, and moves the input behind it; `None` if bytes are missing.
pub(super) fn decode(input: &mut &[u8], prefix_bits: u32) -> Result<Option<usize>, HpackError> {
    let Some((first, rest)) = input.split_first() else { return Ok(None) };
    let mask = u8::try_from((1_u32 << prefix_bits) - 1).unwrap_or(u8::MAX);
    let prefix = first & mask;
    if prefix < mask {
        *input = rest;
        return Ok(Some(usize::from(prefix)));
    }
    let mut value = u64::from(prefix);
    for (position, byte) in rest.iter().take(CONTINUATIONS_MAX).enumerate() {
        value += u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            *input = rest.get(position + 1..).unwrap_or_default();
            let value = u32::try_from(value).map_err(|_| HpackError::Integer)?;
            return usize::try_from(value).map(Some).map_err(|_| HpackError::Integer);
        }
    }
    if rest.len() < CONTINUATIONS_MAX { Ok(None) } else { Err(HpackError::Integer) }
}

/// Appends an integer behind the bits of `pattern` that stand before its prefix.
pub(super) fn encode(out: &mut Vec<u8>, pattern: u8, prefix_bits: u32, value: usize) {
    let mask = (1_usize << prefix_bits) - 1;
    if value < mask {
        out.push(pattern | low_byte(value));
        return;
    }
    out.push(pattern | low_byte(mask));
    let mut left = value - mask;
    while left >= 0x80 {
        out.push(low_byte(left & 0x7f) | 0x80);
        left >>= 7;
    }
    out.push(low_byte(left));
}

fn low_byte(value: usize) -> u8 {
    u8::try_from(value & 0xff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_rfc_7541_c_1() {
        let cases: [(&[u8], u32, usize); 3] =
            [(&[0x0a], 5, 10), (&[0x1f, 0x9a, 0x0a], 5, 1337), (&[0x2a], 8, 42)];
        for (bytes, prefix_bits, value) in cases {
            let mut input = bytes;
            assert_eq!(decode(&mut input, prefix_bits), Ok(Some(value)));
            assert!(input.is_empty());
            let mut out = Vec::new();
            encode(&mut out, 0, prefix_bits, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn an_integer_above_32_bits_or_with_needless_bytes_is_refused() {
        let cases: [&[u8]; 3] = [
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ];
        for bytes in cases {
            assert_eq!(decode(&mut &*bytes, 7), Err(HpackError::Integer), "{bytes:x?}");
        }
        for cut in 0..5 {
            let bytes = &[0xff, 0x80, 0x80, 0x80, 0x80][..cut];
            let mut input = bytes;
            assert_eq!(decode(&mut input, 7), Ok(None), "{bytes:x?}");
            assert_eq!(input, bytes, "an incomplete integer is not consumed");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in 0_usize..=0xffff_ffff, prefix_bits in 4_u32..=7) {
            let mut out = Vec::new();
            encode(&mut out, 0, prefix_bits, value);
            prop_assert_eq!(decode(&mut &*out, prefix_bits), Ok(Some(value)));
        }
    }
}
