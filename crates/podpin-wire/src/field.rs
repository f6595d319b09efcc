//! The value of a header field, however many lines it has (RFC 9110 section 5.3).

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName};

/// Returns the lines of the field as one value, in their order; `None` if there is none. A single line is not copied.
///
/// Lines are joined by a comma; those of `Cookie`, which HTTP/2 may split (RFC 9113 section 8.2.3), by a semicolon.
pub fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(|line| line.as_bytes().trim_ascii());
    let mut value = Cow::Borrowed(lines.next()?);
    for line in lines {
        let whole = value.to_mut();
        whole.extend_from_slice(if *name == header::COOKIE { b"; " } else { b", " });
        whole.extend_from_slice(line);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_of_a_field_are_one_value() {
        let table: [(&str, &[&str], Option<&str>); 6] = [
            ("x-session-id", &[], None),
            ("x-session-id", &[" "], Some("")),
            ("x-session-id", &["a"], Some("a")),
            ("x-session-id", &[" a ", "b, c"], Some("a, b, c")),
            ("x-session-id", &["a", ""], Some("a, ")),
            ("cookie", &["a=b", "c=d; e=f"], Some("a=b; c=d; e=f")),
        ];
        for (name, lines, expected) in table {
            let name: HeaderName = name.parse().unwrap();
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&name, line.parse().unwrap());
            }
            assert_eq!(value(&headers, &name).as_deref(), expected.map(str::as_bytes), "{lines:?}");
        }
    }
}
