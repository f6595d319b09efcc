//! Sizes as operators write them: `32KiB`, `1MiB`, `10MB`, `512B`, or a plain number of bytes.
//!
//! `Ki` and `K` of Kubernetes quantities are refused rather than guessed at: `1M` is a million to Kubernetes and
//! 1,048,576 to nginx.

/// Units and their length in bytes, binary before decimal so that `format_bytes` prefers them.
const UNITS: [(&str, usize); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads a size with its unit. `None` if it is not a size, or more than fits.
pub(crate) fn parse_bytes(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "" => 1,
        "kB" => 1_000,
        _ => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.parse::<usize>().ok()?.checked_mul(scale)
}

/// The shortest exact text of a size: `32KiB`, `10MB`, `1500B`. It reads back as the same size.
pub fn format_bytes(bytes: usize) -> String {
    let exact = UNITS.iter().filter(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    let texts = exact.map(|(unit, scale)| format!("{}{unit}", bytes / scale));
    texts.min_by_key(String::len).unwrap_or_else(|| "0B".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        let cases = [
            ("512B", Some(512)),
            ("512", Some(512)),
            ("32KiB", Some(32_768)),
            ("1MiB", Some(1_048_576)),
            ("1GiB", Some(1_073_741_824)),
            ("10MB", Some(10_000_000)),
            ("10kB", Some(10_000)),
            ("10KB", Some(10_000)),
            ("32Ki", None),
            ("1M", None),
            ("1.5MiB", None),
            ("-1B", None),
            ("KiB", None),
            ("", None),
            ("99999999999999999999B", None),
            ("18446744073709551615KiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes_are_written_in_the_shortest_exact_unit() {
        let cases =
            [(0, "0B"), (1_500, "1500B"), (32_768, "32KiB"), (1_048_576, "1MiB"), (10_000_000, "10MB")];
        for (bytes, expected) in cases {
            assert_eq!(format_bytes(bytes), expected);
        }
    }

    proptest! {
        #[test]
        fn a_written_size_reads_back(bytes: usize, shift in 0u32..40) {
            let bytes = (bytes >> 40) << shift.min(24);
            prop_assert_eq!(parse_bytes(&format_bytes(bytes)), Some(bytes));
        }

        #[test]
        fn reading_any_text_as_a_size_does_not_panic(text in "[0-9KMGiB.]{0,30}|.{0,20}") {
            let _ = parse_bytes(&text);
        }
    }
}
