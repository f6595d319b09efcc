//! The load client: event streams, requests and sessions by the thousand, on one thread.

pub(crate) mod body;
mod event_lines;
pub(crate) mod http;
pub(crate) mod lane;
mod messages;
pub(crate) mod references;
pub(crate) mod request;
pub(crate) mod returning;
pub(crate) mod socket;
pub(crate) mod stamps;
pub(crate) mod streams;
mod streams_h2;
mod tally;
pub(crate) mod target;
