//! Who a client is, and which endpoint serves it.

pub(crate) mod identify;
pub(crate) mod select;
pub(crate) mod split;
pub(crate) mod wait;
