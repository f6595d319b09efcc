//! Live rebalancing: from where to where streams should move, and how many until the two are even.
//!
//! With hysteresis: it begins when the fullest endpoint has `threshold` times what the emptiest has, and once begun goes on
//! until no move makes the two more even. A move never makes the target fuller than the source, so it cannot be undone by
//! the next look. Pure: who moves, how fast and by what means is the proxy's.

/// What an endpoint carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Streams, those on their way to it included and those on their way from it not.
    pub streams: u32,
    /// As of [`Endpoint::weight`](crate::Endpoint), at least 1.
    pub weight: u32,
}

/// Streams that should move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Index of the fullest endpoint for its weight.
    pub from: usize,
    /// Index of the emptiest.
    pub to: usize,
    /// As many as make the two even, at least 1.
    pub streams: u32,
}

/// Whether streams are moving already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Nothing moves until the threshold is passed.
    #[default]
    AtRest,
    /// What has begun goes on until the endpoints are even.
    Moving,
}

/// The next shift, or `None` when there is nothing to do. `threshold` is at least 1.
#[must_use]
pub fn shift(shares: &[Share], balance: Balance, threshold: f64) -> Option<Shift> {
    // a/wa < b/wb, without division.
    let by_load = |a: &(usize, &Share), b: &(usize, &Share)| crossed(a.1, b.1).cmp(&crossed(b.1, a.1));
    let (from, fullest) = shares.iter().enumerate().max_by(by_load)?;
    let (to, emptiest) = shares.iter().enumerate().min_by(by_load)?;
    let (full, empty) = (crossed(fullest, emptiest), crossed(emptiest, fullest));
    let weights = u64::from(fullest.weight) + u64::from(emptiest.weight);
    let streams = full.saturating_sub(empty).checked_div(weights)?;
    let begins = balance == Balance::Moving || as_float(full) >= threshold * as_float(empty);
    let streams = u32::try_from(streams).ok().filter(|streams| *streams > 0 && begins)?;
    Some(Shift { from, to, streams })
}

/// Streams of `one` times the weight of the other: 32 bits times 32 bits fit.
fn crossed(one: &Share, other: &Share) -> u64 {
    u64::from(one.streams) * u64::from(other.weight)
}

/// Exact enough to compare: what is lost is below a 2^32nd.
fn as_float(value: u64) -> f64 {
    f64::from(u32::try_from(value >> 32).unwrap_or(u32::MAX)) * 4_294_967_296.0
        + f64::from(u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(streams: &[u32]) -> Vec<Share> {
        streams.iter().map(|streams| Share { streams: *streams, weight: 1 }).collect()
    }

    fn of(streams: &[u32], balance: Balance) -> Option<(usize, usize, u32)> {
        shift(&shares(streams), balance, 1.5).map(|shift| (shift.from, shift.to, shift.streams))
    }

    #[test]
    fn it_begins_at_the_threshold_and_goes_on_until_all_is_even() {
        use Balance::{AtRest, Moving};
        assert_eq!(of(&[100, 100, 0], AtRest).map(|shift| (shift.1, shift.2)), Some((2, 50)));
        assert_eq!(of(&[149, 100], AtRest), None);
        assert_eq!(of(&[150, 100], AtRest), Some((0, 1, 25)));
        assert_eq!(of(&[149, 100], Moving), Some((0, 1, 24)));
        assert_eq!(of(&[101, 100], Moving), None, "no move makes it better");
        assert_eq!(of(&[1, 0], AtRest), None);
        assert_eq!((of(&[], Moving), of(&[7], Moving)), (None, None));
    }

    #[test]
    fn weights_say_what_is_even() {
        let heavy = [Share { streams: 300, weight: 3 }, Share { streams: 100, weight: 1 }];
        assert_eq!(shift(&heavy, Balance::Moving, 1.5), None);
        let fresh = [Share { streams: 100, weight: 1 }, Share { streams: 0, weight: 3 }];
        assert_eq!(shift(&fresh, Balance::AtRest, 1.5), Some(Shift { from: 0, to: 1, streams: 75 }));
    }

    proptest! {
        /// Following the shifts comes to rest, and no shift makes its target fuller than its source.
        #[test]
        fn it_comes_to_rest(loads in prop::collection::vec((0..2_000_u32, 1..10_u32), 2..12)) {
            let mut shares: Vec<Share> =
                loads.into_iter().map(|(streams, weight)| Share { streams, weight }).collect();
            let all: u32 = shares.iter().map(|share| share.streams).sum();
            let mut steps = 0;
            while let Some(Shift { from, to, streams }) = shift(&shares, Balance::Moving, 1.5) {
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
