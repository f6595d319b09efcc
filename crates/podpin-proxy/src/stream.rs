//! Event streams: opened, refused, relayed, handed over, accounted for.

pub(crate) mod account;
mod body;
mod client_writer;
mod handover;
pub(crate) mod open;
mod overlap;
pub(crate) mod places;
mod relay;
mod start;
mod task;
pub(crate) mod timer;
pub(crate) mod upload;
pub(crate) mod upstream_reader;
