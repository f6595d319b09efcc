//! Weighted choice: the endpoints laid side by side, each as wide as its weight, and a random position falls on one.
//!
//! Draws cost no more than a binary search, whatever the number of endpoints; with equal weights not even that.

use std::sync::Arc;

use crate::endpoint::Endpoint;

/// Endpoints to draw from by weight, laid out once.
#[derive(Debug, Default)]
pub(crate) struct WeightedSet {
    endpoints: Vec<Arc<Endpoint>>,
    /// End of each endpoint's span; empty if all weights are equal (then each is 1 wide).
    ends: Vec<u64>,
    total: u64,
    /// Step between two turns; see [`WeightedSet::at_turn`].
    stride: u64,
}

/// The span `start..start + width` of one endpoint.
struct Span {
    start: u64,
    width: u64,
}

impl WeightedSet {
    pub(crate) fn new(endpoints: Vec<Arc<Endpoint>>) -> WeightedSet {
        let count = u64::try_from(endpoints.len()).unwrap_or(u64::MAX);
        let weights_equal = endpoints.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
        if weights_equal {
            return WeightedSet { endpoints, ends: Vec::new(), total: count, stride: 1 };
        }
        let widths = endpoints.iter().map(|endpoint| u64::from(endpoint.weight));
        let ends: Vec<u64> = widths
            .scan(0, |end, width| {
                *end += width;
                Some(*end)
            })
            .collect();
        let total = ends.last().copied().unwrap_or_default();
        WeightedSet { endpoints, ends, total, stride: even_stride(total) }
    }

    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(index)
    }

    /// Draws an index by weight; `None` if the set is empty.
    pub(crate) fn draw(&self, rng: &mut impl FnMut(u64) -> u64) -> Option<usize> {
        draw_below(self.total, rng).map(|position| self.index_at(position))
    }

    /// Draws an index by weight among all but `first`, so that two choices are two; `None` if there is no other.
    pub(crate) fn draw_other(&self, first: usize, rng: &mut impl FnMut(u64) -> u64) -> Option<usize> {
        let taken = self.span(first);
        let position = draw_below(self.total.saturating_sub(taken.width), rng)?;
        // The others close ranks over the gap.
        let skipped = if position >= taken.start { taken.width } else { 0 };
        Some(self.index_at(position + skipped))
    }

    /// Returns the endpoint whose turn it is. Over one cycle of turns each comes as often as its weight says; the stride
    /// near the golden section keeps the turns of a heavy one apart, instead of all in a row.
    pub(crate) fn at_turn(&self, turn: u64) -> Option<&Arc<Endpoint>> {
        let turn = u128::from(turn.checked_rem(self.total)?);
        let place = (turn * u128::from(self.stride)).checked_rem(u128::from(self.total))?;
        self.get(self.index_at(u64::try_from(place).ok()?))
    }

    fn index_at(&self, position: u64) -> usize {
        if self.ends.is_empty() {
            return usize::try_from(position).unwrap_or(usize::MAX);
        }
        self.ends.partition_point(|end| *end <= position)
    }

    fn span(&self, index: usize) -> Span {
        if self.ends.is_empty() {
            return Span { start: u64::try_from(index).unwrap_or(u64::MAX), width: 1 };
        }
        let end_at = |index: usize| self.ends.get(index).copied().unwrap_or(self.total);
        let start = index.checked_sub(1).map_or(0, end_at);
        Span { start, width: end_at(index) - start }
    }
}

/// Draws a number below `bound`; `None` if `bound` is 0. An rng that returns `bound` or more is held to it.
fn draw_below(bound: u64, rng: &mut impl FnMut(u64) -> u64) -> Option<u64> {
    (bound > 0).then(|| rng(bound).min(bound - 1))
}

