//! The pods' events by their lines (WHATWG HTML section 9.2.6, as much of it as pods and proxies here write): which event
//! of its stream each is, and which pod wrote it.
//!
//! Slower than `stamps.rs`, which only counts; for the measurements that follow each client through a loss or a reload.

/// Longer lines are none of a pod's; a proxy's comment may be cut, it is not looked at.
const LINE_BYTES_MAX: usize = 256;

/// An event of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    /// Counts up within the stream, also from pod to pod.
    pub(super) id: u64,
    /// The port of the pod that wrote it.
    pub(super) pod: u16,
}

/// State between two pieces of a stream.
#[derive(Debug, Default)]
pub(super) struct EventLines {
    line: Vec<u8>,
    id: Option<u64>,
}

impl EventLines {
    /// Calls `found` with each event whose data line is complete with `bytes`.
    pub(super) fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(Event)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(end) = piece.strip_suffix(b"\n") else {
                self.keep(piece);
                return;
            };
            // Most lines come whole: nothing is copied.
            let event = if self.line.is_empty() {
                read(end, &mut self.id)
            } else {
                self.keep(end);
                let event = read(&self.line, &mut self.id);
                self.line.clear();
                event
            };
            if let Some(event) = event {
                found(event);
            }
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }
}

fn read(line: &[u8], id: &mut Option<u64>) -> Option<Event> {
    let line = std::str::from_utf8(line).ok()?;
    if let Some(digits) = line.strip_prefix("id: ") {
        *id = digits.parse().ok();
        return None;
    }
    let (_, after_stamp) = line.strip_prefix("data: @")?.split_once(' ')?;
    let (port, _) = after_stamp.split_once('.')?;
    Some(Event { id: id.take()?, pod: port.parse().ok()? })
}

/// Relation of a client's next id to the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Next,
    /// So many between were lost.
    Gap(u64),
    /// An id from before the last one.
    Back,
}

impl Step {
    pub(super) fn between(last: Option<u64>, id: u64) -> Self {
        match last {
            Some(last) if id <= last => Self::Back,
            Some(last) if id > last + 1 => Self::Gap(id - last - 1),
            _ => Self::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_events_and_what_proxies_write_is_none() {
        let text = "retry: 3000\n\nid: 000000000007\ndata: @0000000000000000042 21003.....\n\n: keep-alive\n\n\
                    id: 000000000008\ndata: @0000000000000000043 443.....\n\nid: 9\nda";
        for size in 1..=text.len() {
            let mut lines = EventLines::default();
            let mut events = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                lines.feed(piece, |event| events.push(event));
            }
            let expected = [Event { id: 7, pod: 21_003 }, Event { id: 8, pod: 443 }];
            assert_eq!(events, expected, "pieces of {size} bytes");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let mut lines = EventLines::default();
        for _ in 0..100 {
            lines.feed(&[b'x'; 100], |_| panic!("no event"));
        }
        assert_eq!(lines.line.len(), LINE_BYTES_MAX);
    }

    #[test]
    fn a_gap_is_what_lies_between_and_a_repetition_is_a_step_back() {
        assert_eq!(Step::between(None, 5), Step::Next);
        assert_eq!(Step::between(Some(5), 6), Step::Next);
        assert_eq!(Step::between(Some(5), 9), Step::Gap(3));
        assert_eq!(Step::between(Some(5), 5), Step::Back);
        assert_eq!(Step::between(Some(5), 0), Step::Back);
    }
}
