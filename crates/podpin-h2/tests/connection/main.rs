//! The connection as a client meets it: messages, windows, turns, attacks, laws, and the `h2` crate as another reading.

mod attacks;
mod client;
mod ends;
mod laws;
mod messages;
mod oracle;
mod sizes;
mod turns;
mod windows;
