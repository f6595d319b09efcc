//! Files that the configuration names, read within a bound.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// Reads a regular file of at most `bytes_max` bytes. Anything else is an error: a FIFO would block its reader, a device has no end.
///
/// # Errors
/// If the file is missing, cannot be read, is none, or is larger.
pub fn read_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?;
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "a directory, not a file"));
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= bytes_max) {
        return Ok(bytes);
    }
    let message = match bytes_max >> 20 {
        0 => format!("larger than {} KiB", bytes_max >> 10),
        mebibytes => format!("larger than {mebibytes} MiB"),
    };
    Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_within_its_bound_and_nothing_else_is_read_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "12345678").unwrap();
        assert_eq!(read_file(&file, 8).unwrap(), b"12345678");
        assert_eq!(read_file(&file, 7).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let fifo = directory.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [&fifo, Path::new("/dev/zero")] {
            assert_eq!(read_file(path, 8).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
        assert_eq!(read_file(directory.path(), 8).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read_file(&directory.path().join("none"), 8).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
