//! Flood budgets: frames that cost work and bring no request are bounded, and budgets refill with time and requests.
//!
//! A client that opens streams and resets them (CVE-2023-44487), makes this side reset them (CVE-2025-8671), or sends
//! frames that say nothing takes from a budget. Time heals each, since a proxy in front may use one connection for
//! all of its clients and for weeks; one that the operator trusts has budgets that are a multiple.

use podpin_time::Millis;

/// Resets by the client: every stream that it may have open (100), twice at once. Then 20 a second: people who
/// leave pages behind one shared connection, not a program that asks a pod for nothing. Too low shows as
/// `http2_connections_cut_total{reason="resets"}` without an attack.
const RESETS: Rate = Rate { at_once: 200, per_second: 20, requests_each: 4 };
/// Resets that the client makes this side send: requests that are malformed or break flow control. Clients that count
/// never do.
const PROVOKED: Rate = Rate { at_once: 100, per_second: 5, requests_each: 10 };
/// Frames that say nothing: browsers send a few dozen priorities for a page and a PING now and then. Streams that are
/// refused for being too many count here as well: no pod hears of them, and before our SETTINGS a client cannot know.
const IDLE: Rate = Rate { at_once: 1000, per_second: 100, requests_each: 1 };
/// Frames of bodies, of which each costs a quarter and each payload byte gives 1/128 back: those of 32 bytes and
/// more are free, and a chat that sends single bytes may do so 400 times a second.
const BODY: Rate = Rate { at_once: 1000, per_second: 100, requests_each: 1 };
const BODY_FRAME: u32 = THOUSAND / 4;
const BODY_BYTE: u32 = 8;
/// Two windows move for each frame that this side sends, and a frame with a byte in it has ten.
const BYTES_PER_WINDOW_UPDATE: u32 = 5;
/// Windows that a client may move ahead of what it is sent; beyond, its updates say nothing.
const WINDOW_UPDATES_MAX: u32 = 100_000;
/// The largest multiple for a trusted peer, so that no budget overflows.
const FACTOR_MAX: u16 = 1000;

const THOUSAND: u32 = 1000;

/// The reason why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// More resets by the client than its budget has.
    Resets,
    /// More resets by this side, provoked by the client, than its budget has.
    Provoked,
    /// More frames that say nothing, or little, than the budgets have.
    Frames,
    /// A frame or header block that was begun and not finished in time.
    Unfinished,
}

impl Excess {
    /// Returns the label of a metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Excess::Resets => "resets",
            Excess::Provoked => "provoked",
            Excess::Frames => "frames",
            Excess::Unfinished => "unfinished",
        }
    }
}

/// The trust in a peer, which scales its budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A client of its own.
    Client,
    /// A proxy that speaks for many clients: budgets this many times as large, 1,000 at most.
    Proxy(u16),
}

/// A rate: so many at once, so many a second, and one more for each so many requests.
#[derive(Clone, Copy, Debug)]
struct Rate {
    at_once: u32,
    per_second: u32,
    requests_each: u32,
}

/// The rest of each budget, in thousandths of one.
#[derive(Debug)]
pub(crate) struct Budgets {
    at: Millis,
    factor: u16,
    resets: u32,
    provoked: u32,
    idle: u32,
    body: u32,
    /// In parts of [`BYTES_PER_WINDOW_UPDATE`].
    window_updates: u32,
}

impl Budgets {
    /// Returns full budgets.
    pub(crate) fn new(trust: Trust, now: Millis) -> Budgets {
        let factor = match trust {
            Trust::Client => 1,
            Trust::Proxy(factor) => factor.clamp(1, FACTOR_MAX),
        };
        let full = |rate: Rate| rate.at_once * THOUSAND * u32::from(factor);
        Budgets {
            at: now,
            factor,
            resets: full(RESETS),
            provoked: full(PROVOKED),
            idle: full(IDLE),
            body: full(BODY),
            window_updates: 0,
        }
    }

    /// Whether the peer speaks for many clients.
    pub(crate) fn is_of_proxy(&self) -> bool {
        self.factor > 1
    }

    /// Counts a request of the client.
    pub(crate) fn earn_request(&mut self) {
        for (left, rate) in self.all() {
            grow(left, rate.0, THOUSAND / rate.0.requests_each, rate.1);
        }
        // A stream may be opened together with its window.
        self.earn_sent(2 * BYTES_PER_WINDOW_UPDATE as usize);
    }

    /// Counts bytes that the client is sent: its windows may move by them.
    pub(crate) fn earn_sent(&mut self, bytes: usize) {
        let most = WINDOW_UPDATES_MAX * BYTES_PER_WINDOW_UPDATE;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.window_updates = self.window_updates.saturating_add(bytes).min(most);
    }

    /// Charges a reset by the client.
    pub(crate) fn charge_reset(&mut self, now: Millis) -> Result<(), Excess> {
        self.heal(now);
        take(&mut self.resets, THOUSAND, Excess::Resets)
    }

    /// Charges a reset, or an error of a message, that the client provoked.
    pub(crate) fn charge_provoked(&mut self, now: Millis) -> Result<(), Excess> {
        self.heal(now);
        take(&mut self.provoked, THOUSAND, Excess::Provoked)
    }

