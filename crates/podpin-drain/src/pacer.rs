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
//! All schedules of one service share one [`Pacer`], since what hurts a service is the sum.

use std::time::Duration;

use podpin_time::Millis;

/// Fixed point: parts of one stream. What is rounded off in a turn is below a 65,536th of a stream, so that it takes
/// 65,536 turns to be wrong by one; the last turn takes all that is left anyway.
const WHOLE: u64 = 1 << 16;

/// Disconnect in the budget, in thousandths.
const TOKEN: i64 = 1_000;

/// Half a stream: with it the n streams of a departure leave in the middles of n equal parts of its time.
const HALF: u64 = WHOLE / 2;

/// Limits on disconnects of one service (`drain.budget`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Disconnects a second; no limit if `None`.
    pub per_second: Option<u32>,
    /// Percentage of the service's streams that may be away at a time, 1 to 100; no limit if `None`.
    pub percent: Option<u32>,
}

/// Clients of a service that are connected, and clients that are between two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Streams that are open.
    pub streams: u32,
    /// Clients that were disconnected and have not come back yet.
    pub away: u32,
    /// Average time between a disconnect and the next stream; 0 counts as a millisecond.
    pub absence: Duration,
}

/// Times and counts of one group of streams that leave together: the streams of one endpoint, or all of a service at the
/// proxy's shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainSchedule {
    begins: Millis,
    ends: Millis,
    deadline: Millis,
    budget_use: BudgetUse,
    /// Parts of a stream that are due and do not make a whole one yet.
    carry: u64,
    /// Streams that are open and have no moment yet; the caller sets this before each turn.
    pub remaining: u32,
    /// Streams of `remaining` that get their moment in this turn.
    pub due: u32,
}

/// Effect of a group on `drain.budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetUse {
    /// Each departure is a disconnect.
    Charged,
    /// Departures are handovers and disconnect no client; only the pace limits them.
    Free,
}

impl DrainSchedule {
    /// Creates a schedule that is even from `begins` over `spread`, and over at `deadline` whatever happens.
    #[must_use]
    pub fn new(begins: Millis, spread: Duration, deadline: Millis, budget_use: BudgetUse) -> DrainSchedule {
        let ends = begins.after(spread).min(deadline);
        DrainSchedule { begins, ends, deadline, budget_use, carry: HALF, remaining: 0, due: 0 }
    }

    /// Returns the same schedule at another phase, from 0 to 999: the part of a stream that is due at the beginning. Replicas whose
    /// drains begin together do not send their first streams away together.
    #[must_use]
    pub fn at_phase(self, phase: u64) -> DrainSchedule {
        DrainSchedule { carry: phase * WHOLE / 1_000, ..self }
    }

    /// Returns the same schedule for departures that disconnect.
    #[must_use]
    pub fn charged(self) -> DrainSchedule {
        DrainSchedule { budget_use: BudgetUse::Charged, ..self }
    }

    /// Returns the effect of the departures on the budget.
    #[must_use]
    pub fn budget_use(&self) -> BudgetUse {
        self.budget_use
    }

    /// Returns the moment from which streams leave.
    #[must_use]
    pub fn begins(&self) -> Millis {
        self.begins
    }

    /// Returns the end of an even departure.
    #[must_use]
    pub fn ends(&self) -> Millis {
        self.ends
    }

    /// Returns the moment by which all streams have left.
    #[must_use]
    pub fn deadline(&self) -> Millis {
        self.deadline
    }

    /// Replaces the times, for instance when the deadline becomes known; remaining streams follow the new ones.
    pub fn reschedule(&mut self, begins: Millis, spread: Duration, deadline: Millis) {
        self.begins = begins;
        self.ends = begins.after(spread).min(deadline);
        self.deadline = deadline;
    }

    /// Returns how many streams an even pace lets go in `now..now + horizon`.
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

    /// Carries streams that the budget held back over to the next turn.
    fn put_back(&mut self, count: u32) {
        self.carry += u64::from(count) * WHOLE;
    }
}

