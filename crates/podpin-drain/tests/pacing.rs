//! Laws of drain pacing, for every number of streams, time, budget, and whatever clients do meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

use std::time::Duration;

use podpin_drain::{BudgetLimits, BudgetUse, DrainSchedule, InFlight, Pacer};
use podpin_time::Millis;
use proptest::prelude::*;

/// How often the proxy takes a turn.
const TURN_MILLIS: u64 = 50;
const TURN: Duration = Duration::from_millis(TURN_MILLIS);

#[derive(Clone, Debug)]
struct Group {
    begins: u64,
    spread: u64,
    /// After the beginning.
    deadline: u64,
    streams: u32,
}

impl Group {
    fn departure(&self) -> DrainSchedule {
        let (begins, deadline) = (Millis(self.begins), Millis(self.begins + self.deadline));
        let mut departure =
            DrainSchedule::new(begins, Duration::from_millis(self.spread), deadline, BudgetUse::Charged);
        departure.remaining = self.streams;
        departure
    }
}

fn group() -> impl Strategy<Value = Group> {
    (0..5_000_u64, 0..30_000_u64, 0..40_000_u64, 0..3_000_u32)
        .prop_map(|(begins, spread, deadline, streams)| Group { begins, spread, deadline, streams })
}

fn limits() -> impl Strategy<Value = BudgetLimits> {
    let (per_second, percent) = (prop::option::of(1..500_u32), prop::option::of(1..=100_u32));
    (per_second, percent).prop_map(|(per_second, percent)| BudgetLimits { per_second, percent })
}

fn in_flight(streams: u32, away: u32) -> InFlight {
    InFlight { streams, away, absence: Duration::from_secs(5) }
}

