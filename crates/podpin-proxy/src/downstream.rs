//! The client side: a response before it begins, and its body.

pub(crate) mod body;
pub(crate) mod pending;
pub(crate) mod response;
