//! The times after which clients of a service are told to come back (`sse.retry`), and how many may come a second
//! (`sse.reconnect`).
//!
//! Every `retry:` of the service is drawn here, by one rule: that of `podpin_drain::Herd`.

use std::net::IpAddr;
use std::time::Duration;

use podpin_drain::{ClientName, Comer, RetryBounds};

use crate::balance::service::ServiceState;
use crate::clock;

/// The occasion at which a client is told when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A stream that ends because its endpoint leaves, or at its limit.
    Goodbye,
    /// A stream that ends because the proxy shuts down.
    Shutdown,
    /// A stream that breaks, because its endpoint died.
    Break,
    /// A request of this client that is refused.
    Refusal(ClientName),
    /// A stream that begins.
    Normal,
}

/// Returns the name of a client without a session.
pub(crate) fn name_of_address(address: IpAddr) -> ClientName {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

impl ServiceState {
    /// Draws the time in milliseconds after which a client is to come back; `None` if it is told none.
    pub(crate) fn retry_millis(&self, occasion: Occasion) -> Option<u64> {
        let (sse, now, herd) = (&self.configuration.sse, clock::now(), self.drain.herd());
        let retry = &sse.retry;
        let drain = RetryBounds { min: retry.drain_min, max: retry.drain_max };
        let bounds = match occasion {
            Occasion::Goodbye | Occasion::Break => drain,
            Occasion::Shutdown => RetryBounds { min: retry.shutdown_min, max: retry.shutdown_max },
            Occasion::Refusal(client) => herd.refused(client, drain, now),
            // A fifth to either side: of one replica, all clients come back when it dies.
            Occasion::Normal => {
                let normal = retry.normal?;
                RetryBounds { min: normal * 4 / 5, max: normal * 6 / 5 }
            }
        };
        let mut rng = |bound: u64| fastrand::u64(..bound.max(1));
        let (rate, away) = (sse.reconnects_per_second, self.drain.reconnects().away());
        let drawn = match occasion {
            Occasion::Normal => herd.draw_unbooked(bounds, rate, away, now, &mut rng),
            _ => herd.draw(bounds, rate, away, now, &mut rng),
        };
        Some(clock::duration_millis(drawn.max(Duration::from_millis(1))))
    }

    /// Returns how long a stream whose endpoint died waits before it looks for another one, by `sse.reconnect`.
    pub(crate) fn crash_wait(&self) -> Duration {
        let rate = self.configuration.sse.reconnects_per_second;
        rate.map_or(Duration::ZERO, |rate| self.drain.herd().crash_wait(rate, clock::now()))
    }

    /// Returns whether a client may begin an event stream now, by `sse.reconnect`.
    pub(crate) fn admits(&self, comer: Comer) -> bool {
        let rate = self.configuration.sse.reconnects_per_second;
        rate.is_none_or(|rate| self.drain.herd().admit(comer, rate, clock::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scene, nowhere};

    #[test]
    fn each_occasion_draws_from_its_own_range() {
        let lines = "sse: {retry: {normal: 1s, drain: {min: 10s, max: 20s}, shutdown: {min: 3s, max: 4s}}}";
        let scene = Scene::with(lines, &[("a", nowhere())]);
        let refusal = Occasion::Refusal(name_of_address([127, 0, 0, 1].into()));
        let table = [
            (Occasion::Goodbye, 10_000..=20_000),
            (Occasion::Break, 10_000..=20_000),
            (refusal, 10_000..=20_000),
            (Occasion::Shutdown, 3_000..=4_000),
            (Occasion::Normal, 800..=1_200),
        ];
        for (occasion, range) in table {
            let drawn: Vec<u64> =
                (0..200).map(|_| scene.route.service.retry_millis(occasion).unwrap()).collect();
            assert!(drawn.iter().all(|time| range.contains(time)), "{occasion:?} {drawn:?}");
            assert!(drawn.iter().max() > drawn.iter().min(), "{occasion:?} is drawn");
        }
        let off = Scene::with("sse: {retry: {normal: off}}", &[("a", nowhere())]);
        assert_eq!(off.route.service.retry_millis(Occasion::Normal), None);
    }

    #[test]
    fn a_rate_stretches_every_range() {
        let scene = Scene::with("sse: {reconnect: {perSecond: 10}}", &[("a", nowhere())]);
        let told: Vec<u64> =
            (0..400).filter_map(|_| scene.route.service.retry_millis(Occasion::Shutdown)).collect();
        assert!(told.iter().any(|time| *time > 30_000), "{told:?}");
        assert!(scene.route.service.retry_millis(Occasion::Normal).is_some_and(|time| time <= 60_000));
        assert!((0..10).all(|_| scene.route.service.admits(Comer::Returning)));
        assert!(!scene.route.service.admits(Comer::Returning));
    }
}
