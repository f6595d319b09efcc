//! Drain pacing: how many streams leave now, so that they leave evenly, within a budget, and all before a deadline.
//!
//! ```text
//! streams that stay
//!   ^
//! N |\__                      begins .. ends: the line of an even departure
//!   |   \__ . . .             the budget may hold it back (dots) ..
//!   |      \__    . . .
//!   |         \__       . .   .. until what is left could not leave in time at the budget's rate:
//!   |            \__       \  then it leaves evenly up to the deadline, and the excess is counted
//! 0 +---------------+-------+---> time
//!   begins        ends   deadline
//! ```
//!
//! The caller takes a turn every few milliseconds. A turn decides for the time up to the next one (the horizon), so
//! that departures can be laid out within it, and looks only at what is still there: clients that leave by themselves
//! or join late change the slope, never the end. Whole numbers only; nothing here reads a clock.
//!
//! All departures of one service share one [`Pacer`], since what hurts a service is the sum.

use std::time::Duration;

use podpin_time::Millis;

/// Fixed point: parts of one stream. What is rounded off in a turn is below a 65,536th of a stream, so that it takes
/// 65,536 turns to be wrong by one; the last turn takes all that is left anyway.
const WHOLE: u64 = 1 << 16;

/// One disconnect in the budget.
const TOKEN: i64 = 1_000;

/// Half a stream: with it the n streams of a departure leave in the middles of n equal parts of its time.
const HALF: u64 = WHOLE / 2;

/// Limits on disconnects of one service (`drain.budget`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Disconnects a second; `None` = any number.
    pub per_second: Option<u32>,
    /// Share of the service's streams that may be away at a time, 1 to 100; `None` = all.
    pub percent: Option<u32>,
}

/// How the clients of a service are at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Motion {
    /// Streams open now.
    pub streams: u32,
    /// Clients that were disconnected and are not back yet.
    pub away: u32,
    /// How long a client is away on average; 0 is taken as a millisecond.
    pub absence: Duration,
}

/// Streams that have to leave together: those of one endpoint, or all of a service at the proxy's shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    begins: Millis,
    ends: Millis,
    deadline: Millis,
    purse: Purse,
    /// Parts of a stream that are due and were not whole yet.
    carry: u64,
    /// Streams that are still there and have not been told to leave; the caller sets it before each turn.
    pub remaining: u32,
    /// Of these, the ones to be told in this turn.
    pub due: u32,
}

/// Whether the budget is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purse {
    /// Every departure is a disconnect.
    Budget,
    /// Nobody is disconnected (a handover): only the pace counts.
    Free,
}

impl Departure {
    /// A departure that leaves evenly from `begins` over `spread`, and is over at `deadline` whatever happens.
    #[must_use]
    pub fn new(begins: Millis, spread: Duration, deadline: Millis, purse: Purse) -> Departure {
        let ends = begins.after(spread).min(deadline);
        Departure { begins, ends, deadline, purse, carry: HALF, remaining: 0, due: 0 }
    }

    /// No budget is asked for it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.purse == Purse::Free
    }

    /// From when on streams leave.
    #[must_use]
    pub fn begins(&self) -> Millis {
        self.begins
    }

    /// When an even departure is over.
    #[must_use]
    pub fn ends(&self) -> Millis {
        self.ends
    }

    /// By when all have left.
    #[must_use]
    pub fn deadline(&self) -> Millis {
        self.deadline
    }

    /// The deadline became known, or another one: what is left goes on towards it.
    pub fn set_deadline(&mut self, begins: Millis, spread: Duration, deadline: Millis) {
        self.begins = begins;
        self.ends = begins.after(spread).min(deadline);
        self.deadline = deadline;
    }

    /// How many an even pace would let go in `now..now + horizon`.
    fn wanted(&mut self, now: Millis, horizon: Duration) -> u32 {
        let until = now.after(horizon);
        if until <= self.begins || self.remaining == 0 {
            return 0;
        }
        if until >= self.ends {
            return self.remaining;
        }
        let from = now.max(self.begins);
        let share = parts(self.remaining, until.0 - from.0, self.ends.0 - from.0);
        let exact = self.carry + share;
        self.carry = exact % WHOLE;
        u32::try_from(exact / WHOLE).unwrap_or(u32::MAX).min(self.remaining)
    }

    /// What was wanted and not granted is wanted again in the next turn.
    fn put_back(&mut self, count: u32) {
        self.carry += u64::from(count) * WHOLE;
    }
}

