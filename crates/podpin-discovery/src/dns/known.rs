//! The addresses that are known of one name, and what an answer makes of them; pure.
//!
//! ```text
//!            in an answer            missing once           missing twice          after the linger
//!  (unknown) ───────────▶ Listed ───────────────▶ Missing ───────────────▶ Draining ──────────▶ forgotten
//!                           ▲  in an answer again    │                        │
//!                           └────────────────────────┴────────────────────────┘
//! ```
//!
//! DNS says that an address is gone, and not that it will go: what vanishes drains, so that its streams leave at a pace. It
//! takes two answers in a row, because one may be from a server that is late, or cut short. No answer changes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use podpin_endpoints::{Condition, Observed};
use podpin_time::Millis;

/// An address of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The name of the endpoint; `None` if that is the address.
    pub(crate) name: Option<Arc<str>>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Share of clients; 0 is taken as 1.
    pub(crate) weight: u32,
}

/// The result of one lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An answer: all addresses of the name, none if it does not exist or has none, and for how long this is true.
    Targets {
        /// The addresses.
        list: Vec<Target>,
        /// Time to live.
        ttl: Duration,
    },
    /// No answer, or one that says nothing (SERVFAIL, REFUSED), in words.
    Failed(String),
}

/// State of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listed,
    /// Not in the last answer.
    Missing,
    /// Not in the last answers; forgotten at this time.
    Draining(Millis),
}

/// The addresses that are known of one name.
#[derive(Debug, Default)]
pub(crate) struct Known {
    by_address: BTreeMap<SocketAddr, (Target, State)>,
    /// Whether there was an answer.
    pub(crate) is_answered: bool,
}

/// When to look a name up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// The longest time between two lookups.
    pub(crate) interval: Duration,
    /// How long an address drains before it is forgotten: as long as its streams may take to leave.
    pub(crate) linger: Duration,
}

/// A lower bound on TTLs: Consul's and dnsmasq's are 0, and once a second is no burden.
const TTL_MIN: Duration = Duration::from_secs(1);

/// When an answer without an address that was there is confirmed: soon enough to be settled within a second.
const CONFIRM_AFTER: Duration = Duration::from_millis(500);

/// The longest time between two lookups of a name that could not be looked up.
const RETRY_MAX: Duration = Duration::from_secs(5);

impl Known {
    /// Takes an answer over. Returns when to look again.
    pub(crate) fn take(&mut self, answer: &Answer, times: Times, now: Millis) -> Duration {
        self.expire(now);
        let next = self.learn(answer, times, now);
        let ends = self.by_address.values().filter_map(|(_, state)| match state {
            State::Draining(until) => Some(until.since(now)),
            State::Listed | State::Missing => None,
        });
        ends.fold(next, Duration::min)
    }

    /// Takes an answer over. Returns how long it is good for.
    fn learn(&mut self, answer: &Answer, times: Times, now: Millis) -> Duration {
        let Answer::Targets { list, ttl } = answer else { return times.interval.min(RETRY_MAX) };
        self.is_answered = true;
        let listed: BTreeMap<SocketAddr, &Target> = list.iter().map(|one| (one.address, one)).collect();
        let mut in_doubt = false;
        for (address, (_, state)) in &mut self.by_address {
            *state = match (*state, listed.contains_key(address)) {
                (_, true) => State::Listed,
                (State::Listed, false) => State::Missing,
                (State::Missing, false) => State::Draining(now.after(times.linger)),
                (draining @ State::Draining(_), false) => draining,
            };
            in_doubt |= *state == State::Missing;
        }
        for (address, target) in listed {
            self.by_address.insert(address, (target.clone(), State::Listed));
        }
        let next = (*ttl).max(TTL_MIN).min(times.interval);
        if in_doubt { next.min(CONFIRM_AFTER) } else { next }
    }

    /// Forgets what has drained by `now`.
    pub(crate) fn expire(&mut self, now: Millis) {
        self.by_address.retain(|_, (_, state)| !matches!(state, State::Draining(until) if *until <= now));
    }

