//! Services: groups of endpoints that stand in for one another, and how they are used.

mod discovery;
mod drain;
mod health;
mod protocol;

use std::time::Duration;

pub use discovery::{Discovery, DnsName, EndpointAddress, IpFamily, KubernetesService, Port, StaticEndpoint};
pub use drain::{Budget, Drain, Handover, HandoverLimit, Order, Pinned};
pub use health::{ActiveHealth, Health, PassiveHealth, Probe};
pub use protocol::Protocol;

use crate::{
    affinity::{Affinity, CookieNames, Rivals},
    name,
    node::{Keys, Node},
    section::Section,
    sse::Sse,
    tls::PodTls,
    unit::DurationRange,
    websocket::WebSocket,
};

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// A DNS label, unique; part of the cookie's default name and a metric label.
    pub name: String,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// The protocol of its pods. Default: HTTP/1.1.
    pub protocol: Protocol,
    /// How an endpoint is chosen for a new client.
    pub balance: Balance,
    /// How a returning client is recognised.
    pub affinity: Affinity,
    /// How streams leave an endpoint that goes away.
    pub drain: Drain,
    /// How event streams are carried.
    pub sse: Sse,
    /// How WebSocket connections are closed and kept alive.
    pub websocket: WebSocket,
    /// How long the pods may take.
    pub timeouts: Timeouts,
    /// Further tries at other endpoints.
    pub retries: Retries,
    /// How many streams at once.
    pub limits: ServiceLimits,
    /// When a failing endpoint is left out.
    pub health: Health,
    /// TLS to the pods. Default: none.
    pub tls: Option<PodTls>,
}

/// How an endpoint is chosen for a new client.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// Default: fewest streams.
    pub strategy: Strategy,
    /// Time over which a new endpoint's share grows. 100 ms to 1 h, default 30 s; `None` if it has its full share at once.
    pub slow_start: Option<Duration>,
    /// Whether clients are kept in the proxy's own zone. Default: no.
    pub zone: ZonePreference,
    /// Whether streams in flight move to endpoints that have fewer. Default `None` if absent: they stay.
    pub rebalance: Option<Rebalance>,
}

/// Moving streams in flight from the fullest to the emptiest endpoint, by handover.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rebalance {
    /// Ratio of the fullest endpoint's streams to the emptiest one's, for their weights, at which it begins. 1.1 to 100,
    /// default 1.5.
    pub threshold: f64,
    /// Streams moved in a second, 1 to 1,000,000, default 20.
    pub budget_per_second: u32,
}

/// The choice among eligible endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The one with fewer streams of two drawn at random.
    LeastStreams,
    /// Endpoints in turn.
    RoundRobin,
    /// Any.
    Random,
}

/// Whether a new client is placed in the proxy's own zone, if it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZonePreference {
    /// Zones do not count.
    None,
    /// An endpoint that the cluster hints at for our zone, or without hints one of our zone, comes first; another is
    /// taken when none of those is eligible.
    Prefer,
}

/// How long the pods may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect, 1 ms to 5 min, default 2 s.
    pub connect: Duration,
    /// From the request sent to the response's head. 10 ms to 1 h, default 60 s; `None` if unlimited.
    pub response_header: Option<Duration>,
    /// The pod's silence within a response, our keep-alives apart. 100 ms to 24 h; default `None` if absent: unlimited.
    pub upstream_idle: Option<Duration>,
    /// How long a client may take nothing before it is cut. 10 ms to 1 h, default 30 s; `None` if unlimited.
    pub client_write: Option<Duration>,
    /// How long a connection to a pod is kept for the next request. 100 ms to 1 h, default 4 s; `None` if it is not kept.
    pub keep_alive: Option<Duration>,
    /// How long an upgraded connection may be silent in both directions. 1 s to 24 h; default `None` if absent: unlimited.
    pub upgrade_idle: Option<Duration>,
}

/// Further tries at other endpoints, while nothing was sent or the answer is one of `statuses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Tries after the first, 0 to 10, default 2.
    pub attempts: u32,
    /// Answers to the event stream of a client that is not pinned after which another endpoint is tried. 500 to 599,
    /// default 502, 503, 504.
    pub statuses: Vec<u16>,
}

