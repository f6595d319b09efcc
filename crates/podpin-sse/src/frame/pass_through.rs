//! A block that is too large to be held: its bytes go through as they come, and only its lines are followed.

use crate::line::{Field, ID_BYTES_MAX, split_line};

/// Destination of a block that is too large to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Client,
    /// A replay of an event that the client has received whole.
    Nowhere,
}

/// State kept for a block that is not held.
#[derive(Debug)]
pub(super) struct PassThrough {
    /// The beginning of the line at hand, as much as tells its meaning.
    pub(super) line: Vec<u8>,
    /// The block is one comment line.
    pub(super) is_comment: bool,
    pub(super) destination: Destination,
    pub(super) has_data: bool,
    /// Reconnection time that has come since it was looked for, milliseconds.
    pub(super) retry: Option<u32>,
    pub(super) id: Option<Vec<u8>>,
}

impl PassThrough {
    /// Enough for an id that is just too long. The NUL of an even longer one goes unseen; it counts as too long.
    pub(super) const LINE_BYTES_MAX: usize = b"id: ".len() + ID_BYTES_MAX + 1;

    pub(super) fn new(is_comment: bool) -> Self {
        Self {
            line: Vec::new(),
            is_comment,
            destination: Destination::Client,
            has_data: false,
            retry: None,
            id: None,
        }
    }

    /// Follows the lines of `input` up to the end of the block. Returns what comes after it, if it ends here.
    pub(super) fn follow<'a>(&mut self, input: &'a [u8]) -> Option<&'a [u8]> {
        let mut lines = input;
        while let Some((line, rest)) = split_line(lines) {
            lines = rest;
            self.extend_line(line);
            if self.is_comment || self.line.is_empty() {
                return Some(rest);
            }
            self.finish_line();
        }
        self.extend_line(lines);
        None
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        let room = Self::LINE_BYTES_MAX - self.line.len();
        self.line.extend(bytes.iter().take(room));
    }

    fn finish_line(&mut self) {
        match Field::parse(&self.line) {
            Field::Data => self.has_data = true,
            Field::Id(id) => self.id = Some(id.to_vec()),
            Field::Retry(time) => self.retry = Some(time),
            Field::Other => {}
        }
        self.line.clear();
    }
}
