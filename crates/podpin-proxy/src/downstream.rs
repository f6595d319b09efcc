//! The client side: a response before it begins, and its body.

pub mod body;
pub mod pending;
pub mod response;
