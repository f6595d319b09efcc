//! `limits`: what clients of all listeners together may take, and how long a client that is gone may look alive.

use std::time::Duration;

use crate::{node::Node, section::Section, unit::DurationRange};

/// Limits that apply to every listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Open client connections of all listeners together, 1 to 10,000,000. Default 50,000.
    pub connections: usize,
    /// Connections of one client address (IPv6: of one /64), 1 to 10,000,000. Default `None` if absent: unlimited.
    pub connections_per_client_ip: Option<u32>,
    /// Requests in flight of all listeners together, event streams apart, 1 to 10,000,000. Default as many as `connections`.
    pub requests: usize,
    /// Requests of one client connection, 1 to 1,000,000,000; `None` if unlimited. Default 1,000, as nginx has it.
    pub requests_per_connection: Option<u32>,
    /// Request line and headers together, in bytes, 1 KiB to 1 MiB. Default 32 KiB.
    pub request_header_bytes: usize,
    /// Requests whose path leads to another route if encoded slashes and the like are read as slashes. Default: refused.
    pub ambiguous_paths: AmbiguousPaths,
    /// Header fields whose names have underscores, but for those that stand for another field of the request. Default: passed.
    pub headers_with_underscores: HeadersWithUnderscores,
    /// For the whole head, from its first byte, not for each read. 100 ms to 5 min, default 10 s.
    pub request_header_timeout: Duration,
    /// How long a request body may stall. 100 ms to 1 h, default 60 s.
    pub request_body_timeout: Duration,
    /// How long an idle client connection is kept for its next request. 1 s to 1 h, default 75 s: cloud load balancers
    /// keep theirs for 60 s, and one that is closed as a request comes is a 502 there.
    pub keep_alive_timeout: Duration,
    /// Silence of an HTTP/2 connection with open streams before a PING, 1 s to 1 h. Default `None` if absent: none is sent.
    pub http2_ping: Option<Duration>,
    /// How long sent bytes may stay without acknowledgement (RFC 5482), 1 s to 1 h; `None` if as long as the kernel
    /// retransmits. Default 60 s.
    pub tcp_user_timeout: Option<Duration>,
    /// Probes into silence (RFC 9293 section 3.8.4); `None` if there are none.
    pub tcp_keep_alive: Option<TcpKeepAlive>,
}

/// The treatment of paths that applications read in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmbiguousPaths {
    /// Refused with 400 if the other reading leads to another route.
    Refuse,
    /// Routed as they were sent.
    Pass,
}

/// The treatment of header fields with underscores in their names, which CGI, WSGI, Rack and their like read as hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersWithUnderscores {
    /// Passed to pods.
    Pass,
    /// Left out.
    Drop,
}

/// When a silent connection is probed, and given up. By default within the same minute as `tcp_user_timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepAlive {
    /// Silence before the first probe, in whole seconds, 1 s to 1 h. Default 30 s.
    pub idle: Duration,
    /// Between two probes, in whole seconds, 1 s to 1 h. Default 10 s.
    pub interval: Duration,
    /// Probes without an answer, 1 to 127. Default 3.
    pub count: u32,
}

const HEADER_TIMEOUT: DurationRange =
    DurationRange::new(Duration::from_millis(100), Duration::from_secs(300));
const BODY_TIMEOUT: DurationRange =
    DurationRange::new(Duration::from_millis(100), Duration::from_secs(3_600));
const KEEP_ALIVE: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(3_600));
const HTTP2_PING: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(3_600));
const USER_TIMEOUT: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(3_600));
/// The kernel counts both in seconds.
const PROBES: DurationRange =
    DurationRange::whole_seconds(Duration::from_secs(1), Duration::from_secs(3_600));

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            connections_per_client_ip: None,
            requests: 50_000,
            requests_per_connection: Some(1_000),
            request_header_bytes: 32 << 10,
            ambiguous_paths: AmbiguousPaths::Refuse,
            headers_with_underscores: HeadersWithUnderscores::Pass,
            request_header_timeout: Duration::from_secs(10),
            request_body_timeout: Duration::from_secs(60),
            keep_alive_timeout: Duration::from_secs(75),
            http2_ping: None,
            tcp_user_timeout: Some(Duration::from_secs(60)),
            tcp_keep_alive: Some(TcpKeepAlive::default()),
        }
    }
}

impl Default for TcpKeepAlive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30), interval: Duration::from_secs(10), count: 3 }
    }
}

impl ListenerLimits {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let duration = |key, range, default| section.duration(key, range, default);
        let connections = section.count("connections", 1..=10_000_000, default.connections);
        Self {
            connections,
            connections_per_client_ip: section.count_or_off(
                "connectionsPerClientIP",
                1..=10_000_000,
                default.connections_per_client_ip,
            ),
            requests: section.count("requests", 1..=10_000_000, connections),
            requests_per_connection: section.count_or_off(
                "requestsPerConnection",
                1..=1_000_000_000,
                default.requests_per_connection,
            ),
            request_header_bytes: section.bytes(
                "requestHeaderBytes",
                (1 << 10)..=(1 << 20),
                default.request_header_bytes,
            ),
            ambiguous_paths: section.choice(
                "ambiguousPaths",
                &[("refuse", AmbiguousPaths::Refuse), ("pass", AmbiguousPaths::Pass)],
                default.ambiguous_paths,
            ),
            headers_with_underscores: section.choice(
                "headersWithUnderscores",
                &[("pass", HeadersWithUnderscores::Pass), ("drop", HeadersWithUnderscores::Drop)],
                default.headers_with_underscores,
            ),
            request_header_timeout: duration(
                "requestHeaderTimeout",
                HEADER_TIMEOUT,
                default.request_header_timeout,
            ),
            request_body_timeout: duration("requestBodyTimeout", BODY_TIMEOUT, default.request_body_timeout),
            keep_alive_timeout: duration("keepAliveTimeout", KEEP_ALIVE, default.keep_alive_timeout),
            http2_ping: section.duration_or_off("http2Ping", HTTP2_PING, default.http2_ping),
            tcp_user_timeout: section.duration_or_off(
                "tcpUserTimeout",
                USER_TIMEOUT,
                default.tcp_user_timeout,
            ),
            tcp_keep_alive: section
                .get("tcpKeepAlive")
                .and_then(TcpKeepAlive::read)
                .unwrap_or(default.tcp_keep_alive),
        }
    }
}

impl TcpKeepAlive {
    /// `Some(None)`: off.
    fn read(node: &Node<'_>) -> Option<Option<Self>> {
        let default = Self::default();
        let section = node.section_or_off("{idle, interval, count}")?;
        Some(section.map(|section| Self {
            idle: section.duration("idle", PROBES, default.idle),
            interval: section.duration("interval", PROBES, default.interval),
            count: section.count("count", 1..=127, default.count),
        }))
    }
}
