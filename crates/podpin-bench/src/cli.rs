//! The command line: one subcommand for each measurement, `all` by default, and the hidden roles that this binary plays
//! as a subprocess of itself.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::peer_kind::PeerKind;
use crate::protocol::Protocol;

/// Measures podpin side by side with nginx, HAProxy, Envoy (when they are installed) and a plain TCP relay.
#[derive(Debug, Parser)]
#[command(name = "podpin-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Settings that hold for every measurement.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The podpin binary [default: `podpin` beside this binary, else target/release/podpin]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) podpin: Option<PathBuf>,
    /// Measure only these, in this order
    #[arg(long, global = true, value_delimiter = ',', value_enum)]
    pub(crate) peers: Vec<PeerKind>,
    /// Interleaved rounds of everything but memory and reloads; the median is reported [default: 3, 1 with --quick]
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=101))]
    pub(crate) rounds: Option<u32>,
    /// Short windows, one round, 2,000 streams: about a minute, for a first look
    #[arg(long, global = true)]
    pub(crate) quick: bool,
    /// Also write every round's figures to this file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// A measurement, or a role as subprocess.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Every measurement with its default settings (also without a subcommand)
    All,
    /// KB of PSS per idle stream; before, with, after all left, with all again
    Memory(MemoryArgs),
    /// CPU µs per event
    Events(EventsArgs),
    /// Added latency of an event against a direct connection to the pod
    Latency(LatencyArgs),
    /// CPU µs per keep-alive request with a cookie
    Requests(RequestsArgs),
    /// CPU µs per new connection that becomes a new session
    Sessions(SessionsArgs),
    /// KiB of an idle WebSocket, and CPU µs per message beside an event
    Websockets(WebsocketsArgs),
    /// CPU ms per MB of events on one stream that is never idle
    Burst(BurstArgs),
    /// Cost of TLS: memory over HTTP/1.1 and HTTP/2, events, requests, handshakes (the relay is left out)
    Tls(TlsArgs),
    /// HTTP/2 over TLS beside HTTP/1.1: what is idle, streams, requests, bodies, events, what waits (no relay)
    Http2(Http2Args),
    /// Time and errors until the streams of a pod that was killed flow again (the relay is left out)
    Kill(KillArgs),
    /// Memory, cut streams, lost events and strays over six reloads that remove a pod or bring it back (no relay)
    Reload(ReloadArgs),
    /// CPU of podpin's requests and sessions beside 1,000 routes, 1,000 services, 10,000 endpoints, also while these change
    Scale,
    #[command(hide = true)]
    Pod(PodArgs),
    #[command(hide = true)]
    Relay(RelayArgs),
    #[command(hide = true)]
    Leash(LeashArgs),
}

/// Whether the clients encrypt.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Security {
    /// The clients speak TLS 1.3 (the relay is left out)
    #[arg(long)]
    pub(crate) tls: bool,
}

