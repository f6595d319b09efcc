//! Keys of drains and rebalancing: their values as they are read.

use std::time::Duration;

use podpin_config::*;

use crate::values::{MINUTE, seconds, service};

#[test]
fn a_drain_is_read() {
    let keys = "drain: {pinned: keep, spread: 0s, timeout: 1h, margin: 500ms, order: idle, budget: {perSecond: 100, percent: 10}, handover: lastEventId, handoverTimeout: 1s, handoversPerStream: {limit: 2, window: 10s}, replayIds: 300, returnWindow: 1m, closeTimeout: 0s}";
    let expected = Drain {
        pinned: Pinned::Keep,
        spread: Duration::ZERO,
        timeout: 60 * MINUTE,
        margin: Duration::from_millis(500),
        order: Order::Idle,
        budget: Some(Budget { per_second: Some(100), percent: Some(10) }),
        handover: Handover::LastEventId,
        handover_timeout: seconds(1),
        handovers_per_stream: HandoverLimit { limit: 2, window: seconds(10) },
        replay_ids: 300,
        return_window: MINUTE,
        close_timeout: Duration::ZERO,
    };
    assert_eq!(service(keys).drain, expected);
    assert_eq!(service("drain: {order: random}").drain.order, Order::Random);
    let overlap = service("drain: {handover: overlap}\nbalance: {rebalance: {}}");
    assert_eq!(overlap.drain.handover, Handover::Overlap);
    assert!(overlap.balance.rebalance.is_some());
    let budgets = [
        ("{perSecond: 7}", Some(Budget { per_second: Some(7), percent: None })),
        ("{percent: 100, perSecond: off}", Some(Budget { per_second: None, percent: Some(100) })),
        ("{percent: off, perSecond: off}", None),
        ("null", None),
    ];
    for (text, expected) in budgets {
        assert_eq!(service(&format!("drain: {{budget: {text}}}")).drain.budget, expected, "{text}");
    }
}

#[test]
fn rebalancing_is_read() {
    let of = |text: &str| {
        let keys = format!("balance: {{rebalance: {text}}}\ndrain: {{handover: lastEventId}}");
        service(&keys).balance.rebalance
    };
    assert_eq!(of("{}"), Some(Rebalance { threshold: 1.5, budget_per_second: 20 }));
    assert_eq!(
        of("{threshold: 2, budgetPerSecond: 5}"),
        Some(Rebalance { threshold: 2.0, budget_per_second: 5 })
    );
    assert_eq!(of("off"), None);
}
