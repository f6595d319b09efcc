//! How is an event stream relayed? [`Framer`] keeps events whole and drops what a successor replays;
//! [`session::Session`] decides when the stream ends and when it changes its upstream. Neither has sockets or clocks.
//!
//! Follows the WHATWG HTML standard, section 9.2 "Server-sent events". Reading, writing and choosing a successor are left
//! to the proxy.

mod cursor;
mod frame;
mod insert;
mod line;
mod overlap;
pub mod session;

pub use cursor::{KnownIds, ReplayStart};
pub use frame::{Framer, Pushed, Resumption};
pub use insert::{KEEP_ALIVE, retry_line};
pub use line::ID_BYTES_MAX;
pub use overlap::{Outstanding, Overlap};
