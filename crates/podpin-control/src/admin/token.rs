//! The token of the admin port, in a file that is read for each request that needs it: a rotated one counts at once.

use std::io;
use std::path::Path;

/// The least length: as many random letters and digits have 95 bits.
const BYTES_MIN: usize = 16;
/// More than any token, so that a wrong path costs nothing.
const BYTES_MAX: u64 = 4096;

/// Reads the token, without the white space around it.
///
/// # Errors
/// If the file cannot be read, or holds no token.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let content = podpin_config::read_file(path, BYTES_MAX)?;
    let token = content.trim_ascii();
    match token.len() >= BYTES_MIN && token.iter().all(u8::is_ascii_graphic) {
        true => Ok(token.to_vec()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a token is {BYTES_MIN} characters of printable ASCII or more, without white space"),
        )),
    }
}

/// Compares in a time that does not depend on where the bytes differ.
pub(crate) fn is_equal(shown: &[u8], wanted: &[u8]) -> bool {
    let difference = shown.iter().zip(wanted).fold(0, |difference, (one, other)| difference | (one ^ other));
    shown.len() == wanted.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sixteen_characters_or_more_between_white_space() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cases: [(&[u8], Option<&[u8]>); 6] = [
            (b"0123456789abcdef", Some(b"0123456789abcdef")),
            (b" \n0123456789abcdef\r\n", Some(b"0123456789abcdef")),
            (b"0123456789abcde", None),
            (b"", None),
            (b"0123456789 abcdef", None),
            (b"0123456789abcde\xff", None),
        ];
        for (content, expected) in cases {
            std::fs::write(file.path(), content).unwrap();
            assert_eq!(read(file.path()).ok().as_deref(), expected, "{content:?}");
        }
        assert!(read(Path::new("/nonexistent/token")).is_err());
        assert!(is_equal(b"abc", b"abc") && is_equal(b"", b""));
        assert!(!is_equal(b"abc", b"abd") && !is_equal(b"ab", b"abc") && !is_equal(b"abc", b"ab"));
    }
}
