//! The laws of every parser for any input that a client, a pod or an operator may send: one function for each parser.
//!
//! A function takes bytes and panics when a law is broken. The same functions are run by libFuzzer (`fuzz/`, `make
//! fuzz`) and, over every file of `fuzz/corpus`, by an ordinary test, so that what was found once stays found without a
//! fuzzer.

mod affinity;
mod configuration;
mod distinguished_name;
mod endpoints_file;
mod event_stream;
mod h2_connection;
mod h2_heads;
mod websocket;
mod wire;

pub use affinity::affinity;
pub use configuration::configuration;
pub use distinguished_name::distinguished_name;
pub use endpoints_file::endpoints_file;
pub use event_stream::event_stream;
pub use h2_connection::h2_connection;
pub use h2_heads::h2_heads;

pub use websocket::websocket;
pub use wire::{forwarding, proxy_protocol, request_head, upstream_response};

/// A target: panics if the input breaks a law.
pub type Target = fn(&[u8]);

/// All of them: each has a directory of its name in `fuzz/corpus`, and a file in `fuzz/fuzz_targets`.
pub const TARGETS: &[(&str, Target)] = &[
    ("affinity", affinity),
    ("configuration", configuration),
    ("distinguished_name", distinguished_name),
    ("endpoints_file", endpoints_file),
    ("event_stream", event_stream),
    ("forwarding", forwarding),
    ("h2_connection", h2_connection),
    ("h2_heads", h2_heads),
    ("proxy_protocol", proxy_protocol),
    ("request_head", request_head),
    ("upstream_response", upstream_response),
    ("websocket", websocket),
];
