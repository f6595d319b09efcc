//! How is an event stream carried? Framing by whole events, and handing over from one pod to
//! another, without sockets and clocks.
//!
//! Follows the WHATWG HTML standard, section 9.2 "Server-sent events". Reading and writing, keep-alive timing and
//! choosing a successor are left to the proxy.

mod cursor;
mod frame;
mod handover;
mod insert;
mod line;
pub mod session;

pub use frame::{Framer, Pushed};
pub use handover::{Action, Answer, Cause, Eligibility, End, Handover, Limits, Outcome, Pod, Report, Step};
pub use insert::{KEEP_ALIVE, retry_line};
pub use line::ID_BYTES_MAX;
