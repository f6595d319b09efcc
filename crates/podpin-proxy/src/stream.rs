//! Event streams: opened, refused, relayed, handed over, accounted for.

pub mod open;
pub mod post;
pub mod refuse;
pub mod relay;
pub mod successor;
pub mod task;
