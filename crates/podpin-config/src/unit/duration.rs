//! Durations as Kubernetes and Go write them: `250ms`, `15s`, `1h30m`, `1.5s`.
//!
//! The grammar is that of Go's `time.ParseDuration` without signs: decimal numbers, each with a unit. A unit is always
//! wanted, because a bare number means seconds to some tools and milliseconds to others. Hours are the largest unit.

use std::time::Duration;

use thiserror::Error;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Units and their length in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("h", 3_600 * NANOS_PER_SECOND),
];

/// More digits after the point than this say nothing: 18 are a billionth of a nanosecond of an hour's fraction.
const FRACTION_DIGITS_MAX: usize = 18;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// No number with a unit.
    #[error("expected a duration such as 15s")]
    NotADuration,
    /// A sign.
    #[error("a duration must not be negative")]
    Negative,
    /// A number alone.
    #[error("a unit is missing (ms, s, m or h, such as 15s)")]
    UnitMissing,
    /// A unit that there is not, such as `d`.
    #[error("unknown unit `{0}`; the units are ms, s, m and h")]
    UnitUnknown(String),
    /// More than fits.
    #[error("too long")]
    TooLong,
}

/// Reads `text` as a duration: `250ms`, `15s`, `1h30m`, `1.5s`.
///
/// # Errors
/// What is wrong with it.
///
/// ```
/// use std::time::Duration;
/// use podpin_config::{format_duration, parse_duration};
///
/// assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
/// assert_eq!(format_duration(Duration::from_millis(1_500)), "1.5s");
/// assert!(parse_duration("90").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    if text.is_empty() {
        return Err(DurationError::NotADuration);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (term, after) = split_term(rest)?;
        nanos = nanos.checked_add(term).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).map_err(|_| DurationError::TooLong)?;
    let subsecond = u32::try_from(nanos % NANOS_PER_SECOND).map_err(|_| DurationError::TooLong)?;
    Ok(Duration::new(seconds, subsecond))
}

/// Takes one number with its unit off the front: its nanoseconds, and what follows.
fn split_term(text: &str) -> Result<(u128, &str), DurationError> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (number, rest) = text.split_at(text.find(|c| !is_number(c)).unwrap_or(text.len()));
    let (unit, rest) = rest.split_at(rest.find(is_number).unwrap_or(rest.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return Err(DurationError::NotADuration);
    }
    if unit.is_empty() {
        return Err(DurationError::UnitMissing);
    }
    let Some((_, unit_nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(unknown_unit(unit));
    };
    let whole =
        if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| DurationError::TooLong)? };
    let nanos = u128::from(whole) * unit_nanos + fraction_nanos(fraction, *unit_nanos)?;
    Ok((nanos, rest))
}

/// The nanoseconds of the digits after the point; what is finer than a nanosecond is cut off, as in Go.
fn fraction_nanos(digits: &str, unit_nanos: u128) -> Result<u128, DurationError> {
    let digits = digits.get(..FRACTION_DIGITS_MAX).unwrap_or(digits);
    let mut scale: u128 = 1;
    let mut value: u128 = 0;
    for digit in digits.chars() {
        value = value * 10 + u128::from(digit.to_digit(10).ok_or(DurationError::NotADuration)?);
        scale *= 10;
    }
    Ok(value * unit_nanos / scale)
}

/// A unit that does not exist, or words that were never meant as one.
fn unknown_unit(unit: &str) -> DurationError {
    let is_word = unit.len() <= 12 && unit.chars().all(char::is_alphabetic);
    if is_word { DurationError::UnitUnknown(unit.to_owned()) } else { DurationError::NotADuration }
}

/// The exact text of a duration in the fewest parts: `1h30m`, `250ms`, `1.5s`, `0s`. It reads back as the same duration.
pub fn format_duration(duration: Duration) -> String {
    let (total, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if total == 0 {
        return format_below_second(nanos);
    }
    let (hours, minutes, seconds) = (total / 3_600, total / 60 % 60, total % 60);
    let mut text = String::new();
    if hours > 0 {
        text.push_str(&format!("{hours}h"));
    }
    if minutes > 0 {
        text.push_str(&format!("{minutes}m"));
    }
    if seconds > 0 || nanos > 0 {
        text.push_str(&format!("{}s", decimal(seconds, nanos, 9)));
    }
    text
}

fn format_below_second(nanos: u32) -> String {
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}us", decimal(u64::from(nanos / 1_000), nanos % 1_000, 3)),
        _ => format!("{}ms", decimal(u64::from(nanos / 1_000_000), nanos % 1_000_000, 6)),
    }
}

