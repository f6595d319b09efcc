//! Who a client is, and which endpoint serves it.

pub mod identify;
pub mod select;
pub mod split;
pub mod wait;
