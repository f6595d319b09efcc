//! HTTP/1.0 and 1.1 (RFC 9112): heads of requests and responses, bodies, and their encoding.

pub mod body;
pub mod encode;
pub mod request_head;
pub mod response_head;
pub mod target;
