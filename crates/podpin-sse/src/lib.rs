//! How is an event stream carried? Framing by whole events, without sockets and clocks.
//!
//! Follows the WHATWG HTML standard, section 9.2 "Server-sent events". Reading and writing, keep-alive timing and
//! what happens when a pod goes away are left to the proxy.

mod frame;
mod insert;
mod line;

pub use frame::{Framer, Pushed};
pub use insert::{KEEP_ALIVE, retry_line};
pub use line::ID_BYTES_MAX;
