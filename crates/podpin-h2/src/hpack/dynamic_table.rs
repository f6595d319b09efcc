//! The dynamic table of HPACK (RFC 7541 section 2.3.2): as large as what is in it.
//!
//! Names and values of all entries stand in one buffer, oldest first; what was evicted leaves a hole at its beginning
//! that is closed once it is large enough to pay for the move, so that an insertion costs its own bytes a few times
//! over and never the whole table.

use std::collections::VecDeque;

use super::error::HpackError;
use crate::work;

/// The largest dynamic table that a client may use (RFC 9113 section 6.5.2: the initial value, which is never
/// raised).
pub(super) const TABLE_BYTES_MAX: usize = 4096;
/// The size of an entry beside its bytes (RFC 7541 section 4.1).
const ENTRY_OVERHEAD: usize = 32;
/// A hole of this size is closed: at most [`TABLE_BYTES_MAX`] bytes are moved then, four for each byte inserted.
const HOLE_BYTES_MAX: usize = 1024;

/// The entries that a client has put into the table.
#[derive(Debug)]
pub(super) struct DynamicTable {
    bytes: Vec<u8>,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Evicted bytes at the beginning of `bytes`.
    hole: u16,
    /// As RFC 7541 section 4.1 counts.
    size: u16,
    size_max: u16,
}

/// The lengths of one entry; its bytes stand behind those of the entries before.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The place of its name in the buffer, modulo 2^16 and counted from a beginning that moves with the hole.
    start: u16,
    name: u16,
    value: u16,
}

/// A name and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

impl DynamicTable {
    /// Returns an empty table that may grow to [`TABLE_BYTES_MAX`].
    pub(super) fn new() -> DynamicTable {
        DynamicTable {
            bytes: Vec::new(),
            entries: VecDeque::new(),
            hole: 0,
            size: 0,
            size_max: narrow(TABLE_BYTES_MAX),
        }
    }

    /// Returns an entry; 0 is the newest.
    pub(super) fn get(&self, index: usize) -> Result<Pair<'_>, HpackError> {
        let place = self.entries.len().checked_sub(index + 1).ok_or(HpackError::Index)?;
        let entry = self.entries.get(place).ok_or(HpackError::Index)?;
        let bytes = self.bytes.get(usize::from(entry.start)..).unwrap_or_default();
        let (name, rest) = bytes.split_at_checked(usize::from(entry.name)).ok_or(HpackError::Index)?;
        Ok(Pair { name, value: rest.get(..usize::from(entry.value)).unwrap_or_default() })
    }

    /// Inserts an entry; one that is larger than the table empties it (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, pair: Pair<'_>) {
        let bytes = pair.name.len() + pair.value.len();
        let Some(left) = usize::from(self.size_max).checked_sub(bytes + ENTRY_OVERHEAD) else {
            return self.clear();
        };
        self.evict_to(left);
        self.close_hole(bytes);
        work::count(bytes);
        let start = narrow(self.bytes.len());
        self.bytes.extend_from_slice(pair.name);
        self.bytes.extend_from_slice(pair.value);
        self.entries.push_back(Entry {
            start,
            name: narrow(pair.name.len()),
            value: narrow(pair.value.len()),
        });
        self.size += narrow(bytes + ENTRY_OVERHEAD);
    }

    /// Changes the size that the client promised not to pass.
    pub(super) fn resize(&mut self, size_max: usize) -> Result<(), HpackError> {
        if size_max > TABLE_BYTES_MAX {
            return Err(HpackError::TableSize);
        }
        self.size_max = narrow(size_max);
        self.evict_to(size_max);
        Ok(())
    }

    /// Drops every entry and the memory of all.
    pub(super) fn clear(&mut self) {
        *self = DynamicTable { size_max: self.size_max, ..DynamicTable::new() };
    }

    /// Returns the bytes of heap that the table occupies.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    fn evict_to(&mut self, size: usize) {
        while usize::from(self.size) > size
            && let Some(entry) = self.entries.pop_front()
        {
            work::count(1);
            self.size -= entry.name + entry.value + narrow(ENTRY_OVERHEAD);
            self.hole += entry.name + entry.value;
        }
        if self.entries.is_empty() {
            self.clear();
        }
    }

    /// Moves the entries to the beginning where that pays, and makes room for `bytes` more.
    fn close_hole(&mut self, bytes: usize) {
        if usize::from(self.hole) >= HOLE_BYTES_MAX {
            work::count(self.bytes.len() - usize::from(self.hole) + self.entries.len());
            self.bytes.drain(..usize::from(self.hole));
            for entry in &mut self.entries {
                entry.start -= self.hole;
            }
            self.hole = 0;
        }
        let missing = (self.bytes.len() + bytes).saturating_sub(self.bytes.capacity());
        if missing > 0 {
            // By half, and not twice, of what is there.
            self.bytes.reserve_exact(bytes.max(self.bytes.len() / 2));
        }
    }
}

