//! Values as ingress-nginx reads them: flags, numbers, seconds.

/// Returns the flag that `text` is for Go's `strconv.ParseBool`; `None` if it is none.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Returns the seconds that `text` names, as a bare number or in nginx's units; `None` if it is neither.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    match unit {
        "ms" => Some(number.div_ceil(1_000)),
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3_600),
        "d" => number.checked_mul(86_400),
        _ => None,
    }
}

/// Returns `seconds` as podpin's configuration writes them.
pub(crate) fn duration(seconds: u64) -> String {
    podpin_config::format_duration(std::time::Duration::from_secs(seconds))
}

/// Splits at commas and leaves empty parts out.
pub(crate) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Returns the beginning of `text` on one line, for reports.
pub(crate) fn excerpt(text: &str, chars_max: usize) -> String {
    let line = text.trim().replace(|c: char| c.is_control(), " ");
    let mut short: String = line.chars().take(chars_max).collect();
    if line.chars().nth(chars_max).is_some() {
        short.push_str("...");
    }
    short
}

/// Returns `text` as a DNS label: other characters become hyphens. `None` if nothing is left.
pub(crate) fn label(text: &str, length_max: usize) -> Option<String> {
    let mapped: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(length_max)
        .collect();
    let trimmed = mapped.trim_matches('-');
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_controller_reads_them() {
        assert_eq!([flag("True"), flag("0"), flag("yes"), flag("")], [Some(true), Some(false), None, None]);
        let cases = [("60", Some(60)), ("5m", Some(300)), ("1500ms", Some(2)), ("1d", Some(86_400))];
        for (text, expected) in cases {
            assert_eq!(seconds(text), expected, "{text}");
        }
        for text in ["", "s", "-1", "1.5s", "60 s", "99999999999999999999", "99999999999999999h"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert_eq!(label("Chat.Prod_2-", 63).as_deref(), Some("chat-prod-2"));
        assert_eq!(label("...", 63), None);
    }
}