/// How many event streams and upgraded connections at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// 1 to 10,000,000, default 10,000; `None` if unlimited.
    pub streams_per_endpoint: Option<u32>,
    /// Streams of one session, else of one client address. 1 to 1,000,000; default `None` if absent: unlimited.
    pub streams_per_client: Option<u32>,
    /// Streams of one client address (IPv6: of one /64), whatever sessions. 1 to 1,000,000; default `None` if absent: unlimited.
    pub streams_per_client_ip: Option<u32>,
}

const SLOW_START: DurationRange = DurationRange::new(Duration::from_millis(100), Duration::from_secs(3_600));
const CONNECT: DurationRange = DurationRange::new(Duration::from_millis(1), Duration::from_secs(300));
const RESPONSE_HEADER: DurationRange =
    DurationRange::new(Duration::from_millis(10), Duration::from_secs(3_600));
const UPSTREAM_IDLE: DurationRange =
    DurationRange::new(Duration::from_millis(100), Duration::from_secs(86_400));
const KEEP_ALIVE: DurationRange = DurationRange::new(Duration::from_millis(100), Duration::from_secs(3_600));
const CLIENT_WRITE: DurationRange = DurationRange::new(Duration::from_millis(10), Duration::from_secs(3_600));
const UPGRADE_IDLE: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(86_400));

impl Default for Balance {
    fn default() -> Self {
        Self {
            strategy: Strategy::LeastStreams,
            slow_start: Some(Duration::from_secs(30)),
            zone: ZonePreference::None,
            rebalance: None,
        }
    }
}

impl Default for Rebalance {
    fn default() -> Self {
        Self { threshold: 1.5, budget_per_second: 20 }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            response_header: Some(Duration::from_secs(60)),
            upstream_idle: None,
            client_write: Some(Duration::from_secs(30)),
            keep_alive: Some(Duration::from_secs(4)),
            upgrade_idle: None,
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 2, statuses: vec![502, 503, 504] }
    }
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self { streams_per_endpoint: Some(10_000), streams_per_client: None, streams_per_client_ip: None }
    }
}

/// Reads `services`. A service without a usable discovery is left out; that has been reported then.
pub(crate) fn read_services<'a>(node: &Node<'a>) -> ReadServices<'a> {
    let entries = node.entries("a mapping of services by name", Keys::Names).unwrap_or_default();
    if entries.is_empty() && node.is_mapping() {
        node.fail("at least one service is needed");
    }
    let names = entries.iter().map(|(name, _)| *name).collect();
    let mut cookies = CookieNames::default();
    let read = |(name, child): &(&'a str, Node<'a>)| {
        if let Some(refusal) = name::SERVICE.refuse(name) {
            child.fail_at_key(refusal);
        }
        Service::read(child, name, &mut cookies)
    };
    let services = entries.iter().filter_map(read).collect();
    ReadServices { services, names, rivals: cookies.into_rivals() }
}

/// Services as they are written.
#[derive(Default)]
pub(crate) struct ReadServices<'a> {
    /// The services that could be read.
    pub(crate) services: Vec<Service>,
    /// Every name that was written, so that a route to a faulty service is not a second problem.
    pub(crate) names: Vec<&'a str>,
    /// Services whose cookies have one name and path.
    pub(crate) rivals: Vec<Rivals<'a>>,
}

impl Service {
    fn read<'a>(node: &Node<'a>, name: &str, cookies: &mut CookieNames<'a>) -> Option<Self> {
        let section = Section::of(node)?;
        let discovery = section.require("discovery", discovery::ONE_OF).and_then(Discovery::read);
        let service = Self {
            name: name.to_owned(),
            discovery: Discovery::Static(Vec::new()),
            protocol: Protocol::read(&section),
            balance: Balance::read(&section.section("balance")),
            affinity: Affinity::read(&section.section("affinity"), name, cookies),
            drain: Drain::read(&section.section("drain")),
            sse: Sse::read(&section.section("sse")),
            websocket: WebSocket::read(&section.section("websocket")),
            timeouts: Timeouts::read(&section.section("timeouts")),
            retries: Retries::read(&section.section("retries")),
            limits: ServiceLimits::read(&section.section("limits")),
            health: Health::read(section.get("health")),
            tls: section.get("tls").and_then(PodTls::read),
        };
        service.check_rebalance(&section);
        service.check_http2(&section);
        Some(Self { discovery: discovery?, ..service })
    }
}

