//! The addresses that are known of one name, and what an answer makes of them; pure.
//!
//! ```text
//!            in an answer            missing once      missing twice, or more       after the linger
//!  (unknown) ───────────▶ Listed ───────────────▶ Missing ───────────────▶ Draining ──────────▶ forgotten
//!                           ▲  in an answer again    │                        │
//!                           └────────────────────────┴────────────────────────┘
//! ```
//!
//! DNS says that an address is gone, and not that it will go: what vanishes drains, so that its streams leave at a pace. It
//! takes two answers in a row, because one may be from a server that is late, or cut short. No answer changes nothing.
//!
//! Some servers name a few addresses of many at a time, other ones in each answer (Consul three, Route 53 and Cloud Map eight), or
//! disagree with each other. An answer that brings back what others left out, and leaves out what the last one had, is known by
//! that as part of a *rotation*: from then on many more answers in a row have to leave an address out.

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

/// An address that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    target: Target,
    /// Answers in a row that left the address out.
    absences: u32,
    /// When it is forgotten; `None` if it does not drain.
    ends: Option<Millis>,
}

/// A name whose answers have a part of its addresses each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rotation {
    /// The most answers in a row that left an address out which came back.
    longest: u32,
    /// Answers since an address came back.
    quiet: u32,
}

/// The addresses that are known of one name.
#[derive(Debug, Default)]
pub(crate) struct Known {
    by_address: BTreeMap<SocketAddr, Entry>,
    /// `None` if answers have all addresses, as far as is known.
    rotation: Option<Rotation>,
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

/// Answers in a row that leave out an address which is gone.
const ABSENCES: u32 = 2;

/// The same in a rotation, at least and at most; between them it is twice what was seen of addresses that came back. Of a server that
/// names half of the addresses, one in a thousand is absent for ten answers.
const ROTATION_ABSENCES: (u32, u32) = (10, 100);

/// Addresses of one name, beyond which rotations are no longer waited for: twice what an answer of 64 KiB has room for.
const ADDRESSES_MAX: usize = 8_192;

impl Rotation {
    /// Returns how many answers in a row leave out an address which is gone.
    fn absences(self) -> u32 {
        let (least, most) = ROTATION_ABSENCES;
        self.longest.saturating_mul(2).clamp(least, most)
    }
}

impl Known {
    /// Takes an answer over. Returns when to look again.
    pub(crate) fn take(&mut self, answer: &Answer, times: Times, now: Millis) -> Duration {
        self.expire(now);
        let next = self.learn(answer, times, now);
        let ends = self.by_address.values().filter_map(|entry| Some(entry.ends?.since(now)));
        ends.fold(next, Duration::min)
    }

    /// Takes an answer over. Returns how long it is good for.
    fn learn(&mut self, answer: &Answer, times: Times, now: Millis) -> Duration {
        let Answer::Targets { list, ttl } = answer else { return times.interval.min(RETRY_MAX) };
        self.is_answered = true;
        let listed: BTreeMap<SocketAddr, &Target> = list.iter().map(|one| (one.address, one)).collect();
        self.watch_rotation(&listed);
        let absences_max = match self.rotation {
            Some(rotation) if self.by_address.len() <= ADDRESSES_MAX => rotation.absences(),
            _ => ABSENCES,
        };
        let mut in_doubt = false;
        for (address, entry) in &mut self.by_address {
            entry.absences = if listed.contains_key(address) { 0 } else { entry.absences.saturating_add(1) };
            let drains = entry.absences >= absences_max;
            entry.ends = drains.then(|| entry.ends.unwrap_or(now.after(times.linger)));
            in_doubt |= entry.absences > 0 && !drains;
        }
        for (address, target) in listed {
            let target = target.clone();
            self.by_address.insert(address, Entry { target, absences: 0, ends: None });
        }
        let next = (*ttl).max(TTL_MIN).min(times.interval);
        if in_doubt && self.rotation.is_none() { next.min(CONFIRM_AFTER) } else { next }
    }

