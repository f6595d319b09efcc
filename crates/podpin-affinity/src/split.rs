//! Which of several services a client goes to, by their weights and nothing but what names the client.
//!
//! Weighted rendezvous hashing (Mosharaf, Schindelhauer et al., "Weighted distributed hash tables", 2005): every service
//! draws a number for the client, exponentially distributed with its weight as the rate, and the smallest wins.
//!
//! ```text
//! u     = the first 8 bytes of SHA-256("podpin split" | length of the service's name, 8 bytes | service's name | client)
//! score = -log2(u / 2^64) / weight
//! ```
//!
//! Replicas agree without a word between them. A weight that changes moves clients only to or from its own service, and
//! no more of them than the new shares ask for, because the scores of the others stay as they are. All of it is done in
//! integers: a logarithm of floats may differ in its last bit from one processor to the next.

use sha2::{Digest as _, Sha256};

/// Names the use of the hash, so that it tells nothing of hashes made for other reasons.
const PURPOSE: &[u8] = b"podpin split";

/// Bits of a logarithm behind the point. Two scores are equal in one of 10^11 draws; the service that is named first has it.
const FRACTION_BITS: u32 = 40;

/// Returns the index of the service for `client`; each of `services` is a name and a weight. `None` if no weight is above 0.
///
/// ```
/// use podpin_affinity::split;
///
/// let services = [("stable", 9), ("canary", 1)];
/// let canary = (0..1_000_u32).filter(|client| split(services, &client.to_be_bytes()) == Some(1));
/// assert!((50..150).contains(&canary.count()));
/// // The same client gets the same service, in every replica; a service of weight 0 gets none.
/// assert_eq!(split(services, b"client"), split(services, b"client"));
/// assert_eq!(split([("stable", 0), ("canary", 1)], b"client"), Some(1));
/// assert_eq!(split([("stable", 0)], b"client"), None);
/// ```
pub fn split<'a>(services: impl IntoIterator<Item = (&'a str, u32)>, client: &[u8]) -> Option<usize> {
    let mut best: Option<(usize, u64, u32)> = None;
    for (at, (name, weight)) in services.into_iter().enumerate().filter(|(_, (_, weight))| *weight > 0) {
        let drawn = surprise(hash(name, client));
        // drawn / weight < best drawn / best weight
        let is_first = best.is_none_or(|(_, rival, rival_weight)| {
            u128::from(drawn) * u128::from(rival_weight) < u128::from(rival) * u128::from(weight)
        });
        if is_first {
            best = Some((at, drawn, weight));
        }
    }
    best.map(|(at, ..)| at)
}

