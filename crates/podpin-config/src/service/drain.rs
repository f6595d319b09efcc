//! How streams leave an endpoint that goes away: `drain`.

use std::time::Duration;

use crate::{node::Node, section::Section, unit::DurationRange};

/// How streams leave an endpoint that terminates, is drained by hand, or is no longer listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Whether clients pinned to a terminating pod that still serves may begin streams on it. Default: they move.
    pub pinned: Pinned,
    /// Time over which the streams of an endpoint leave, evenly. 0 s to 1 h, default 20 s.
    pub spread: Duration,
    /// All streams have left this long after the drain began, where the pod's own deadline is not known.
    /// 0 s to 24 h, default 30 s.
    pub timeout: Duration,
    /// All streams have left this long before a pod is killed, where that moment is known. 0 s to 10 min, default 2 s.
    pub margin: Duration,
    /// Which streams leave first. Default: the oldest.
    pub order: Order,
    /// How many disconnects the service bears. Default `None` if absent: unlimited.
    pub budget: Option<Budget>,
    /// How streams in flight change pods. Default: they end, and clients come back by themselves.
    pub handover: Handover,
    /// How long a successor may take to answer. 10 ms to 5 min, default 5 s.
    pub handover_timeout: Duration,
    /// How often one stream is handed over, so that two failing pods do not play it against each other.
    pub handovers_per_stream: HandoverLimit,
    /// Event ids of a stream that are remembered, so that what a successor replays is not sent twice. 1 to 4,096,
    /// default 64.
    pub replay_ids: u16,
    /// A client that was disconnected and is back within this time has returned, later it is lost.
    /// 1 s to 1 h, default 30 s.
    pub return_window: Duration,
    /// How long both sides of a WebSocket connection have for their answer to a Close. 0 s to 1 min, default 5 s.
    pub close_timeout: Duration,
}

/// How a stream in flight leaves its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// A graceful close; the client comes back.
    None,
    /// A move inside the response: the successor continues after the last event id. Also when the pod dies.
    LastEventId,
    /// The same; streams whose events cannot be resumed by an id are read at both pods until the same event has come from
    /// both.
    Overlap,
}

impl Handover {
    /// Returns whether streams move inside the response.
    #[must_use]
    pub fn moves_streams(self) -> bool {
        self != Self::None
    }
}

/// A bound on handovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoverLimit {
    /// Handovers of one stream within `window`, 1 to 1,000, default 5.
    pub limit: u32,
    /// 1 s to 24 h, default 1 min.
    pub window: Duration,
}

/// Treatment of pinned clients that come back to a pod which terminates and still serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// A move: no new stream starts on a pod about to die. Streams in flight begin to leave at once.
    Repin,
    /// No move, neither of clients nor of streams in flight, until `spread` before the deadline.
    Keep,
}

/// Which streams leave first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Streams that began first.
    Oldest,
    /// Streams whose last event was longest ago.
    Idle,
    /// Any.
    Random,
}

/// Limits on how many clients of a service are disconnected: by drains, rebalancing and the proxy's own shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Disconnects a second, 1 to 1,000,000; `None` if unlimited.
    pub per_second: Option<u32>,
    /// Share of the service's streams that may be disconnected and not yet back, 1 to 100; `None` if all.
    pub percent: Option<u32>,
}

const SPREAD: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(3_600));
const TIMEOUT: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(86_400));
const MARGIN: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(600));
const HANDOVER_TIMEOUT: DurationRange =
    DurationRange::new(Duration::from_millis(10), Duration::from_secs(300));
const HANDOVER_WINDOW: DurationRange =
    DurationRange::new(Duration::from_secs(1), Duration::from_secs(86_400));
const RETURN_WINDOW: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(3_600));

const CLOSE_TIMEOUT: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(60));

impl Default for Drain {
    fn default() -> Self {
        Self {
            pinned: Pinned::Repin,
            spread: Duration::from_secs(20),
            timeout: Duration::from_secs(30),
            margin: Duration::from_secs(2),
            order: Order::Oldest,
            budget: None,
            handover: Handover::None,
            handover_timeout: Duration::from_secs(5),
            handovers_per_stream: HandoverLimit::default(),
            replay_ids: 64,
            return_window: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
        }
    }
}

impl Drain {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            pinned: section.choice(
                "pinned",
                &[("repin", Pinned::Repin), ("keep", Pinned::Keep)],
                default.pinned,
            ),
            spread: section.duration("spread", SPREAD, default.spread),
            timeout: section.duration("timeout", TIMEOUT, default.timeout),
            margin: section.duration("margin", MARGIN, default.margin),
            order: section.choice(
                "order",
                &[("oldest", Order::Oldest), ("idle", Order::Idle), ("random", Order::Random)],
                default.order,
            ),
            budget: section.get("budget").and_then(Budget::read),
            handover: section.get("handover").and_then(Handover::read).unwrap_or(default.handover),
            handover_timeout: section.duration("handoverTimeout", HANDOVER_TIMEOUT, default.handover_timeout),
            handovers_per_stream: HandoverLimit::read(&section.section("handoversPerStream")),
            replay_ids: section.count("replayIds", 1..=4_096, default.replay_ids),
            return_window: section.duration("returnWindow", RETURN_WINDOW, default.return_window),
            close_timeout: section.duration("closeTimeout", CLOSE_TIMEOUT, default.close_timeout),
        }
    }
}

impl Default for HandoverLimit {
    fn default() -> Self {
        Self { limit: 5, window: Duration::from_secs(60) }
    }
}

impl HandoverLimit {
    fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            limit: section.count("limit", 1..=1_000, default.limit),
            window: section.duration("window", HANDOVER_WINDOW, default.window),
        }
    }
}

impl Handover {
    /// `none`, `off`, `lastEventId` or `overlap`.
    fn read(node: &Node<'_>) -> Option<Self> {
        if node.is_off() {
            return Some(Self::None);
        }
        node.choice(&[("none", Self::None), ("lastEventId", Self::LastEventId), ("overlap", Self::Overlap)])
    }
}

impl Budget {
    fn read(node: &Node<'_>) -> Option<Self> {
        let section = node.section_or_off("a mapping of perSecond and percent")??;
        let budget = Self {
            per_second: section.count_or_off("perSecond", 1..=1_000_000, None),
            percent: section.count_or_off("percent", 1..=100, None),
        };
        if section.is_blank() {
            node.fail("an empty budget limits nothing; write perSecond, percent or both, or `off`");
        }
        Some(budget).filter(|budget| budget.per_second.is_some() || budget.percent.is_some())
    }
}