/// The smallest step from the golden section of `total` upwards that visits every place once in `total` turns.
fn even_stride(total: u64) -> u64 {
    let golden = u64::try_from(u128::from(total) * 618 / 1_000).unwrap_or(1).max(1);
    (golden..=total).find(|step| common_divisor(*step, total) == 1).unwrap_or(1)
}

/// Greatest common divisor, after Euclid.
fn common_divisor(a: u64, b: u64) -> u64 {
    match a.checked_rem(b) {
        None => a,
        Some(rest) => common_divisor(b, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podpin_time::Millis;

    use crate::{Condition, Table, Update, table::tests::observed};

    /// Returns a set of endpoints that weigh as much as `weights` says, in that order.
    fn set(weights: &[u32]) -> WeightedSet {
        let list = weights.iter().enumerate().map(|(index, weight)| {
            let mut one = observed(&format!("pod-{index:03}"), Condition::Ready);
            one.weight = *weight;
            one
        });
        let applied = Table::new().apply(Update::Replace(list.collect()), Millis(0));
        WeightedSet::new(applied.snapshot.endpoints().to_vec())
    }

    #[test]
    fn every_position_falls_on_the_stretch_of_its_owner() {
        let cases: [(&[u32], &[usize]); 5] = [
            (&[], &[]),
            (&[7], &[0]),
            (&[5, 5, 5], &[0, 1, 2]),
            (&[2, 1, 3], &[0, 0, 1, 2, 2, 2]),
            (&[1, 4], &[0, 1, 1, 1, 1]),
        ];
        for (weights, owners) in cases {
            let set = set(weights);
            let drawn: Vec<usize> =
                (0..set.total).filter_map(|position| set.draw(&mut |_| position)).collect();
            assert_eq!(drawn, owners, "weights {weights:?}");
        }
    }

    #[test]
    fn the_second_draw_is_by_weight_among_the_others() {
        let weighted = set(&[2, 1, 3]);
        let others = |set: &WeightedSet, first: usize| -> Vec<usize> {
            let width = set.span(first).width;
            (0..set.total - width).filter_map(|position| set.draw_other(first, &mut |_| position)).collect()
        };
        assert_eq!(others(&weighted, 0), [1, 2, 2, 2]);
        assert_eq!(others(&weighted, 1), [0, 0, 2, 2, 2]);
        assert_eq!(others(&weighted, 2), [0, 0, 1]);
        assert_eq!(others(&set(&[1, 1, 1]), 1), [0, 2]);
        assert_eq!(set(&[9]).draw_other(0, &mut |_| 0), None);
    }

    #[test]
    fn turns_keep_the_weights_exactly_and_heavy_ones_apart() {
        let set = set(&[4, 1, 2, 1]);
        let mut counts = [0; 4];
        let mut names = Vec::new();
        for turn in 100..108 {
            let endpoint = set.at_turn(turn).unwrap();
            let index = set.endpoints().iter().position(|other| Arc::ptr_eq(other, endpoint)).unwrap();
            counts[index] += 1;
            names.push(index);
        }
        assert_eq!(counts, [4, 1, 2, 1]);
        assert!(names.windows(3).all(|three| three != [0, 0, 0]), "{names:?}");
    }

    #[test]
    fn equal_weights_take_turns_in_order_and_an_empty_lot_has_none() {
        let lot_of_three = set(&[3, 3, 3]);
        let turns: Vec<&str> =
            (0..5).filter_map(|turn| lot_of_three.at_turn(turn)).map(|endpoint| &*endpoint.name).collect();
        assert_eq!(turns, ["pod-000", "pod-001", "pod-002", "pod-000", "pod-001"]);
        assert!(set(&[]).at_turn(3).is_none());
    }

    #[test]
    fn an_rng_out_of_bounds_still_draws_a_member() {
        let set = set(&[2, 1, 3]);
        assert_eq!(set.draw(&mut |_| u64::MAX), Some(2));
        assert_eq!(set.draw_other(2, &mut |_| u64::MAX), Some(1));
    }
}
