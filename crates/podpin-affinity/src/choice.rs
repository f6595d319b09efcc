//! The session of a client that names itself: by a header or a query parameter of its own choice, or by its address.
//!
//! ```text
//! session id = HMAC-SHA256(choose, length of the service's name, 8 bytes | service's name | source, 1 byte | value)[..16]
//! ```
//!
//! `choose` is made of the first key's file as the keys of `token.rs` are, with `choose` for `info`. Without it anyone could compute the
//! session of an address or a name offline, and could search for values that all lead to one pod. Replicas with the same
//! first key give the same session to the same value; a new first key moves all these clients once. A client that chooses another's value
//! shares the other's pod, as it could with any session id that it knows; whether it may see the other's session is for the pod
//! to say.

/// Where a value that makes a session comes from. Its number is part of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The value of a request header.
    Header = 1,
    /// The value of a query parameter.
    Query = 2,
    /// The client's address, as far as it counts.
    Address = 3,
    /// Cookies that are no tokens, with the address that they came from.
    Refused = 4,
}
