//! The paths that routes match and rewrite: as a request has them, without a query.

/// Longer values are mistakes: no request line that long comes through the header limit's default.
const PATH_BYTES_MAX: usize = 1024;

/// Returns the reason why `path` could never match a request's path; `None` if it could.
#[must_use]
pub fn refuse_path(path: &str) -> Option<String> {
    let dots =
        |element: &str| matches!(element.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if !path.starts_with('/') {
        return Some(format!("a path begins with /; found {path:?}"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Some(format!("a path has at most {PATH_BYTES_MAX} bytes"));
    }
    if let Some(c) = path.chars().find(|c| matches!(c, '?' | '#')) {
        return Some(format!("a path must not contain `{c}`; only the path is compared"));
    }
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Some("write spaces, control and non-ASCII characters percent-encoded".to_owned());
    }
    if path.contains("//") {
        return Some("a path must not contain //".to_owned());
    }
    if let Some((octet, plain)) = encoded_unreserved(path) {
        return Some(format!(
            "write `{plain}` for `{octet}`: paths of requests are compared decoded that far"
        ));
    }
    path.split('/').any(dots).then(|| "a path must not contain the elements . or ..".to_owned())
}

/// Returns an encoded octet that has no need to be (RFC 3986 section 2.3), and what it stands for; `None` if there is none.
fn encoded_unreserved(path: &str) -> Option<(&str, char)> {
    path.match_indices('%').find_map(|(at, _)| {
        let octet = path.get(at..at + 3)?;
        let plain = char::from(u8::from_str_radix(octet.get(1..)?, 16).ok()?);
        (plain.is_ascii_alphanumeric() || matches!(plain, '-' | '_' | '~')).then_some((octet, plain))
    })
}
