//! The file of a bearer token: a projected service account token, or `tokenFile` of a kubeconfig.
//!
//! The kubelet replaces such a file before its token expires, so it is read for each request, of which there are few. White
//! space around the token is what editors and `echo` leave there. A file that holds no token is an error at the start; later
//! the last good token stays in use, and the log says so once.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

use crate::watch::{FileWatch, read_bounded};

/// Why there is no token in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The system does not let it be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Nothing but white space.
    #[error("is empty")]
    Empty,
    /// Bytes that no token has: white space within, or none of printable ASCII.
    #[error("is not a token: it has other characters than printable ASCII, or white space within")]
    Binary,
}

/// A token file, and the last good token that was read from it.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    last_good: Mutex<HeaderValue>,
}

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// [`TokenError`] if there is no token in it.
    pub(crate) fn open(path: &Path) -> Result<TokenFile, TokenError> {
        let last_good = Mutex::new(read(path)?);
        Ok(TokenFile { path: path.to_owned(), last_good })
    }

    /// Returns the value of `Authorization` as of now: the last good one if the file has none.
    pub(crate) fn authorization(&self) -> HeaderValue {
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(value) = read(&self.path) {
            *last_good = value;
        }
        last_good.clone()
    }

    /// Follows the file and logs when its token cannot be used, and when it can be again; for ever.
    pub(crate) async fn watch(&self) -> ! {
        let mut watch = FileWatch::new([self.path.clone()]);
        let mut said = Ok(());
        loop {
            let found = read(&self.path).map(drop);
            match &found {
                Err(error) if said != found => {
                    let path = self.path.display();
                    tracing::error!("the token file {path} {error}: the last good token stays in use");
                }
                Ok(()) if said.is_err() => {
                    tracing::info!("the token file {} can be used again", self.path.display());
                }
                _ => {}
            }
            said = found;
            watch.changed().await;
        }
    }
}

fn read(path: &Path) -> Result<HeaderValue, TokenError> {
    let bytes = read_bounded(path).map_err(|error| TokenError::Unreadable(error.to_string()))?;
    authorization(&bytes)
}

/// Makes the value of `Authorization` (RFC 6750, section 2.1) of the content of a token file.
pub(crate) fn authorization(content: &[u8]) -> Result<HeaderValue, TokenError> {
    let token = content.trim_ascii();
    if token.is_empty() {
        return Err(TokenError::Empty);
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(TokenError::Binary);
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).map_err(|_| TokenError::Binary)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_is_between_white_space() {
        let cases: [(&[u8], Result<&str, TokenError>); 9] = [
            (b"abc", Ok("Bearer abc")),
            (b"abc\n", Ok("Bearer abc")),
            (b" \tabc.def-_~+/=\r\n\n", Ok("Bearer abc.def-_~+/=")),
            (b"", Err(TokenError::Empty)),
            (b"\n \r\n", Err(TokenError::Empty)),
            (b"abc\ndef", Err(TokenError::Binary)),
            (b"abc\0", Err(TokenError::Binary)),
            (b"\xff\xfe", Err(TokenError::Binary)),
            ("t\u{f6}ken".as_bytes(), Err(TokenError::Binary)),
        ];
        for (content, expected) in cases {
            let value = authorization(content);
            let text = value.as_ref().map(|value| value.to_str().unwrap()).map_err(Clone::clone);
            assert_eq!(text, expected, "{content:?}");
        }
    }

    #[test]
    fn a_file_that_loses_its_token_keeps_the_last_good_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let missing = TokenFile::open(&path).unwrap_err();
        assert!(matches!(missing, TokenError::Unreadable(_)), "{missing}");
        let write = |content: &[u8]| std::fs::write(&path, content).unwrap();
        write(b"one\n");
        let token = TokenFile::open(&path).unwrap();
        for (content, expected) in [(&b"\n"[..], "one"), (b"two\n", "two"), (b"\0", "two")] {
            write(content);
            assert_eq!(token.authorization(), format!("Bearer {expected}"), "{content:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(token.authorization(), "Bearer two");
    }
}
