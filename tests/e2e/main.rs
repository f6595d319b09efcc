//! End to end: the real binary between raw clients and scripted pods.
//!
//! Every test starts its own proxy on its own ports, so all of them run in parallel. The binary is `PODPIN_BIN`, or
//! `podpin` beside this executable (`make test` builds it first). What a test claims is its name.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod accounting;
mod admin;
mod affinity;
mod backends;
mod bad_input;
mod bad_tokens;
mod browser;
mod command_line;
mod connection_limits;
mod cors;
mod crowd;
mod demo;
mod drain;
mod drain_wait;
mod ejection;
mod endpoint_states;
mod event_stream;
mod faults;
mod file_limit;
mod forwarding;
mod h2_front;
mod handover;
mod header_fields;
mod header_matches;
mod health_checks;
mod heirs;
mod herd;
mod http2;
mod http2_bombs;
mod http2_clients;
mod http2_floods;
mod http2_peers;
mod http2_ping;
mod http2_requests;
mod http2_stalls;
mod http2_streams;
mod kept_connections;
mod kubernetes;
mod memory;
mod messages;
mod misdirected;
mod names;
mod ordinary;
mod passing_on;
mod paths;
mod picking;
mod pipelining;
mod post_streams;
mod proxy_protocol;
mod published_client;
mod python_sdks;
mod real_clients;
mod refusals;
mod reload;
mod request_limit;
mod request_path;
mod routing;
mod routing_features;
mod server_sessions;
mod shutdown;
mod sticky;
mod stream_by_answer;
mod time_limits;
mod tls;
mod tls_to_pods;
mod trailers;
mod upstream_garbage;
mod vanished;
mod wait_queue;
mod whole_rollout;