proptest! {
    /// By any moment as many have left as the line says, give or take one and what one turn decides ahead.
    #[test]
    fn departures_follow_the_line(streams in 1..5_000_u32, spread in 1_000..60_000_u64) {
        let mut departure =
            DrainSchedule::new(Millis(0), Duration::from_millis(spread), Millis(spread * 2), BudgetUse::Charged);
        departure.remaining = streams;
        let mut pacer = Pacer::default();
        let mut gone = 0_u64;
        for now in (0..spread).step_by(usize::try_from(TURN_MILLIS).unwrap()) {
            prop_assert_eq!(pacer.turn(&mut [&mut departure], in_flight(streams, 0), Millis(now), TURN), 0);
            departure.remaining -= departure.due;
            gone += u64::from(departure.due);
            let until = (now + TURN_MILLIS).min(spread);
            let line = u64::from(streams) * until / spread;
            prop_assert!(gone.abs_diff(line) <= 1, "{gone} of {streams} after {until} of {spread} ms, line {line}");
        }
        prop_assert_eq!(departure.remaining, 0);
    }

    /// No budget, no crowd of drains and no client that leaves or joins keeps a stream beyond its deadline.
    #[test]
    fn all_have_left_by_their_deadline(
        groups in prop::collection::vec(group(), 1..5),
        limits in limits(),
        joins in prop::collection::vec(0..20_u32, 0..200),
        leaves in prop::collection::vec(0..20_u32, 0..200),
        away in 0..5_000_u32,
    ) {
        let mut pacer = Pacer::new(limits);
        let mut departures: Vec<DrainSchedule> = groups.iter().map(Group::departure).collect();
        let end = departures.iter().map(DrainSchedule::deadline).max().unwrap();
        let (mut now, mut turn) = (Millis(0), 0);
        while now < end {
            for departure in departures.iter_mut().filter(|one| now < one.deadline()) {
                departure.remaining = departure.remaining.saturating_sub(*leaves.get(turn).unwrap_or(&0));
                departure.remaining += *joins.get(turn).unwrap_or(&0);
            }
            let streams = departures.iter().map(|one| one.remaining).sum();
            let mut all: Vec<&mut DrainSchedule> = departures.iter_mut().collect();
            pacer.turn(&mut all, in_flight(streams, away), now, TURN);
            for departure in &mut departures {
                prop_assert!(departure.due <= departure.remaining);
                let over = departure.deadline() <= now.after(TURN);
                let early = now.after(TURN) <= departure.begins();
                prop_assert!(!early || departure.due == 0 || over || limits != BudgetLimits::default());
                departure.remaining -= departure.due;
                prop_assert!(!over || departure.remaining == 0, "{departure:?} at {now:?}");
            }
            now = now.after(TURN);
            turn += 1;
        }
    }

    /// A rate that leaves enough time is kept in every second, and nothing is counted as exceeded.
    #[test]
    fn a_budget_is_kept_when_it_can_be(
        rate in 1..500_u32,
        spread in 0..30_000_u64,
        seconds in 1..40_u64,
        share in 0.0..1.0_f64,
    ) {
        let most = f64::from(rate) * f64::from(u32::try_from(seconds).unwrap());
        // One less than fits: the last part of a stream may be short of being whole.
        let streams = num(most * share).saturating_sub(1);
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(rate), percent: None });
        let deadline = Millis(seconds * 1_000);
        let mut departure =
            DrainSchedule::new(Millis(0), Duration::from_millis(spread), deadline, BudgetUse::Charged);
        departure.remaining = streams;
        let mut dues = Vec::new();
        for now in (0..deadline.0).step_by(usize::try_from(TURN_MILLIS).unwrap()) {
            let exceeded = pacer.turn(&mut [&mut departure], in_flight(streams, 0), Millis(now), TURN);
            prop_assert_eq!(exceeded, 0, "at {} with {:?} left", now, departure);
            departure.remaining -= departure.due;
            dues.push(departure.due);
        }
        prop_assert_eq!(departure.remaining, 0);
        for second in dues.windows(20) {
            prop_assert!(second.iter().sum::<u32>() <= rate + 1, "{dues:?}");
        }
    }

    /// A budget that cannot be kept is exceeded by no more than it has to be: what leaves beyond it is what would not
    /// have fitted, and it does not come in a crowd.
    #[test]
    fn an_impossible_budget_is_exceeded_evenly(
        rate in 1..200_u32,
        seconds in 2..40_u64,
        excess in 1..2_000_u32,
    ) {
        let fits = rate * u32::try_from(seconds).unwrap();
        let streams = fits + excess;
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(rate), percent: None });
        let mut departure =
            DrainSchedule::new(Millis(0), Duration::ZERO, Millis(seconds * 1_000), BudgetUse::Charged);
        departure.remaining = streams;
        let (mut exceeded, mut most) = (0, 0);
        for now in (0..seconds * 1_000).step_by(usize::try_from(TURN_MILLIS).unwrap()) {
            exceeded += pacer.turn(&mut [&mut departure], in_flight(streams, 0), Millis(now), TURN);
            departure.remaining -= departure.due;
            most = most.max(departure.due);
        }
        prop_assert_eq!(departure.remaining, 0);
        let turns = u32::try_from(seconds * 1_000 / TURN_MILLIS).unwrap();
        prop_assert!(exceeded >= excess && exceeded <= excess + turns, "{exceeded} for {excess}");
        prop_assert!(most <= streams.div_ceil(turns) + 2, "{most} at once of {streams}");
    }

    /// Clients that are away and those that are told to go are never more than the share, while there is time.
    #[test]
    fn a_share_is_kept(percent in 1..=100_u32, streams in 1..2_000_u32, back in 1..30_u32) {
        let mut pacer = Pacer::new(BudgetLimits { per_second: None, percent: Some(percent) });
        // A deadline that no share is too small for.
        let mut departure =
            DrainSchedule::new(Millis(0), Duration::from_secs(1), Millis(1 << 40), BudgetUse::Charged);
        departure.remaining = streams;
        let (mut away, mut back_again) = (0_u32, 0_u32);
        for turn in 0..2_000_u64 {
            let returned = back.min(away);
            away -= returned;
            back_again += returned;
            let clients = departure.remaining + back_again;
            let now = Millis(turn * TURN_MILLIS);
            let exceeded = pacer.turn(&mut [&mut departure], in_flight(clients, away), now, TURN);
            prop_assert_eq!(exceeded, 0);
            departure.remaining -= departure.due;
            away += departure.due;
            let share = (u64::from(streams) * u64::from(percent) / 100).max(1);
            prop_assert!(u64::from(away) <= share, "{away} of {streams} are away");
        }
        prop_assert!(departure.remaining == 0, "{departure:?}");
    }
}

fn num(value: f64) -> u32 {
    format!("{value:.0}").parse().unwrap()
}