impl Service {
    /// Rebalancing disconnects no client: it needs handover.
    fn check_rebalance(&self, section: &Section<'_>) {
        if self.balance.rebalance.is_some() && !self.drain.handover.moves_streams() {
            let balance = section.section("balance");
            let at = balance.get("rebalance").unwrap_or(balance.node());
            at.fail("needs `drain: {handover: lastEventId}`: streams are moved by handover only".to_owned());
        }
    }
}

impl Service {
    /// Handover needs pods that speak HTTP/1.1, and a probe of gRPC those that speak HTTP/2.
    fn check_http2(&self, section: &Section<'_>) {
        if self.protocol.is_http2() {
            let drain = section.section("drain");
            if let Some(handover) = drain.get("handover").filter(|_| self.drain.handover.moves_streams()) {
                handover.fail("streams are handed over among pods that speak HTTP/1.1: `protocol: http1`");
            }
        } else if let Some(Probe::Grpc { .. }) = self.health.active.as_ref().map(|active| &active.probe) {
            let active = section.section("health").section("active");
            active
                .get("type")
                .unwrap_or_else(|| active.node())
                .fail("needs a `protocol` with HTTP/2, such as grpc");
        }
    }
}

impl Balance {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let strategies = [
            ("leastStreams", Strategy::LeastStreams),
            ("roundRobin", Strategy::RoundRobin),
            ("random", Strategy::Random),
        ];
        Self {
            strategy: section.choice("strategy", &strategies, default.strategy),
            slow_start: section.duration_or_off("slowStart", SLOW_START, default.slow_start),
            zone: read_zone(section).unwrap_or(default.zone),
            rebalance: section.get("rebalance").and_then(Rebalance::read),
        }
    }
}

impl Rebalance {
    fn read(node: &Node<'_>) -> Option<Self> {
        let section = node.section_or_off("a mapping of threshold and budgetPerSecond")??;
        let default = Self::default();
        Some(Self {
            threshold: section.ratio("threshold", 1.1..=100.0, default.threshold),
            budget_per_second: section.count("budgetPerSecond", 1..=1_000_000, default.budget_per_second),
        })
    }
}

/// `none`, `off` or `prefer`.
fn read_zone(section: &Section<'_>) -> Option<ZonePreference> {
    let node = section.get("zone")?;
    if node.is_off() {
        return Some(ZonePreference::None);
    }
    node.choice(&[("none", ZonePreference::None), ("prefer", ZonePreference::Prefer)])
}

impl Timeouts {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            connect: section.duration("connect", CONNECT, default.connect),
            response_header: section.duration_or_off(
                "responseHeader",
                RESPONSE_HEADER,
                default.response_header,
            ),
            upstream_idle: section.duration_or_off("upstreamIdle", UPSTREAM_IDLE, default.upstream_idle),
            client_write: section.duration_or_off("clientWrite", CLIENT_WRITE, default.client_write),
            keep_alive: section.duration_or_off("keepAlive", KEEP_ALIVE, default.keep_alive),
            upgrade_idle: section.duration_or_off("upgradeIdle", UPGRADE_IDLE, default.upgrade_idle),
        }
    }
}

impl Retries {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            attempts: section.count("attempts", 0..=10, default.attempts),
            statuses: section.statuses("statuses", default.statuses),
        }
    }
}

impl ServiceLimits {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            streams_per_endpoint: section.count_or_off(
                "streamsPerEndpoint",
                1..=10_000_000,
                default.streams_per_endpoint,
            ),
            streams_per_client: section.count_or_off(
                "streamsPerClient",
                1..=1_000_000,
                default.streams_per_client,
            ),
            streams_per_client_ip: section.count_or_off(
                "streamsPerClientIP",
                1..=1_000_000,
                default.streams_per_client_ip,
            ),
        }
    }
}
