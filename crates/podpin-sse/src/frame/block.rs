//! Blocks of an event stream, read from bytes that start at a boundary; see `frame.rs` for what a block is.

use crate::line::{CR, Field, LF, is_comment, split_line};

/// The whole blocks at the beginning of some bytes, and what they say together.
pub(crate) struct Blocks<'a> {
    /// Bytes after the last whole block.
    pub(crate) rest: &'a [u8],
    pub(crate) events: u32,
    /// Last reconnection time, milliseconds.
    pub(crate) retry: Option<u32>,
    pub(crate) id: Option<&'a [u8]>,
}

/// The meaning of a block. A comment has none.
#[derive(Default)]
pub(crate) struct Block<'a> {
    pub(crate) has_fields: bool,
    pub(crate) has_data: bool,
    /// Last reconnection time, milliseconds.
    pub(crate) retry: Option<u32>,
    pub(crate) id: Option<&'a [u8]>,
}

impl<'a> Blocks<'a> {
    /// Reads `bytes`, which start at a boundary, and shows each block to `note`.
    pub(crate) fn scan(bytes: &'a [u8], mut note: impl FnMut(&Block<'a>)) -> Self {
        let mut blocks = Self { rest: bytes, events: 0, retry: None, id: None };
        while let Some((block, rest)) = Block::split(blocks.rest) {
            note(&block);
            blocks.add(&block);
            blocks.rest = rest;
        }
        blocks
    }

    fn add(&mut self, block: &Block<'a>) {
        self.events += u32::from(block.has_data);
        self.retry = block.retry.or(self.retry);
        self.id = block.id.or(self.id);
    }
}

impl<'a> Block<'a> {
    /// Reads the first whole block of `bytes`, which start at a boundary. Returns what follows it, too.
    pub(crate) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut block = Self::default();
        let mut lines = bytes;
        while let Some((line, rest)) = split_line(lines) {
            lines = rest;
            if line.is_empty() || (is_comment(line) && !block.has_fields) {
                return Some((block, rest));
            }
            if !is_comment(line) {
                block.take(line);
            }
        }
        None
    }

    fn take(&mut self, line: &'a [u8]) {
        self.has_fields = true;
        match Field::parse(line) {
            Field::Data => self.has_data = true,
            Field::Id(id) => self.id = Some(id),
            Field::Retry(time) => self.retry = Some(time),
            Field::Other => {}
        }
    }
}

/// Returns the bytes after the block that begins with `held` and ends in `input`; `None` if it does not end there.
pub(crate) fn after_block<'a>(held: &[u8], input: &'a [u8]) -> Option<&'a [u8]> {
    let mut line_is_empty = matches!(held.last(), Some(&(CR | LF)));
    let mut lines = input;
    while let Some((line, rest)) = split_line(lines) {
        if is_comment(held) || (line_is_empty && line.is_empty()) {
            return Some(rest);
        }
        line_is_empty = true;
        lines = rest;
    }
    None
}

/// `whole` without `rest`, which is its end.
pub(crate) fn before<'a>(whole: &'a [u8], rest: &[u8]) -> &'a [u8] {
    whole.split_at(whole.len() - rest.len()).0
}

/// Appends `more` to `held`. Grows by doubling, as `Vec` does, but not beyond `bytes_max`.
pub(crate) fn append(held: &mut Vec<u8>, more: &[u8], bytes_max: usize) {
    let bytes = held.len() + more.len();
    if bytes > held.capacity() {
        let capacity = bytes.max(bytes_max.min(held.capacity() * 2));
        held.reserve_exact(capacity - held.len());
    }
    held.extend_from_slice(more);
}
