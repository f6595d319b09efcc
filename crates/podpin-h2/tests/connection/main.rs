//! The connection as a client meets it: messages, windows, turns, attacks, laws, and the `h2` crate as another
//! reading.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]

mod attacks;
mod client;
mod ends;
mod laws;
mod messages;
mod oracle;
mod sizes;
mod turns;
mod windows;
