//! How streams leave an endpoint that goes away: `drain`.

use std::time::Duration;

use crate::{node::Node, section::Section, unit::DurationRange};

/// How streams leave an endpoint that terminates, is drained by hand, or is no longer listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Whether clients pinned to a terminating pod that still serves may begin streams on it. Default: they move.
    pub pinned: Pinned,
    /// Its streams leave evenly over this time. 0 s to 1 h, default 20 s.
    pub spread: Duration,
    /// All streams have left this long after the drain began, where the pod's own deadline is not known.
    /// 0 s to 24 h, default 30 s.
    pub timeout: Duration,
    /// All streams have left this long before a pod is killed, where that moment is known. 0 s to 10 min, default 2 s.
    pub margin: Duration,
    /// Which streams leave first. Default: the oldest.
    pub order: Order,
    /// How many disconnects the service bears. Default `None`: any number.
    pub budget: Option<Budget>,
    /// A client that was disconnected and is back within this time has returned, later it is lost.
    /// 1 s to 1 h, default 30 s.
    pub return_window: Duration,
}

/// What becomes of pinned clients that come back to a pod which terminates and still serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// They move: a new stream is not started on a pod about to die. Streams in flight begin to leave at once.
    Repin,
    /// They stay, and so do streams in flight, until `spread` before the deadline.
    Keep,
}

/// Which streams leave first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those that began first.
    Oldest,
    /// Those whose last event was longest ago.
    Idle,
    /// Any.
    Random,
}

/// Limits on how many clients of a service are disconnected: by drains, rebalancing and the proxy's own shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Disconnects a second, 1 to 1,000,000; `None`: any number.
    pub per_second: Option<u32>,
    /// Share of the service's streams that may be disconnected and not yet back, 1 to 100; `None`: all.
    pub percent: Option<u32>,
}

const SPREAD: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(3_600));
const TIMEOUT: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(86_400));
const MARGIN: DurationRange = DurationRange::new(Duration::ZERO, Duration::from_secs(600));
const RETURN_WINDOW: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(3_600));

impl Default for Drain {
    fn default() -> Self {
        Self {
            pinned: Pinned::Repin,
            spread: Duration::from_secs(20),
            timeout: Duration::from_secs(30),
            margin: Duration::from_secs(2),
            order: Order::Oldest,
            budget: None,
            return_window: Duration::from_secs(30),
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
            return_window: section.duration("returnWindow", RETURN_WINDOW, default.return_window),
        }
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
