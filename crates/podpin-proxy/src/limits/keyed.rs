//! Places by key: streams of a client, connections of an address.
//!
//! A key is in the table only while it holds a place, so the table is never larger than what it counts. The limit comes with
//! each call, because it may change while places are held.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;

/// Places by key. The lock is held for one look into the table.
#[derive(Debug)]
pub struct KeyedLimit<K>(Mutex<HashMap<K, u32>>);

impl<K> Default for KeyedLimit<K> {
    fn default() -> KeyedLimit<K> {
        KeyedLimit(Mutex::default())
    }
}

impl<K: Eq + Hash> KeyedLimit<K> {
    /// Takes one more place, unless `key` holds `limit` of them; returns whether a place was taken.
    #[must_use = "a place that was taken has to be given back"]
    pub fn take(&self, key: K, limit: u32) -> bool {
        let mut taken = self.0.lock();
        let count = taken.entry(key).or_default();
        let free = *count < limit;
        *count += u32::from(free);
        free
    }

    /// Gives one place back.
    pub fn give_back(&self, key: &K) {
        let mut taken = self.0.lock();
        if let Some(count) = taken.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(key);
            }
        }
    }

    /// Returns the number of keys that hold a place.
    #[cfg(test)]
    pub fn keys(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_holds_its_limit_and_leaves_nothing_behind() {
        let places = KeyedLimit::default();
        assert!(places.take("one", 2) && places.take("one", 2) && !places.take("one", 2));
        assert!(places.take("other", 2));
        places.give_back(&"one");
        assert!(!places.take("one", 1), "a limit that was lowered counts for the next");
        assert!(places.take("one", 2));
        ["one", "one", "other"].iter().for_each(|key| places.give_back(key));
        assert_eq!(places.keys(), 0);
    }
}
