//! An event stream as a browser reads it: WHATWG HTML, section "Interpreting an event stream".
//!
//! Besides the events it also reports comments and `retry:` lines in the order in which they came, because what the
//! proxy adds to a stream is exactly that.

use std::collections::VecDeque;

/// An event as it would be dispatched to the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The last event id when it was dispatched; empty when the stream has shown none.
    pub id: String,
    /// The `event:` field; empty when there was none.
    pub kind: String,
    /// The `data:` lines, joined by line feeds.
    pub data: String,
}

/// An item read from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A dispatched event.
    Event(Event),
    /// The text behind the colon of a comment line.
    Comment(String),
    /// A reconnection time in milliseconds.
    Retry(u64),
}

/// Turns bytes, cut anywhere, into [`Item`]s.
#[derive(Clone, Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    after_carriage_return: bool,
    started: bool,
    pending: Event,
    has_data: bool,
    items: VecDeque<Item>,
}

impl EventParser {
    /// Reads more of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let follows_carriage_return = std::mem::take(&mut self.after_carriage_return);
            match byte {
                b'\n' if follows_carriage_return => {}
                b'\n' => self.end_line(),
                b'\r' => {
                    self.after_carriage_return = true;
                    self.end_line();
                }
                _ => self.line.push(byte),
            }
        }
    }

    /// The next thing that is complete.
    pub fn pop(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    /// Whether the bytes so far stop in the middle of an event or of a line.
    pub fn is_inside_event(&self) -> bool {
        !self.line.is_empty() || self.has_data || !self.pending.kind.is_empty()
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = if self.started { &text } else { text.strip_prefix('\u{feff}').unwrap_or(&text) };
        self.started = true;
        if text.is_empty() {
            return self.dispatch();
        }
        match text.split_once(':') {
            Some(("", comment)) => self.items.push_back(Item::Comment(comment.to_owned())),
            Some((field, value)) => self.field(field, value.strip_prefix(' ').unwrap_or(value)),
            None => self.field(text, ""),
        }
    }

    fn field(&mut self, name: &str, value: &str) {
        match name {
            "data" => {
                self.pending.data.push_str(value);
                self.pending.data.push('\n');
                self.has_data = true;
            }
            "event" => self.pending.kind = value.to_owned(),
            "id" if !value.contains('\0') => self.pending.id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.items.extend(value.parse().ok().map(Item::Retry));
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let next = Event { id: self.pending.id.clone(), ..Event::default() };
        let mut event = std::mem::replace(&mut self.pending, next);
        if std::mem::take(&mut self.has_data) {
            event.data.pop();
            self.items.push_back(Item::Event(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(bytes: &[u8], step: usize) -> Vec<Item> {
        let mut parser = EventParser::default();
        bytes.chunks(step).for_each(|chunk| parser.push(chunk));
        std::iter::from_fn(|| parser.pop()).collect()
    }

    fn event(id: &str, kind: &str, data: &str) -> Item {
        Item::Event(Event { id: id.into(), kind: kind.into(), data: data.into() })
    }

    #[test]
    fn any_chunking_gives_the_items_of_the_standard() {
        let stream = "\u{feff}: hello\r\ndata: a\r\ndata:b\r\rid: 1\nevent: x\ndata\n\n\ndata:  c\n\nretry: 250\nid: 9\0\ndata: d\n\ndata: lost";
        let expected = vec![
            Item::Comment(" hello".into()),
            event("", "", "a\nb"),
            event("1", "x", ""),
            event("1", "", " c"),
            Item::Retry(250),
            event("1", "", "d"),
        ];
        for step in 1..=stream.len() {
            assert_eq!(items(stream.as_bytes(), step), expected, "in steps of {step}");
        }
    }
}
