//! Heads of requests, kept once and flat: pseudo-header fields apart, all others as the lines that HTTP/1.1 has.
//!
//! The text of the fields is what an HTTP/1.1 upstream is sent (`name: value` CRLF for each), so that a request
//! that waits holds what will be written for it and little else. Names are lower case, cookie crumbs are one line
//! (RFC 9113 section 8.2.3), and `host` never stands among the lines: [`Head::authority`] has it, whichever way it
//! came.

mod builder;
mod refusal;
mod rules;
mod text;

pub(crate) use builder::{Bounds, Builder, Purpose};
pub use refusal::Refusal;
pub use text::{Field, Fields, Head, HeadText, Trailers};
