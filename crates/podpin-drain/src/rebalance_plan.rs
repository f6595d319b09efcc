//! Live rebalancing: from where to where streams should move, and how many until the two are even.
//!
//! Moving has hysteresis: it begins when the fullest endpoint has `threshold` times the streams of the emptiest, and then
//! goes on until no move makes the two more even. A move never makes the target fuller than the source, so the next plan
//! cannot undo it. The choice of streams and their rate are left to `rebalance.rs`.

/// Load of one endpoint, as the plan compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointShare {
    /// Streams, those on their way to the endpoint included and those on their way from it excluded.
    pub streams: u32,
    /// Weight as in `Endpoint::weight`, at least 1.
    pub weight: u32,
    /// Whether any of its streams may move.
    pub is_source: bool,
}

/// Number of streams that should move, and between which endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    /// Index of the fullest endpoint for its weight, of those with streams that may move.
    pub from: usize,
    /// Index of the emptiest.
    pub to: usize,
    /// Number of streams that makes the two even, at least 1.
    pub streams: u32,
}

/// State of rebalancing between two plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// No stream moves until the threshold is passed.
    #[default]
    AtRest,
    /// Streams move until the endpoints are even.
    Moving,
}

/// Returns the next move; `None` if the endpoints are even enough. `threshold` is at least 1.
#[must_use]
pub fn plan_rebalance(shares: &[EndpointShare], balance: Balance, threshold: f64) -> Option<PlannedMove> {
    // a/wa < b/wb, without division.
    let by_load =
        |a: &(usize, &EndpointShare), b: &(usize, &EndpointShare)| crossed(a.1, b.1).cmp(&crossed(b.1, a.1));
    let sources = shares.iter().enumerate().filter(|(_, share)| share.is_source);
    let (from, fullest) = sources.max_by(by_load)?;
    let (to, emptiest) = shares.iter().enumerate().min_by(by_load)?;
    let (full, empty) = (crossed(fullest, emptiest), crossed(emptiest, fullest));
    let weights = u64::from(fullest.weight) + u64::from(emptiest.weight);
    let streams = full.saturating_sub(empty).checked_div(weights)?;
    let begins = balance == Balance::Moving || as_float(full) >= threshold * as_float(empty);
    let streams = u32::try_from(streams).ok().filter(|streams| *streams > 0 && begins)?;
    Some(PlannedMove { from, to, streams })
}

/// Returns the streams of `one` times the weight of `other`; 32 bits times 32 bits fit.
fn crossed(one: &EndpointShare, other: &EndpointShare) -> u64 {
    u64::from(one.streams) * u64::from(other.weight)
}

/// Converts for a comparison; the rounding error is below a 2^32nd.
fn as_float(value: u64) -> f64 {
    f64::from(u32::try_from(value >> 32).unwrap_or(u32::MAX)) * 4_294_967_296.0
        + f64::from(u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(streams: &[u32]) -> Vec<EndpointShare> {
        streams
            .iter()
            .map(|streams| EndpointShare { streams: *streams, weight: 1, is_source: true })
            .collect()
    }

    fn of(streams: &[u32], balance: Balance) -> Option<(usize, usize, u32)> {
        plan_rebalance(&shares(streams), balance, 1.5)
            .map(|planned| (planned.from, planned.to, planned.streams))
    }

    #[test]
    fn it_begins_at_the_threshold_and_goes_on_until_all_is_even() {
        use Balance::{AtRest, Moving};
        assert_eq!(of(&[100, 100, 0], AtRest).map(|planned| (planned.1, planned.2)), Some((2, 50)));
        assert_eq!(of(&[149, 100], AtRest), None);
        assert_eq!(of(&[150, 100], AtRest), Some((0, 1, 25)));
        assert_eq!(of(&[149, 100], Moving), Some((0, 1, 24)));
        assert_eq!(of(&[101, 100], Moving), None, "no move makes it better");
        assert_eq!(of(&[1, 0], AtRest), None);
        assert_eq!((of(&[], Moving), of(&[7], Moving)), (None, None));
    }

    #[test]
    fn weights_say_what_is_even() {
        let share = |streams, weight| EndpointShare { streams, weight, is_source: true };
        let heavy = [share(300, 3), share(100, 1)];
        assert_eq!(plan_rebalance(&heavy, Balance::Moving, 1.5), None);
        let fresh = [share(100, 1), share(0, 3)];
        assert_eq!(
            plan_rebalance(&fresh, Balance::AtRest, 1.5),
            Some(PlannedMove { from: 0, to: 1, streams: 75 })
        );
    }

    proptest! {
        /// Following the plan comes to rest, and no move makes its target fuller than its source.
        #[test]
        fn it_comes_to_rest(loads in prop::collection::vec((0..2_000_u32, 1..10_u32), 2..12)) {
            let mut shares: Vec<EndpointShare> =
                loads.into_iter().map(|(streams, weight)| EndpointShare { streams, weight, is_source: true }).collect();
            let all: u32 = shares.iter().map(|share| share.streams).sum();
            let mut steps = 0;
            while let Some(PlannedMove { from, to, streams }) = plan_rebalance(&shares, Balance::Moving, 1.5) {
                shares[from].streams -= streams;
                shares[to].streams += streams;
                prop_assert!(crossed(&shares[from], &shares[to]) >= crossed(&shares[to], &shares[from]));
                steps += 1;
                prop_assert!(steps < 10_000, "{shares:?}");
            }
            prop_assert_eq!(shares.iter().map(|share| share.streams).sum::<u32>(), all);
        }
    }
}
