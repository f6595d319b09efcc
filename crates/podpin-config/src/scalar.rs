//! Reads single values: durations, sizes, counts, words, addresses, paths.
//!
//! Each reader reports what it expected and what it found, and returns `None` then.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use saphyr::Scalar;

use crate::{
    name::NameRule,
    node::Node,
    suggest,
    unit::{DurationError, DurationRange, format_bytes, parse_bytes, parse_duration},
};

/// Written after "expected .." where a value may also be switched off.
const OR_OFF: &str = " or `off`";

const A_DURATION: &str = "a duration such as 15s";

impl<'a> Node<'a> {
    /// A duration in `range`.
    pub(crate) fn duration(&self, range: DurationRange) -> Option<Duration> {
        self.duration_or(range, "")
    }

    /// A duration in `range`, or `off`.
    pub(crate) fn duration_or_off(&self, range: DurationRange) -> Option<Option<Duration>> {
        if self.is_off() { Some(None) } else { self.duration_or(range, OR_OFF).map(Some) }
    }

    fn duration_or(&self, range: DurationRange, or_off: &str) -> Option<Duration> {
        let Some(text) = self.as_text().filter(|_| !self.is_off()) else {
            self.fail_without_unit(or_off);
            return None;
        };
        let refusal = match parse_duration(text) {
            Ok(value) => match range.refuse(value, or_off) {
                None => return Some(value),
                Some(refusal) => refusal,
            },
            Err(DurationError::NotADuration) => {
                self.fail_expected(A_DURATION, or_off);
                return None;
            }
            Err(error) => format!("{error}; found {text:?}"),
        };
        self.fail(refusal);
        None
    }

    /// A bare number where a duration belongs: which unit was meant is anyone's guess.
    fn fail_without_unit(&self, or_off: &str) {
        match self.scalar() {
            Some(Scalar::Integer(0)) if !or_off.is_empty() => {
                self.fail("0 has no unit; write `off` to switch it off");
            }
            Some(Scalar::Integer(number)) if *number > 0 => {
                self.fail(format!("{}; found \"{number}\"", DurationError::UnitMissing));
            }
            _ => self.fail_expected(A_DURATION, or_off),
        }
    }

    /// A size in bytes within `range`.
    pub(crate) fn bytes(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let value = match self.scalar() {
            Some(Scalar::Integer(number)) => usize::try_from(*number).ok(),
            Some(Scalar::String(text)) => parse_bytes(text),
            _ => None,
        };
        let Some(value) = value else {
            self.fail_expected("a size such as 32KiB (B, KiB, MiB, GiB, KB, MB, GB)", "");
            return None;
        };
        if !range.contains(&value) {
            let (min, max) = (format_bytes(*range.start()), format_bytes(*range.end()));
            self.fail(format!("must be between {min} and {max}; found {}", format_bytes(value)));
            return None;
        }
        Some(value)
    }

    /// A whole number in `range`.
    pub(crate) fn count<T: TryFrom<i64> + PartialOrd + Display>(
        &self,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        self.count_or(range, "")
    }

    /// A whole number in `range`, or `off`.
    pub(crate) fn count_or_off(&self, range: RangeInclusive<u32>) -> Option<Option<u32>> {
        if self.is_off() { Some(None) } else { self.count_or(range, OR_OFF).map(Some) }
    }

    fn count_or<T: TryFrom<i64> + PartialOrd + Display>(
        &self,
        range: RangeInclusive<T>,
        or_off: &str,
    ) -> Option<T> {
        let Some(Scalar::Integer(number)) = self.scalar() else {
            self.fail_expected("a whole number", or_off);
            return None;
        };
        let value = T::try_from(*number).ok().filter(|value| range.contains(value));
        if value.is_none() {
            self.fail(format!(
                "must be between {} and {}{or_off}; found {number}",
                range.start(),
                range.end()
            ));
        }
        value
    }

