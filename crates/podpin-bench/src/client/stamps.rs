//! Finds the pods' time stamps (`@` and 19 digits) in bytes that come in pieces: one stamp is one event.

use memchr::memchr;

const DIGITS: usize = 19;
const STAMP: usize = DIGITS + 1;

/// State between two pieces of a stream: a stamp that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    part: [u8; STAMP],
    length: u8,
}

impl Stamps {
    /// Calls `found` with the time of each event whose stamp is complete with `bytes`.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(u64)) {
        if self.length > 0 {
            bytes = self.complete(bytes, &mut found);
        }
        while let Some(rest) = memchr(b'@', bytes).and_then(|at| bytes.get(at..)) {
            let Some((stamp, after)) = rest.split_at_checked(STAMP) else {
                self.keep(rest);
                return;
            };
            if let Some(time) = parse(stamp) {
                found(time);
            }
            bytes = after;
        }
    }

    fn complete<'a>(&mut self, bytes: &'a [u8], found: &mut impl FnMut(u64)) -> &'a [u8] {
        let held = usize::from(self.length);
        let taken = bytes.len().min(STAMP - held);
        let (head, rest) = bytes.split_at(taken);
        if let Some(place) = self.part.get_mut(held..held + taken) {
            place.copy_from_slice(head);
        }
        self.length += u8::try_from(taken).unwrap_or(0);
        if usize::from(self.length) == STAMP {
            self.length = 0;
            if let Some(time) = parse(&self.part) {
                found(time);
            }
        }
        rest
    }

    fn keep(&mut self, rest: &[u8]) {
        if let Some(place) = self.part.get_mut(..rest.len()) {
            place.copy_from_slice(rest);
        }
        self.length = u8::try_from(rest.len()).unwrap_or(0);
    }
}

fn parse(stamp: &[u8]) -> Option<u64> {
    let digits = stamp.strip_prefix(b"@")?;
    digits.iter().try_fold(0_u64, |sum, digit| {
        let value = digit.checked_sub(b'0').filter(|value| *value < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_events() {
        let text =
            b"78\r\nid: 1\ndata: @0000000000000000042 ...\n\n\r\n78\r\ndata: @0000000000000000043 @x ..";
        for size in 1..=text.len() {
            let mut stamps = Stamps::default();
            let mut times = Vec::new();
            for piece in text.chunks(size) {
                stamps.feed(piece, |time| times.push(time));
            }
            assert_eq!(times, [42, 43], "pieces of {size} bytes");
        }
    }
}
