//! Event streams: opened, refused, relayed, handed over, accounted for.

pub(crate) mod account;
mod body;
mod client_writer;
mod handover;
mod interim;
pub(crate) mod open;
mod overlap;
pub(crate) mod places;
pub(crate) mod post;
mod relay;
mod start;
mod task;
mod timer;
mod upstream_reader;