    /// Returns the endpoints, made by `observed` of each address.
    pub(crate) fn endpoints(&self, observed: impl Fn(&Target) -> Observed) -> Vec<Observed> {
        let states = self.by_address.values();
        let endpoint = |(target, state): &(Target, State)| Observed {
            condition: match state {
                State::Listed | State::Missing => Condition::Ready,
                State::Draining(_) => Condition::Draining { serving: true },
            },
            ..observed(target)
        };
        states.map(endpoint).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::listed::listed;

    const TIMES: Times = Times { interval: Duration::from_secs(5), linger: Duration::from_secs(30) };

    fn target(last: u8) -> Target {
        Target { name: None, address: ([10, 0, 0, last], 80).into(), weight: 1 }
    }

    fn answer(addresses: &[u8], ttl: u64) -> Answer {
        let list = addresses.iter().map(|last| target(*last)).collect();
        Answer::Targets { list, ttl: Duration::from_secs(ttl) }
    }

    /// The last bytes of the addresses, those that drain with a minus.
    fn words(known: &Known) -> Vec<i32> {
        let endpoints = known.endpoints(|target| listed("x".into(), target.address, target.weight));
        let word = |one: &Observed| {
            let std::net::IpAddr::V4(ip) = one.address.ip() else { panic!("{one:?}") };
            let last = i32::from(ip.octets()[3]);
            if one.condition == Condition::Ready { last } else { -last }
        };
        endpoints.iter().map(word).collect()
    }

    #[test]
    fn an_address_that_vanishes_drains_after_a_second_look_and_goes_after_its_streams() {
        let failed = Answer::Failed("SERVFAIL".into());
        let step =
            |seconds, answer: Answer, millis, expected: &'static [i32]| (seconds, answer, millis, expected);
        let steps = [
            step(0, failed.clone(), 5_000, &[]),
            step(1, answer(&[1, 2], 3), 3_000, &[1, 2]),
            step(2, answer(&[2, 3], 3), 500, &[1, 2, 3]),
            step(3, failed.clone(), 5_000, &[1, 2, 3]),
            step(4, answer(&[2, 3], 300), 5_000, &[-1, 2, 3]),
            step(5, answer(&[3], 0), 500, &[-1, 2, 3]),
            step(6, answer(&[2, 3], 0), 1_000, &[-1, 2, 3]),
            step(7, answer(&[], 0), 500, &[-1, 2, 3]),
            step(8, answer(&[], 0), 1_000, &[-1, -2, -3]),
            step(9, answer(&[2], 0), 1_000, &[-1, 2, -3]),
            step(33, failed.clone(), 1_000, &[-1, 2, -3]),
            step(34, failed.clone(), 4_000, &[2, -3]),
            step(40, answer(&[2], 1), 1_000, &[2]),
        ];
        let mut known = Known::default();
        for (seconds, answer, millis, expected) in steps {
            let next = known.take(&answer, TIMES, Millis(seconds * 1_000));
            let found = (words(&known), next);
            assert_eq!(found, (expected.to_vec(), Duration::from_millis(millis)), "{seconds} s: {answer:?}");
        }
        assert!(known.is_answered);
    }

    #[test]
    fn a_short_interval_is_kept_and_a_failure_is_looked_at_again_soon() {
        let quick = Times { interval: Duration::from_millis(200), ..TIMES };
        let slow = Times { interval: Duration::from_secs(3_600), ..TIMES };
        let mut known = Known::default();
        assert_eq!(known.take(&answer(&[1], 60), quick, Millis(0)), quick.interval);
        assert_eq!(known.take(&answer(&[], 60), quick, Millis(0)), quick.interval);
        assert_eq!(known.take(&answer(&[1], 60), slow, Millis(0)), Duration::from_secs(60));
        assert_eq!(known.take(&Answer::Failed("?".into()), slow, Millis(0)), RETRY_MAX);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_that_two_answers_did_not_leave_out(
            answers in prop::collection::vec(prop::option::of(prop::collection::btree_set(0..6_u8, 0..6)), 1..30),
        ) {
            let mut known = Known::default();
            // How many answers in a row left each address out.
            let mut left_out: BTreeMap<u8, u32> = BTreeMap::new();
            for (step, set) in answers.iter().enumerate() {
                let reply = match set {
                    Some(set) => answer(&set.iter().copied().collect::<Vec<_>>(), 1),
                    None => Answer::Failed("timeout".into()),
                };
                known.take(&reply, TIMES, Millis(u64::try_from(step).unwrap() * 10));
                if let Some(set) = set {
                    left_out.iter_mut().for_each(|(_, count)| *count += 1);
                    left_out.extend(set.iter().map(|last| (*last, 0)));
                }
                let expected: Vec<i32> = left_out
                    .iter()
                    .map(|(last, count)| if *count < 2 { i32::from(*last) } else { -i32::from(*last) })
                    .collect();
                prop_assert_eq!(words(&known), expected);
            }
        }
    }
}
