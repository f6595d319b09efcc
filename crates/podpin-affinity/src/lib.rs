//! The client's affinity: the signed token that names its last endpoint, and the cookie that carries it.
//!
//! Pure: the time is an argument, and keys arrive as bytes. What a claim is worth (whether its endpoint still
//! lives, and where the client goes otherwise) is decided by `podpin-endpoints`; counting refusals and setting
//! the header is left to the proxy.

mod bound;
mod choice;
mod cookie;
mod keyring;
mod split;
mod token;

pub use bound::{BOUND_VALUE_BYTES_MAX, Bound};
pub use choice::Source;
pub use cookie::{Claim, SameSite, SetCookie, claim, without_cookie};
pub use keyring::{CLOCK_SKEW_SECONDS_MAX, KEY_MATERIAL_BYTES_MIN, Key, KeyError, Keyring, Lifetime};
pub use split::split;
pub use token::{KEY_ID_BYTES_MAX, SessionId, TOKEN_TEXT_BYTES_MAX, Token, TokenError, Verified};