/// Returns `count * time / of` in parts of a stream.
fn parts(count: u32, time: u64, of: u64) -> u64 {
    let exact = u128::from(count) * u128::from(WHOLE) * u128::from(time) / u128::from(of.max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// Circumstances of one turn of the pacer.
#[derive(Clone, Copy, Debug)]
struct PacerTurn {
    now: Millis,
    horizon: Duration,
    in_flight: InFlight,
    /// Streams that the budget lets go in this turn.
    limit: u32,
}

/// Budget of one service, and how much of it is spent.
#[derive(Clone, Debug, Default)]
pub struct Pacer {
    limits: BudgetLimits,
    /// Thousandths of a stream that the budget lets go, so that a rate times milliseconds is exact; negative after a charge.
    tokens: i64,
}

impl Pacer {
    /// Creates a pacer whose budget is unspent.
    #[must_use]
    pub fn new(limits: BudgetLimits) -> Pacer {
        Pacer { limits, tokens: 0 }
    }

    /// Sets `due` of each schedule for the time `now..now + horizon`, the earliest deadline first. Returns how many of the
    /// departures exceed the budget, because they could not happen in time otherwise.
    pub fn turn(
        &mut self,
        schedules: &mut [&mut DrainSchedule],
        in_flight: InFlight,
        now: Millis,
        horizon: Duration,
    ) -> u32 {
        let limit = self.refill(in_flight, horizon);
        let turn = PacerTurn { now, horizon, in_flight, limit };
        schedules.sort_by_key(|schedule| schedule.deadline);
        let (mut granted, mut exceeded) = (0_u32, 0_u32);
        // Streams that must leave by the deadline at hand or an earlier one, and those of them that leave now.
        let (mut together, mut leaving) = (0_u64, 0_u64);
        for schedule in schedules {
            let wanted = schedule.wanted(now, horizon);
            if schedule.budget_use == BudgetUse::Free {
                schedule.due = wanted;
                continue;
            }
            let free = limit.saturating_sub(granted);
            let within = wanted.min(free);
            together += u64::from(schedule.remaining);
            let needed = self.needed(together, schedule.deadline, turn);
            let missing = needed.saturating_sub(leaving + u64::from(within));
            let missing = u32::try_from(missing).unwrap_or(u32::MAX).min(schedule.remaining - within);
            schedule.due = within + missing;
            schedule.put_back(wanted.saturating_sub(schedule.due));
            granted = granted.saturating_add(schedule.due);
            exceeded += missing.saturating_sub(free - within);
            leaving += u64::from(schedule.due);
        }
        // The excess is not paid back: it would only make the next ones exceed, too.
        self.charge(granted - exceeded);
        exceeded
    }

    /// Charges `count` disconnects that were decided elsewhere to the budget; later turns make up for a second's worth at
    /// most.
    pub fn charge(&mut self, count: u32) {
        if let Some(rate) = self.limits.per_second {
            let debt_max = i64::from(rate) * TOKEN;
            self.tokens = (self.tokens - i64::from(count) * TOKEN).max(-debt_max);
        }
    }

    /// Returns how many streams the budget lets go in this turn.
    fn refill(&mut self, in_flight: InFlight, horizon: Duration) -> u32 {
        let by_rate = self.limits.per_second.map(|rate| {
            let time = i64::try_from(millis(horizon)).unwrap_or(i64::MAX);
            let income = i64::from(rate).saturating_mul(time);
            // No saving up: what one quiet turn did not use is not for the next, beyond the part of a stream.
            self.tokens = self.tokens.min(TOKEN - 1).saturating_add(income);
            u32::try_from(self.tokens / TOKEN).unwrap_or(0)
        });
        let by_share = self.share(in_flight).map(|share| share.saturating_sub(in_flight.away));
        by_rate.unwrap_or(u32::MAX).min(by_share.unwrap_or(u32::MAX))
    }

    /// Returns how many clients may be away at a time: at least one, or no stream would ever leave. No limit if `None`.
    fn share(&self, in_flight: InFlight) -> Option<u32> {
        let percent = u64::from(self.limits.percent?);
        let clients = u64::from(in_flight.streams) + u64::from(in_flight.away);
        Some(u32::try_from(clients * percent / 100).unwrap_or(u32::MAX).max(1))
    }

    /// Returns how many of `count` streams must leave now so that all have left by `deadline`; 0 while the budget suffices.
    fn needed(&self, count: u64, deadline: Millis, turn: PacerTurn) -> u64 {
        let PacerTurn { now, horizon, in_flight, limit } = turn;
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
        let share = self.share(in_flight).map(|share| {
            let returns = u64::from(share) * later / millis(in_flight.absence).max(1);
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

    fn calm(streams: u32) -> InFlight {
        InFlight { streams, away: 0, absence: seconds(5) }
    }

    /// Streams that leave in each turn until all have left, and how many of them exceed the budget.
    fn run(pacer: &mut Pacer, departure: &mut DrainSchedule, count: u32) -> (Vec<u32>, u32) {
        let (mut turns, mut exceeded, mut now) = (Vec::new(), 0, Millis(0));
        departure.remaining = count;
        while departure.remaining > 0 {
            let in_flight = calm(departure.remaining);
            exceeded += pacer.turn(&mut [departure], in_flight, now, TURN);
            departure.remaining -= departure.due;
            turns.push(departure.due);
            now = now.after(TURN);
        }
        (turns, exceeded)
    }

    #[test]
    fn a_thousand_streams_leave_in_twenty_equal_seconds() {
        let mut departure = DrainSchedule::new(Millis(0), seconds(20), Millis(30_000), BudgetUse::Charged);
        let (turns, exceeded) = run(&mut Pacer::default(), &mut departure, 1_000);
        assert_eq!((turns.len(), exceeded), (400, 0));
        for second in turns.chunks(20) {
            assert!((49..=51).contains(&second.iter().sum::<u32>()), "{turns:?}");
        }
    }

    #[test]
    fn a_lone_stream_leaves_in_the_middle() {
        let mut departure = DrainSchedule::new(Millis(0), seconds(20), Millis(30_000), BudgetUse::Charged);
        let (turns, _) = run(&mut Pacer::default(), &mut departure, 1);
        assert!((100..=200).contains(&turns.len()), "left in turn {}", turns.len());
    }

    #[test]
    fn no_spread_means_at_once_and_a_deadline_that_has_passed_too() {
        for (spread, deadline) in [(0, 30_000), (20, 0)] {
            let mut departure =
                DrainSchedule::new(Millis(0), seconds(spread), Millis(deadline), BudgetUse::Charged);
            assert_eq!(run(&mut Pacer::default(), &mut departure, 1_000).0, [1_000]);
        }
    }

    #[test]
    fn nobody_leaves_before_the_beginning() {
        let mut departure =
            DrainSchedule::new(Millis(10_000), seconds(1), Millis(11_000), BudgetUse::Charged);
        let (turns, _) = run(&mut Pacer::default(), &mut departure, 100);
        assert_eq!(turns[..200].iter().sum::<u32>(), 0);
        assert_eq!(turns.len(), 220);
    }

    #[test]
    fn a_budget_that_can_be_kept_is_kept_beyond_the_spread() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(40), percent: None });
        let mut departure = DrainSchedule::new(Millis(0), seconds(20), Millis(30_000), BudgetUse::Charged);
        let (turns, exceeded) = run(&mut pacer, &mut departure, 1_000);
        assert_eq!(exceeded, 0);
        assert_eq!(turns.len(), 500, "25 s at 40 a second");
        assert!(turns.iter().all(|due| *due == 2), "{turns:?}");
    }

    #[test]
    fn a_budget_that_cannot_be_kept_is_exceeded_evenly_and_the_excess_is_counted() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(20), percent: None });
        let mut departure = DrainSchedule::new(Millis(0), seconds(20), Millis(30_000), BudgetUse::Charged);
        let (turns, exceeded) = run(&mut pacer, &mut departure, 1_000);
        assert!(turns.len() <= 600, "over at the deadline");
        assert!((380..=420).contains(&exceeded), "600 in 30 s fit, {exceeded} did not");
        assert!(turns.iter().all(|due| *due <= 3), "no crowd at the end: {turns:?}");
    }

    #[test]
    fn a_share_lets_the_next_go_when_one_is_back() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: None, percent: Some(10) });
        let mut departure = DrainSchedule::new(Millis(0), seconds(1), Millis(600_000), BudgetUse::Charged);
        departure.remaining = 100;
        let mut away = 0;
        let mut now = Millis(0);
        let mut turn = |departure: &mut DrainSchedule, away: u32| {
            let in_flight = InFlight { streams: departure.remaining, away, absence: seconds(1) };
            assert_eq!(pacer.turn(&mut [departure], in_flight, now, TURN), 0);
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
        let mut departure = DrainSchedule::new(Millis(0), seconds(10), Millis(30_000), BudgetUse::Free);
        let (turns, exceeded) = run(&mut pacer, &mut departure, 1_000);
        assert_eq!((turns.len(), exceeded), (200, 0));
    }

    #[test]
    fn the_earliest_deadline_is_served_first() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(20), percent: None });
        let mut late = DrainSchedule::new(Millis(0), seconds(0), Millis(60_000), BudgetUse::Charged);
        let mut early = DrainSchedule::new(Millis(0), seconds(0), Millis(6_000), BudgetUse::Charged);
        (late.remaining, early.remaining) = (100, 100);
        assert_eq!(pacer.turn(&mut [&mut late, &mut early], calm(200), Millis(0), TURN), 0);
        assert_eq!((late.due, early.due), (0, 1));
    }

    #[test]
    fn what_was_decided_elsewhere_is_paid_later() {
        let mut pacer = Pacer::new(BudgetLimits { per_second: Some(20), percent: None });
        pacer.charge(2);
        let mut departure = DrainSchedule::new(Millis(0), seconds(0), Millis(60_000), BudgetUse::Charged);
        let (turns, _) = run(&mut pacer, &mut departure, 3);
        assert_eq!(turns, [0, 0, 1, 1, 1]);
    }
}