/// `count * time / of` in parts of a stream.
fn parts(count: u32, time: u64, of: u64) -> u64 {
    let exact = u128::from(count) * u128::from(WHOLE) * u128::from(time) / u128::from(of.max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// The budget of one service, and what of it is spent.
#[derive(Clone, Debug, Default)]
pub struct Pacer {
    limits: BudgetLimits,
    /// Thousandths of a stream that may go, so that a rate times milliseconds is exact; negative after a charge.
    tokens: i64,
}

impl Pacer {
    /// A pacer that has spent nothing.
    #[must_use]
    pub fn new(limits: BudgetLimits) -> Pacer {
        Pacer { limits, tokens: 0 }
    }

    /// Decides `due` of every departure for the time `now..now + horizon`, the earliest deadline first. Returns how many
    /// of them exceed the budget, because they could not leave in time otherwise.
    pub fn turn(
        &mut self,
        departures: &mut [&mut Departure],
        motion: Motion,
        now: Millis,
        horizon: Duration,
    ) -> u32 {
        let limit = self.refill(motion, horizon);
        departures.sort_by_key(|departure| departure.deadline);
        let (mut granted, mut exceeded) = (0_u32, 0_u32);
        // Streams that must leave by the deadline at hand or an earlier one, and those of them that leave now.
        let (mut together, mut leaving) = (0_u64, 0_u64);
        for departure in departures {
            let wanted = departure.wanted(now, horizon);
            if departure.purse == Purse::Free {
                departure.due = wanted;
                continue;
            }
            let free = limit.saturating_sub(granted);
            let within = wanted.min(free);
            together += u64::from(departure.remaining);
            let needed = self.needed(together, departure.deadline, (now, horizon), (motion, limit));
            let missing = needed.saturating_sub(leaving + u64::from(within));
            let missing = u32::try_from(missing).unwrap_or(u32::MAX).min(departure.remaining - within);
            departure.due = within + missing;
            departure.put_back(wanted.saturating_sub(departure.due));
            granted = granted.saturating_add(departure.due);
            exceeded += missing.saturating_sub(free - within);
            leaving += u64::from(departure.due);
        }
        // The excess is not paid back: it would only make the next ones exceed, too.
        self.charge(granted - exceeded);
        exceeded
    }

    /// Takes `count` disconnects that were decided elsewhere out of the budget; later turns make up for them, for no more
    /// than a second.
    pub fn charge(&mut self, count: u32) {
        if let Some(rate) = self.limits.per_second {
            let debt_max = i64::from(rate) * TOKEN;
            self.tokens = (self.tokens - i64::from(count) * TOKEN).max(-debt_max);
        }
    }

    /// How many may go within the budget in this turn.
    fn refill(&mut self, motion: Motion, horizon: Duration) -> u32 {
        let by_rate = self.limits.per_second.map(|rate| {
            let time = i64::try_from(millis(horizon)).unwrap_or(i64::MAX);
            let income = i64::from(rate).saturating_mul(time);
            // No saving up: what one quiet turn did not use is not for the next, beyond the part of a stream.
            self.tokens = self.tokens.min(TOKEN - 1).saturating_add(income);
            u32::try_from(self.tokens / TOKEN).unwrap_or(0)
        });
        let by_share = self.share(motion).map(|share| share.saturating_sub(motion.away));
        by_rate.unwrap_or(u32::MAX).min(by_share.unwrap_or(u32::MAX))
    }

    /// How many clients may be away at a time; at least one, or nothing would ever move.
    fn share(&self, motion: Motion) -> Option<u32> {
        let percent = u64::from(self.limits.percent?);
        let clients = u64::from(motion.streams) + u64::from(motion.away);
        Some(u32::try_from(clients * percent / 100).unwrap_or(u32::MAX).max(1))
    }

    /// How many of `count` streams must leave now so that all have left by `deadline`; 0 while the budget can do it.
    fn needed(
        &self,
        count: u64,
        deadline: Millis,
        (now, horizon): (Millis, Duration),
        (motion, limit): (Motion, u32),
    ) -> u64 {
        let left = deadline.0.saturating_sub(now.0);
        let turn = millis(horizon);
        if left <= turn {
            return count;
        }
        // What the budget lets go in this turn and after it.
        let later = left - turn;
        let rate = self.limits.per_second.map(|rate| {
            let income = u64::from(rate).saturating_mul(later);
            income.saturating_add_signed(self.tokens) / TOKEN.unsigned_abs()
        });
        let share = self.share(motion).map(|share| {
            let returns = u64::from(share) * later / millis(motion.absence).max(1);
            returns.saturating_add(u64::from(limit))
        });
        if count <= rate.unwrap_or(u64::MAX).min(share.unwrap_or(u64::MAX)) {
            return 0;
        }
        (count * turn).div_ceil(left)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_millis(50);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn calm(streams: u32) -> Motion {
        Motion { streams, away: 0, absence: seconds(5) }
    }

    /// Streams that leave in each turn until all have left, and how many of them exceed the budget.
    fn run(pacer: &mut Pacer, departure: &mut Departure, count: u32) -> (Vec<u32>, u32) {
        let (mut turns, mut exceeded, mut now) = (Vec::new(), 0, Millis(0));
        departure.remaining = count;
        while departure.remaining > 0 {
            let motion = calm(departure.remaining);
            exceeded += pacer.turn(&mut [departure], motion, now, TURN);
            departure.remaining -= departure.due;
            turns.push(departure.due);
            now = now.after(TURN);
        }
        (turns, exceeded)
    }

    #[test]
    fn a_thousand_streams_leave_in_twenty_equal_seconds() {
        let mut departure = Departure::new(Millis(0), seconds(20), Millis(30_000), Purse::Budget);
        let (turns, exceeded) = run(&mut Pacer::default(), &mut departure, 1_000);
        assert_eq!((turns.len(), exceeded), (400, 0));
        for second in turns.chunks(20) {
            assert!((49..=51).contains(&second.iter().sum::<u32>()), "{turns:?}");
        }
    }

    #[test]
    fn a_lone_stream_leaves_in_the_middle() {
        let mut departure = Departure::new(Millis(0), seconds(20), Millis(30_000), Purse::Budget);
        let (turns, _) = run(&mut Pacer::default(), &mut departure, 1);
        assert!((100..=200).contains(&turns.len()), "left in turn {}", turns.len());
    }

    #[test]
    fn no_spread_means_at_once_and_a_deadline_that_has_passed_too() {
        for (spread, deadline) in [(0, 30_000), (20, 0)] {
            let mut departure = Departure::new(Millis(0), seconds(spread), Millis(deadline), Purse::Budget);
            assert_eq!(run(&mut Pacer::default(), &mut departure, 1_000).0, [1_000]);
        }
    }

    #[test]
    fn nobody_leaves_before_the_beginning() {
        let mut departure = Departure::new(Millis(10_000), seconds(1), Millis(11_000), Purse::Budget);
        let (turns, _) = run(&mut Pacer::default(), &mut departure, 100);
        assert_eq!(turns[..200].iter().sum::<u32>(), 0);
        assert_eq!(turns.len(), 220);
    }

    #[test]
    fn a_budget_that_can_be_kept_is_kept_beyond_the_spread() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(40), percent: None });
        let mut departure = Departure::new(Millis(0), seconds(20), Millis(30_000), Purse::Budget);
        let (turns, exceeded) = run(&mut pacer, &mut departure, 1_000);
        assert_eq!(exceeded, 0);
        assert_eq!(turns.len(), 500, "25 s at 40 a second");
        assert!(turns.iter().all(|due| *due == 2), "{turns:?}");
    }

    #[test]
    fn a_budget_that_cannot_be_kept_is_exceeded_evenly_and_the_excess_is_counted() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(20), percent: None });
        let mut departure = Departure::new(Millis(0), seconds(20), Millis(30_000), Purse::Budget);
        let (turns, exceeded) = run(&mut pacer, &mut departure, 1_000);
        assert!(turns.len() <= 600, "over at the deadline");
        assert!((380..=420).contains(&exceeded), "600 in 30 s fit, {exceeded} did not");
        assert!(turns.iter().all(|due| *due <= 3), "no crowd at the end: {turns:?}");
    }

    #[test]
    fn a_share_lets_the_next_go_when_one_is_back() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: None, percent: Some(10) });
        let mut departure = Departure::new(Millis(0), seconds(1), Millis(600_000), Purse::Budget);
        departure.remaining = 100;
        let mut away = 0;
        let mut now = Millis(0);
        let mut turn = |departure: &mut Departure, away: u32| {
            let motion = Motion { streams: departure.remaining, away, absence: seconds(1) };
            assert_eq!(pacer.turn(&mut [departure], motion, now, TURN), 0);
            departure.remaining -= departure.due;
            now = now.after(TURN);
            departure.due
        };
        (0..40).for_each(|_| away += turn(&mut departure, away));
        assert_eq!(away, 10, "a tenth is away, and nobody else leaves");
        assert_eq!(turn(&mut departure, away - 4), 3, "of 96 clients 9 may be away");
    }

    #[test]
    fn handovers_keep_the_pace_and_leave_the_budget_alone() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(1), percent: Some(1) });
        let mut departure = Departure::new(Millis(0), seconds(10), Millis(30_000), Purse::Free);
        let (turns, exceeded) = run(&mut pacer, &mut departure, 1_000);
        assert_eq!((turns.len(), exceeded), (200, 0));
    }

    #[test]
    fn the_earliest_deadline_is_served_first() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(20), percent: None });
        let mut late = Departure::new(Millis(0), seconds(0), Millis(60_000), Purse::Budget);
        let mut early = Departure::new(Millis(0), seconds(0), Millis(6_000), Purse::Budget);
        (late.remaining, early.remaining) = (100, 100);
        assert_eq!(pacer.turn(&mut [&mut late, &mut early], calm(200), Millis(0), TURN), 0);
        assert_eq!((late.due, early.due), (0, 1));
    }

    #[test]
    fn what_was_decided_elsewhere_is_paid_later() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(20), percent: None });
        pacer.charge(2);
        let mut departure = Departure::new(Millis(0), seconds(0), Millis(60_000), Purse::Budget);
        let (turns, _) = run(&mut pacer, &mut departure, 3);
        assert_eq!(turns, [0, 0, 1, 1, 1]);
    }
}
