//! Reads intervals from a command line: `250ms`, `10s`, `2m`, `1h`.
//!
//! One number and one unit: the example depends on nothing of the proxy, not even on its configuration syntax.

use std::time::Duration;

/// Why a text is not an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseIntervalError {
    /// A text that does not begin with a whole number.
    NoNumber,
    /// The unit is not one of ms, s, m, h.
    UnknownUnit,
    /// A time that is longer than the clock can count.
    TooLong,
}

impl std::fmt::Display for ParseIntervalError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::NoNumber => "expected a whole number and a unit, such as 10s",
            Self::UnknownUnit => "expected one of the units ms, s, m, h, such as 10s",
            Self::TooLong => "the interval is too long",
        })
    }
}

impl std::error::Error for ParseIntervalError {}

/// Reads one whole number followed by one of the units ms, s, m, h.
///
/// # Errors
/// [`ParseIntervalError`] says which part is wrong.
pub fn parse_interval(text: &str) -> Result<Duration, ParseIntervalError> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(ParseIntervalError::NoNumber);
    }
    let unit_millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(ParseIntervalError::UnknownUnit),
    };
    let number: u64 = number.parse().map_err(|_| ParseIntervalError::TooLong)?;
    number.checked_mul(unit_millis).map(Duration::from_millis).ok_or(ParseIntervalError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_number_and_a_unit() {
        let table = [
            ("250ms", Ok(Duration::from_millis(250))),
            ("10s", Ok(Duration::from_secs(10))),
            ("2m", Ok(Duration::from_secs(120))),
            ("1h", Ok(Duration::from_secs(3600))),
            ("0s", Ok(Duration::ZERO)),
            ("s", Err(ParseIntervalError::NoNumber)),
            ("", Err(ParseIntervalError::NoNumber)),
            ("-1s", Err(ParseIntervalError::NoNumber)),
            ("10", Err(ParseIntervalError::UnknownUnit)),
            ("1.5s", Err(ParseIntervalError::UnknownUnit)),
            ("10sec", Err(ParseIntervalError::UnknownUnit)),
            ("99999999999999999999s", Err(ParseIntervalError::TooLong)),
            ("18446744073709551615h", Err(ParseIntervalError::TooLong)),
        ];
        for (text, expected) in table {
            assert_eq!(parse_interval(text), expected, "{text:?}");
        }
    }
}