fn hash(name: &str, client: &[u8]) -> u64 {
    let hash = Sha256::new()
        .chain_update(PURPOSE)
        .chain_update((name.len() as u64).to_be_bytes())
        .chain_update(name)
        .chain_update(client)
        .finalize();
    hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// `-log2(hash / 2^64)` with [`FRACTION_BITS`] bits behind the point; 0 counts as 1.
fn surprise(hash: u64) -> u64 {
    let zeros = hash.max(1).leading_zeros();
    // From 1 to 2, with 63 bits behind the point. Squaring it doubles its logarithm, whose next bit is whether that is 2
    // or more.
    let mut mantissa = u128::from(hash.max(1) << zeros);
    let mut logarithm = 0_u64;
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = mantissa >> 64;
        mantissa >>= bit;
        logarithm = (logarithm << 1) | u64::from(bit == 1);
    }
    ((u64::from(zeros) + 1) << FRACTION_BITS) - logarithm
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 4] = ["chat", "chat-next", "news", "a"];

    fn shares(weights: &[u32], clients: u32) -> Vec<u32> {
        let mut shares = vec![0; weights.len()];
        for client in 0..clients {
            shares[chosen(weights, client).unwrap()] += 1;
        }
        shares
    }

    fn chosen(weights: &[u32], client: u32) -> Option<usize> {
        split(NAMES.into_iter().zip(weights.iter().copied()), &client.to_be_bytes())
    }

    /// Computed by another implementation (Python's hashlib and exact rationals). If this fails, clients of this kind
    /// change their service at the next rollout.
    #[test]
    fn the_choice_is_the_documented_one() {
        assert_eq!(hash("chat", b"user-42"), 747_354_743_038_410_231);
        let of = |services: &[(&'static str, u32)], clients: std::ops::Range<u32>| {
            let services = services.to_vec();
            let choose =
                move |client| split(services.iter().copied(), format!("user-{client}").as_bytes()).unwrap();
            clients.map(choose).collect::<Vec<_>>()
        };
        let uneven = of(&[("chat", 90), ("chat-next", 10)], 0..60);
        let next: Vec<_> =
            uneven.iter().enumerate().filter(|(_, at)| **at == 1).map(|(client, _)| client).collect();
        assert_eq!(next, [0, 2, 16, 37]);
        let three = of(&[("chat", 1), ("chat-next", 1), ("news", 2)], 0..16);
        assert_eq!(three, [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 2, 2, 2, 1, 2, 1]);
    }

    #[test]
    fn the_logarithm_is_right_to_its_last_bits() {
        let table =
            [(1, 64.0), (1 << 63, 1.0), (3 << 61, 1.415_037_499_278_843_8), (u64::MAX, 0.0), (0, 64.0)];
        for (hash, expected) in table {
            let found = surprise(hash) as f64 / (1_u64 << FRACTION_BITS) as f64;
            assert!((found - expected).abs() < 1e-11, "{hash}: {found}");
        }
    }

    #[test]
    fn nobody_goes_where_the_weight_is_0() {
        assert_eq!((chosen(&[], 1), chosen(&[0, 0], 1)), (None, None));
        assert_eq!(shares(&[0, 1, 0], 100), [0, 100, 0]);
        assert_eq!(shares(&[1_000_000], 100), [100]);
    }

    #[test]
    fn clients_are_split_by_weight() {
        let table: [&[u32]; 5] = [&[1, 1], &[90, 10], &[1, 2, 3, 4], &[999, 1], &[1_000_000, 1_000_000, 1]];
        for weights in table {
            let (clients, sum) = (20_000, f64::from(weights.iter().sum::<u32>()));
            for (share, weight) in shares(weights, clients).into_iter().zip(weights) {
                let portion = f64::from(*weight) / sum;
                let expected = portion * f64::from(clients);
                // Five standard deviations of a binomial distribution, and one client for shares near none.
                let tolerance = 5.0 * (expected * (1.0 - portion)).sqrt() + 1.0;
                assert!((f64::from(share) - expected).abs() <= tolerance, "{share} of {weights:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_changed_weight_moves_clients_only_to_or_from_its_service(
            weights in prop::array::uniform4(0_u32..=1000),
            which in 0_usize..4,
            to in 0_u32..=1000,
            first in any::<u32>(),
        ) {
            let mut changed = weights;
            changed[which] = to;
            for client in (0..50).map(|step| first.wrapping_add(step)) {
                let (before, after) = (chosen(&weights, client), chosen(&changed, client));
                prop_assert!(after.is_none_or(|at| changed[at] > 0));
                let its_side = if to > weights[which] { after } else { before };
                prop_assert!(before == after || its_side == Some(which), "{before:?} {after:?}");
            }
        }

        #[test]
        fn only_the_proportions_of_weights_matter(weights in prop::array::uniform4(0_u32..=1000), client: u32) {
            prop_assert_eq!(chosen(&weights, client), chosen(&weights.map(|weight| weight * 1000), client));
        }

        #[test]
        fn the_order_of_services_does_not_matter(weights in prop::array::uniform4(0_u32..=1000), client: u32) {
            let backwards = NAMES.into_iter().zip(weights).rev();
            let there = split(backwards, &client.to_be_bytes()).map(|at| 3 - at);
            prop_assert_eq!(chosen(&weights, client), there);
        }

        #[test]
        fn a_rarer_hash_surprises_more(one: u64, other: u64) {
            prop_assert!(one > other || surprise(one) >= surprise(other));
        }
    }
}
