//! A count of the steps that input costs, for the law that work is linear; nothing outside of tests.

/// Adds so many steps: bytes copied or looked at, entries or streams visited.
#[cfg(not(test))]
#[inline]
pub(crate) fn count(_steps: usize) {}

#[cfg(test)]
pub(crate) use counted::{count, taken};

#[cfg(test)]
mod counted {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    /// Adds so many steps.
    pub(crate) fn count(steps: usize) {
        STEPS.set(STEPS.get() + steps);
    }

    /// Returns the steps since the last call.
    pub(crate) fn taken() -> usize {
        STEPS.replace(0)
    }
}
