//! The testkit: scripted pods, raw clients and a harness for the real binary.
//!
//! Everything here speaks over real sockets and writes its own bytes, because a test of a proxy must be able to
//! send what no library would: half heads, wrong chunk sizes, resets. Nothing here is used in production, so it
//! prefers a panic that says what was expected over an error that a test has to handle.
//!
//! Waiting: a test waits for an event (`next_request`, `next_event`, `client_gone`), bounded by [`PATIENCE`]. State
//! that has no event of its own (a metric, a file that was re-read) is waited for with [`wait_for`].

mod api_server;
mod client;
mod endpoints_file;
mod h2_client;
mod h2_frames;
mod line;
mod metrics;
mod name_server;
mod network;
mod patience;
mod pod;
mod process;
mod proxy;
mod redis;
mod sse;
mod tls;
mod wire;

pub use api_server::{
    ApiRequest, ApiServer, Backup, Cut, Fault, Kubeconfig, On, PodObject, Recording, Slice, SlicePod, Step,
    start_pods,
};
pub use client::{Connection, EventStream, Request, Response, Visitor};
pub use endpoints_file::EndpointsFile;
pub use h2_client::{H2Body, H2Connection, H2Upload};
pub use h2_frames::{Flooded, H2_PREFACE, H2_SETTINGS, H2Answer, H2Frame, Uploaded, h2_block, h2_request};
pub use line::Line;
pub use metrics::Metrics;
pub use name_server::{BadNameServer, NameServer};
pub use network::Network;
pub use patience::{PATIENCE, in_time, wait_for, wait_for_some, wait_long};
pub use pod::{Answer, Framing, Pod, PodRequest, PodStream, Reply, StreamAnswer};
pub use process::{Process, podpin_binary};
pub use proxy::{Proxy, Setup, Signal, free_port, free_port_run};
pub use redis::{RedisData, RedisServer};
pub use sse::{Event, EventParser, Item};
pub use tls::{Authority, TlsClient, acceptor_of};
pub use wire::{Ending, Head};