/// `whole.fraction` where the fraction has `digits` places; no zeros at its end.
fn decimal(whole: u64, fraction: u32, digits: usize) -> String {
    if fraction == 0 {
        return whole.to_string();
    }
    let fraction = format!("{fraction:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// Which durations a key takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DurationRange {
    min: Duration,
    max: Duration,
    step: Step,
}

/// How fine a duration may be where it is written on a wire that counts whole units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Any,
    Milliseconds,
    Seconds,
}

impl DurationRange {
    /// From `min` to `max`, both included.
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, step: Step::Any }
    }

    /// As written in an event stream's `retry:`, which counts milliseconds.
    pub(crate) const fn whole_milliseconds(min: Duration, max: Duration) -> Self {
        Self { min, max, step: Step::Milliseconds }
    }

    /// As written in a cookie's `Max-Age`, which counts seconds.
    pub(crate) const fn whole_seconds(min: Duration, max: Duration) -> Self {
        Self { min, max, step: Step::Seconds }
    }

    /// Returns the fault of `value`, if any; `or` is another allowed text, such as ", or `off`".
    pub(crate) fn refuse(&self, value: Duration, or: &str) -> Option<String> {
        if value < self.min || value > self.max {
            let (min, max) = (format_duration(self.min), format_duration(self.max));
            return Some(format!("must be between {min} and {max}{or}; found {}", format_duration(value)));
        }
        match self.step {
            Step::Milliseconds if !value.subsec_nanos().is_multiple_of(1_000_000) => {
                Some("must be a whole number of milliseconds".to_owned())
            }
            Step::Seconds if value.subsec_nanos() != 0 => {
                Some("must be a whole number of seconds".to_owned())
            }
            Step::Any | Step::Milliseconds | Step::Seconds => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let cases = [
            ("250ms", Duration::from_millis(250)),
            ("15s", Duration::from_secs(15)),
            ("1h30m", Duration::from_secs(5_400)),
            ("1.5s", Duration::from_millis(1_500)),
            (".5s", Duration::from_millis(500)),
            ("1h0.5s", Duration::from_millis(3_600_500)),
            ("0s", Duration::ZERO),
            ("7us", Duration::from_micros(7)),
            ("7µs", Duration::from_micros(7)),
            ("9600h", Duration::from_secs(9_600 * 3_600)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_its_reason() {
        use DurationError::*;
        let cases = [
            ("", NotADuration),
            ("-5s", Negative),
            ("15", UnitMissing),
            ("1h15", UnitMissing),
            ("soon", NotADuration),
            ("s", NotADuration),
            ("1.2.3s", NotADuration),
            (".s", NotADuration),
            ("15 s", NotADuration),
            ("7d", UnitUnknown("d".to_owned())),
            ("15sec", UnitUnknown("sec".to_owned())),
            ("99999999999999999999h", TooLong),
            ("18446744073709551615h", TooLong),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_the_fewest_parts() {
        let cases = [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1ns"),
            (Duration::from_nanos(1_500), "1.5us"),
            (Duration::from_millis(250), "250ms"),
            (Duration::from_millis(1_500), "1.5s"),
            (Duration::from_secs(90), "1m30s"),
            (Duration::from_secs(5_400), "1h30m"),
            (Duration::from_secs(86_400), "24h"),
            (Duration::new(3_600, 1), "1h0.000000001s"),
        ];
        for (duration, expected) in cases {
            assert_eq!(format_duration(duration), expected);
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(seconds: u64, nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn reading_any_text_as_a_duration_does_not_panic(text in "[0-9.hmsuµnd -]{0,40}|.{0,20}") {
            let _ = parse_duration(&text);
        }
    }
}
