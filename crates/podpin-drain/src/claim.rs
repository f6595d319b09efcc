//! Claims: which sessions an endpoint takes first from another one, for balance's sake.
//!
//! A function of the session and of both endpoints, so that all replicas move the same sessions, and none moves back what
//! another one has moved: the sessions that `to` claims first from `from` are those that `from` claims last from `to`.

use podpin_endpoints::EndpointId;

use crate::reconnects::Session;

/// Returns how much rather a session is at `to` than at `from`: the higher, the earlier it moves. Rendezvous hashing, so that an
/// endpoint which joins claims evenly from all others.
pub(crate) fn claim(session: &Session, from: &EndpointId, to: &EndpointId) -> i128 {
    i128::from(weight(session, to)) - i128::from(weight(session, from))
}

/// Returns the weight of a session at an endpoint, even over all of them.
fn weight(session: &Session, endpoint: &EndpointId) -> u64 {
    let session = u128::from_be_bytes(*session);
    let halves = [session, endpoint.position()].map(|number| [number >> 64, number]);
    halves.into_iter().flatten().fold(0, |weight, half| {
        #[expect(clippy::cast_possible_truncation, reason = "a half of the number is meant")]
        let half = half as u64;
        mixed(weight ^ half)
    })
}

/// Mixes a number (SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_sessions_are_rather_at_one_of_two_endpoints() {
        let [one, other] = ["a", "b"].map(|name| EndpointId::of_pod(name, 80));
        let sessions = (0..10_000_u128).map(u128::to_be_bytes);
        let claimed = sessions.filter(|session| {
            assert_eq!(claim(session, &one, &other), -claim(session, &other, &one));
            claim(session, &one, &other) > 0
        });
        assert!((4_800..5_200).contains(&claimed.count()));
    }
}