/// Sizes in the table fit into 16 bits: nothing in it is longer than [`TABLE_BYTES_MAX`] and a hole.
fn narrow(size: usize) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(entries: usize, value: &[u8]) -> DynamicTable {
        let mut table = DynamicTable::new();
        for number in 0..entries {
            table.insert(Pair { name: number.to_string().as_bytes(), value });
        }
        table
    }

    #[test]
    fn the_newest_is_first_and_the_oldest_goes() {
        let table = table(1000, b"value");
        assert_eq!(table.get(0).unwrap(), Pair { name: b"999", value: b"value" });
        let kept = TABLE_BYTES_MAX / (3 + 5 + 32);
        assert_eq!(table.get(kept - 1).unwrap().name, (1000 - kept).to_string().as_bytes());
        assert_eq!(table.get(kept), Err(HpackError::Index));
    }

    #[test]
    fn an_entry_that_does_not_fit_empties_the_table_and_its_memory() {
        let mut table = table(20, b"value");
        table.insert(Pair { name: b"n", value: &[b'v'; TABLE_BYTES_MAX - 32] });
        assert_eq!((table.get(0), table.heap_bytes()), (Err(HpackError::Index), 0));
    }

    #[test]
    fn memory_follows_what_is_in_the_table() {
        for (entries, length) in
            [(1, 10), (10, 100), (10_000, 0), (10_000, 100), (10_000, 2000), (10_000, 4000)]
        {
            let table = table(entries, &vec![b'v'; length]);
            let held = usize::from(table.size);
            assert!(
                table.heap_bytes() <= held * 3 / 2 + HOLE_BYTES_MAX + 128,
                "{entries} of {length}: {}",
                table.heap_bytes()
            );
            assert!(table.heap_bytes() <= 7 * 1024, "{entries} of {length}: {}", table.heap_bytes());
        }
    }

    #[test]
    fn an_insertion_costs_its_own_bytes_a_few_times() {
        for length in [0, 1, 100, 1000, 4000] {
            work::taken();
            table(1000, &vec![b'v'; length]);
            let steps = work::taken();
            assert!(steps <= 1000 * (length + 3 + 1) * 8, "{length}: {steps}");
        }
    }

    proptest! {
        #[test]
        fn the_table_is_the_list_that_the_rfc_describes(
            sizes in prop::collection::vec((0_usize..5, 0_usize..1500), 1..200),
            cut in 0_usize..=4096,
        ) {
            let mut table = DynamicTable::new();
            let mut list: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            for (place, (name, value)) in sizes.into_iter().enumerate() {
                let byte = u8::try_from(place % 256).unwrap();
                let pair = (vec![byte; name], vec![byte; value]);
                table.insert(Pair { name: &pair.0, value: &pair.1 });
                list.insert(0, pair);
                if place == 100 {
                    table.resize(cut).unwrap();
                }
                let limit = if place >= 100 { cut } else { TABLE_BYTES_MAX };
                while list.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > limit {
                    list.pop();
                }
                for (index, (name, value)) in list.iter().enumerate() {
                    prop_assert_eq!(table.get(index).unwrap(), Pair { name, value });
                }
                prop_assert!(table.get(list.len()).is_err());
            }
        }
    }
}