    /// Charges a frame that says nothing.
    pub(crate) fn charge_idle(&mut self, now: Millis) -> Result<(), Excess> {
        self.heal(now);
        take(&mut self.idle, THOUSAND, Excess::Frames)
    }

    /// Charges a window update.
    pub(crate) fn charge_window_update(&mut self, now: Millis) -> Result<(), Excess> {
        match self.window_updates.checked_sub(BYTES_PER_WINDOW_UPDATE) {
            Some(left) => {
                self.window_updates = left;
                Ok(())
            }
            None => self.charge_idle(now),
        }
    }

    /// Charges a frame of a body by what it costs and brings; one without a byte says nothing.
    pub(crate) fn charge_body(&mut self, payload: u32, now: Millis) -> Result<(), Excess> {
        if payload == 0 {
            return self.charge_idle(now);
        }
        let cost = BODY_FRAME.saturating_sub(payload.saturating_mul(BODY_BYTE));
        if cost == 0 {
            return Ok(());
        }
        self.heal(now);
        take(&mut self.body, cost, Excess::Frames)
    }

    fn heal(&mut self, now: Millis) {
        let passed = u32::try_from(now.since(self.at).as_millis()).unwrap_or(u32::MAX);
        if passed > 0 {
            self.at = now;
            for (left, rate) in self.all() {
                let growth = passed.saturating_mul(rate.0.per_second).saturating_mul(rate.1);
                grow(left, rate.0, growth, rate.1);
            }
        }
    }

    /// Returns every budget with its rate and the factor.
    fn all(&mut self) -> [(&mut u32, (Rate, u32)); 4] {
        let factor = u32::from(self.factor);
        [
            (&mut self.resets, (RESETS, factor)),
            (&mut self.provoked, (PROVOKED, factor)),
            (&mut self.idle, (IDLE, factor)),
            (&mut self.body, (BODY, factor)),
        ]
    }
}

fn grow(left: &mut u32, rate: Rate, thousandths: u32, factor: u32) {
    *left = left.saturating_add(thousandths).min(rate.at_once * THOUSAND * factor);
}

fn take(left: &mut u32, thousandths: u32, excess: Excess) -> Result<(), Excess> {
    *left = left.checked_sub(thousandths).ok_or(excess)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many charges in a row, each after `pause`, are let through; at most 20,000.
    fn let_through(
        trust: Trust,
        pause: u64,
        charge: impl Fn(&mut Budgets, Millis) -> Result<(), Excess>,
    ) -> (u64, Option<Excess>) {
        let mut budgets = Budgets::new(trust, Millis(0));
        for count in 0..20_000 {
            if let Err(excess) = charge(&mut budgets, Millis(count * pause)) {
                return (count, Some(excess));
            }
        }
        (20_000, None)
    }

    #[test]
    fn each_budget_has_its_bound_heals_with_time_and_is_larger_for_a_trusted_peer() {
        type Charge = fn(&mut Budgets, Millis) -> Result<(), Excess>;
        let cases: [(Charge, u64, u64, Excess); 6] = [
            (Budgets::charge_reset, 200, 50, Excess::Resets),
            (Budgets::charge_provoked, 100, 200, Excess::Provoked),
            (Budgets::charge_idle, 1000, 10, Excess::Frames),
            (Budgets::charge_window_update, 1000, 10, Excess::Frames),
            (|budgets, now| budgets.charge_body(0, now), 1000, 10, Excess::Frames),
            (|budgets, now| budgets.charge_body(1, now), 4132, 3, Excess::Frames),
        ];
        for (place, (charge, at_once, pause, excess)) in cases.into_iter().enumerate() {
            assert_eq!(let_through(Trust::Client, 0, charge), (at_once, Some(excess)), "{place}");
            assert_eq!(let_through(Trust::Client, pause, charge), (20_000, None), "{place}");
            let (count, _) = let_through(Trust::Proxy(3), 0, charge);
            assert!((3 * at_once..=3 * at_once + 3).contains(&count), "{place}: {count}");
        }
    }

    #[test]
    fn frames_of_a_body_that_carry_something_are_free() {
        assert_eq!(
            let_through(Trust::Client, 0, |budgets, now| budgets.charge_body(32, now)),
            (20_000, None)
        );
    }

    #[test]
    fn windows_move_with_what_is_sent() {
        let mut budgets = Budgets::new(Trust::Client, Millis(0));
        for _ in 0..20_000 {
            budgets.earn_sent(10);
            budgets.charge_window_update(Millis(0)).unwrap();
            budgets.charge_window_update(Millis(0)).unwrap();
        }
        budgets.earn_sent(usize::MAX);
        let more = (0..).take_while(|_| budgets.charge_window_update(Millis(0)).is_ok()).count();
        assert_eq!(more, 101_000);
    }

    #[test]
    fn requests_earn_back_a_part() {
        let mut budgets = Budgets::new(Trust::Client, Millis(0));
        for _ in 0..5_000 {
            (0..4).for_each(|_| budgets.earn_request());
            budgets.charge_reset(Millis(0)).unwrap();
        }
        for _ in 0..5_000 {
            (0..10).for_each(|_| budgets.earn_request());
            budgets.charge_provoked(Millis(0)).unwrap();
        }
    }
}