    /// A number in `range`, whole or not.
    pub(crate) fn ratio(&self, range: RangeInclusive<f64>) -> Option<f64> {
        let value = match self.scalar() {
            Some(Scalar::Integer(number)) => i32::try_from(*number).ok().map(f64::from),
            Some(Scalar::FloatingPoint(number)) => Some(number.into_inner()),
            _ => {
                self.fail_expected("a number such as 1.5", "");
                return None;
            }
        };
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            self.fail(format!("must be between {} and {}", range.start(), range.end()));
        }
        value
    }

    /// `true` or `false`; `off` is `false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.scalar() {
            Some(Scalar::Boolean(value)) => Some(*value),
            _ if self.is_off() => Some(false),
            _ => {
                self.fail_expected("`true` or `false`", "");
                None
            }
        }
    }

    /// Text that is not empty; `what` is expected, such as "a host name".
    pub(crate) fn text(&self, what: &str) -> Option<&'a str> {
        match self.scalar() {
            Some(Scalar::String(text)) if text.is_empty() => {
                self.fail(format!("expected {what}, found an empty text"));
                None
            }
            Some(Scalar::String(text)) => Some(text),
            _ => {
                self.fail_expected(what, "");
                None
            }
        }
    }

    /// A name that follows `rule`.
    pub(crate) fn name(&self, rule: &NameRule) -> Option<String> {
        if matches!(self.scalar(), Some(Scalar::Integer(_) | Scalar::FloatingPoint(_))) {
            self.fail_expected(rule.what, " in quotes");
            return None;
        }
        let name = self.text(rule.what)?;
        match rule.refuse(name) {
            None => Some(name.to_owned()),
            Some(refusal) => {
                self.fail(refusal);
                None
            }
        }
    }

    /// Reads a word out of `choices`.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let found = self.as_text().and_then(|text| choices.iter().find(|(word, _)| *word == text));
        if let Some((_, value)) = found {
            return Some(*value);
        }
        let expected = suggest::list(words(), "or");
        match self.as_text().and_then(|text| suggest::nearest(text, words())) {
            Some(meant) => {
                self.fail(format!("expected {expected}, found {}; did you mean `{meant}`?", self.found()))
            }
            None => self.fail_expected(&expected, ""),
        }
        None
    }

    /// An IP address with a port. Host names are refused: resolving them is discovery's work, at run time.
    pub(crate) fn address(&self, port: Port) -> Option<SocketAddr> {
        let text = self.text("an IP address and port such as 127.0.0.1:8080")?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 && port == Port::Fixed => {
                self.fail("the port must not be 0");
                None
            }
            Ok(address) => Some(address),
            Err(_) => {
                self.fail(address_refusal(text));
                None
            }
        }
    }

    /// The path of a file, relative to the configuration file's directory.
    pub(crate) fn file_path(&self) -> Option<PathBuf> {
        let text = self.text("the path of a file")?;
        if text.contains('\0') {
            self.fail("a path must not contain a zero byte");
            return None;
        }
        Some(self.context().base.join(text))
    }
}

/// Whether port 0 (any free port) makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// To listen on: 0 takes a free one.
    AnyWhenZero,
    /// To connect to.
    Fixed,
}

/// Why `text` is not `ip:port`, and what was probably meant.
fn address_refusal(text: &str) -> String {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let refusal = format!("expected an IP address and port such as 127.0.0.1:8080, found {text:?}");
    match text.rsplit_once(':') {
        Some(("", port)) if is_port(port) => format!("{refusal}; did you mean \"0.0.0.0:{port}\"?"),
        Some((host, port)) if is_port(port) && crate::name::refuse_dns_name(host).is_none() => {
            format!("{host:?} is not an IP address; host names are not resolved, use an IP address")
        }
        _ if text.parse::<std::net::IpAddr>().is_ok() => format!("{refusal}; the port is missing"),
        _ => refusal,
    }
}
