//! Event streams: opened, refused, relayed, handed over, accounted for.

pub(crate) mod open;
pub(crate) mod post;
pub(crate) mod refuse;
pub(crate) mod relay;
pub(crate) mod successor;
pub(crate) mod task;
