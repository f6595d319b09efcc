//! The server side of HTTP/2
mod hpack;
mod time;
mod work;
pub use hpack::HpackError;
pub use time::Millis;