    /// Notes whether this answer shows that answers have a part of the addresses each.
    fn watch_rotation(&mut self, listed: &BTreeMap<SocketAddr, &Target>) {
        let known = self.by_address.iter();
        let (came_back, left_out) = known.fold((0, false), |(longest, left_out), (address, entry)| {
            match listed.contains_key(address) {
                true => (entry.absences.max(longest), left_out),
                false => (longest, left_out || entry.absences == 0),
            }
        });
        if came_back > 0 && (left_out || self.rotation.is_some()) {
            let longest = self.rotation.map_or(0, |rotation| rotation.longest).max(came_back);
            self.rotation = Some(Rotation { longest, quiet: 0 });
        } else if let Some(rotation) = &mut self.rotation {
            rotation.quiet += 1;
            self.rotation = self.rotation.filter(|rotation| rotation.quiet <= rotation.absences());
        }
    }

    /// Forgets what has drained by `now`.
    pub(crate) fn expire(&mut self, now: Millis) {
        self.by_address.retain(|_, entry| entry.ends.is_none_or(|ends| ends > now));
    }

    /// Returns the endpoints, made by `observed` of each address.
    pub(crate) fn endpoints(&self, observed: impl Fn(&Target) -> Observed) -> Vec<Observed> {
        let endpoint = |entry: &Entry| Observed {
            condition: match entry.ends {
                None => Condition::Ready,
                Some(_) => Condition::Draining { serving: true },
            },
            ..observed(&entry.target)
        };
        self.by_address.values().map(endpoint).collect()
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

    #[test]
    fn a_server_that_names_other_addresses_in_each_answer_drains_none_and_those_that_are_gone_still_go() {
        // Three of ten, as Consul answers; eight of twenty, as Route 53 does.
        for (part, of) in [(3_u8, 10_u8), (8, 20), (1, 4)] {
            let (mut known, mut now, mut rng) = (Known::default(), 0, fastrand::Rng::with_seed(7));
            let mut look = |known: &mut Known, of: u8| {
                let mut all: Vec<u8> = (1..=of).collect();
                rng.shuffle(&mut all);
                now += 1_000;
                known.take(&answer(&all[..usize::from(part)], 0), TIMES, Millis(now))
            };
            // Until the rotation is known for what it is.
            (0..100).for_each(|_| _ = look(&mut known, of));
            for round in 0..400 {
                let next = look(&mut known, of);
                let all: Vec<i32> = (1..=i32::from(of)).collect();
                assert_eq!((words(&known), next), (all, TTL_MIN), "{part} of {of}, round {round}");
            }
            (0..200).for_each(|_| _ = look(&mut known, of - 1));
            assert_eq!(words(&known).len(), usize::from(of) - 1, "{part} of {of}: the last one is gone");
        }
    }

    #[test]
    fn servers_that_disagree_for_a_while_are_two_halves_of_one_truth() {
        let mut known = Known::default();
        let mut take = |step: u64, addresses: &[u8]| {
            known.take(&answer(addresses, 0), TIMES, Millis(step * 1_000));
            words(&known)
        };
        take(0, &[1, 2]);
        for step in 1..20 {
            assert_eq!(take(2 * step, &[2, 3]), [1, 2, 3]);
            assert_eq!(take(2 * step + 1, &[1, 2]), [1, 2, 3]);
        }
        // Both say the same at last.
        (50..59).for_each(|step| assert_eq!(take(step, &[2, 3]), [1, 2, 3]));
        assert_eq!(take(59, &[2, 3]), [-1, 2, 3]);
        (60..64).for_each(|step| assert_eq!(take(step, &[2, 3]), [-1, 2, 3]));
        assert_eq!(take(64, &[3]), [-1, 2, 3]);
        assert_eq!(take(65, &[3]), [-1, -2, 3], "two answers are enough again");
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
                let words = words(&known);
                prop_assert_eq!(words.len(), left_out.len());
                for (word, (last, count)) in words.iter().zip(&left_out) {
                    prop_assert_eq!(word.abs(), i32::from(*last));
                    // One that comes back as another goes may be part of a rotation.
                    prop_assert!(*count >= 2 || *word >= 0, "{} drains", last);
                    prop_assert!(*count < ROTATION_ABSENCES.1 || *word <= 0, "{} stays", last);
                }
            }
        }
    }
}