impl Security {
    /// HTTP/1.1 with or without it.
    pub(crate) fn http1(self) -> Protocol {
        if self.tls { Protocol::Http1Tls } else { Protocol::Http1 }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MemoryArgs {
    /// How many idle streams; several numbers are measured one after the other, each on fresh processes
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) streams: Vec<u32>,
    /// The clients speak HTTP/2 in plaintext, 100 streams to a connection (the relay is left out)
    #[arg(long, conflicts_with = "tls")]
    pub(crate) h2c: bool,
    #[command(flatten)]
    pub(crate) security: Security,
    /// With --tls: HTTP/2, 100 streams to a connection
    #[arg(long, requires = "tls")]
    pub(crate) h2: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TlsArgs {
    /// How many idle streams; several numbers are measured one after the other, each on fresh processes
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) streams: Vec<u32>,
    /// Also everything that `http2` measures
    #[arg(long)]
    pub(crate) h2: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Http2Args {
    /// These parts alone, in their own order [default: all]
    #[arg(value_enum)]
    pub(crate) parts: Vec<Http2Part>,
    /// How many connections, streams or waiting requests of a kind [default: 2000, 500 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(20..=9_000))]
    pub(crate) count: Option<u32>,
}

impl Http2Args {
    /// Whether `part` is wanted.
    pub(crate) fn includes(&self, part: Http2Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// A part of what `http2` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Http2Part {
    /// KiB of a connection after its one request.
    Idle,
    /// KiB of an event stream: alone, one of two, one of twenty on its connection.
    Streams,
    /// KiB of an event stream whose request did not ask for one, beside those that did.
    Unannounced,
    /// KiB of a request whose pod does not answer, with a small and a large head.
    Waiting,
    /// KiB that requests with 900 fields pin, if they are not refused.
    Fields,
    /// CPU µs of a small request.
    Requests,
    /// CPU µs of 16 KiB and 1 MiB responses and of a 1 MiB upload.
    Bodies,
    /// CPU µs of an event, one a second on each stream.
    Events,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct EventsArgs {
    /// How many streams are open
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=9_500))]
    pub(crate) streams: u32,
    /// Events a second on each stream
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) rate: u32,
    #[command(flatten)]
    pub(crate) security: Security,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WebsocketsArgs {
    /// How many are open and idle
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=9_500))]
    pub(crate) idle: u32,
    /// How many are open and carry messages
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=9_500))]
    pub(crate) sockets: u32,
    /// Messages a second on each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) rate: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LatencyArgs {
    /// How many streams are open
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=9_500))]
    pub(crate) streams: u32,
    /// Events a second on each stream
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) rate: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RequestsArgs {
    /// Keep-alive connections, each with one request in flight
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) connections: u32,
    #[command(flatten)]
    pub(crate) security: Security,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SessionsArgs {
    /// New sessions for each peer and round, 16 at a time
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: Option<u32>,
    #[command(flatten)]
    pub(crate) security: Security,
    /// With --tls: clients come back with a ticket; else each handshake is a full one
    #[arg(long, requires = "tls")]
    pub(crate) resume: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct BurstArgs {
    /// MB (10^6 bytes) of events for each peer and round
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub(crate) mb: Option<u32>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct KillArgs {
    /// How many streams are open
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(3..=9_000))]
    pub(crate) streams: u32,
    /// Events a second on each stream
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) rate: u32,
    /// The clients' reconnection time in ms; 0: what is left is the proxy's own (a browser's is seconds)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) delay_ms: u32,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ReloadArgs {
    /// How many streams are open
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(3..=9_000))]
    pub(crate) streams: u32,
    /// Events a second on each stream
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) rate: u32,
}

#[derive(Debug, Args)]
pub(crate) struct PodArgs {
    #[arg(long)]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    #[arg(long, required = true, value_delimiter = ',')]
    pub(crate) pods: Vec<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct LeashArgs {
    /// The process whose end ends the command
    #[arg(long)]
    pub(crate) parent: i32,
    /// The signal that the command gets then
    #[arg(long, value_enum)]
    pub(crate) signal: LeashSignal,
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeashSignal {
    /// SIGTERM, for a master process that must end its workers.
    Term,
    /// SIGKILL, for a process that stands alone.
    Kill,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn without_parts_all_of_http2_is_measured() {
        let includes = |parts: Vec<Http2Part>| {
            let arguments = Http2Args { parts, count: None };
            Http2Part::value_variants().iter().filter(|part| arguments.includes(**part)).count()
        };
        assert_eq!(includes(Vec::new()), Http2Part::value_variants().len());
        assert_eq!(includes(vec![Http2Part::Idle, Http2Part::Events]), 2);
    }

    #[test]
    fn http2_over_tls_needs_tls_and_is_not_h2c() {
        Cli::command().debug_assert();
        let parsed = |line: &str| Cli::try_parse_from(line.split_whitespace()).is_ok();
        assert!(parsed("podpin-bench memory --tls --h2 --streams 100"));
        assert!(parsed("podpin-bench sessions --tls --resume"));
        assert!(parsed("podpin-bench tls --h2"));
        assert!(parsed("podpin-bench http2 idle bodies --count 100 --peers podpin,nginx"));
        assert!(!parsed("podpin-bench memory --h2"));
        assert!(!parsed("podpin-bench memory --tls --h2c"));
        assert!(!parsed("podpin-bench sessions --resume"));
    }
}
