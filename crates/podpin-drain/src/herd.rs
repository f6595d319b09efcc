//! Clients that come back to one service, so many a second at most: `sse.reconnect.perSecond`.
//!
//! A client that is sent away is told a time to come back at. With a rate these times are booked in a calendar, a second a page:
//! a draw that meets a full page is drawn again, so that the arrivals of a crowd are even however many are sent away at once.
//! Clients that come above the rate all the same (another replica died) are told a time in turn; those that return come before
//! new ones.
//!
//! ```text
//! refusals, goodbyes, broken ends ──▶ Herd::draw ──▶ page of the calendar ──▶ `retry:`
//!                       event stream ──▶ Herd::admit ──▶ yes, or `retry:` once more
//! ```

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use podpin_time::Millis;

/// Milliseconds of a page of the calendar. Much shorter, and a page of a low rate would hold less than one client.
const PAGE_MS: u64 = 1_000;

/// Step between two draws without a rate, in 2^64ths of their range: the golden ratio, whose multiples are even over any part of
/// it, however many there are. Chance alone would give some tenth of the range twice its share now and then.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Pages of the calendar: the longest time that a client is told beyond the configured range.
const PAGES_MAX: u64 = 3_600;

/// Draws before the first page with room is taken.
const DRAWS_MAX: u64 = 4;

/// Thousandths of one client, so that a rate times milliseconds is exact.
const CLIENT: u64 = 1_000;

/// Clients whose refusals in a row are counted at a time, at about 60 bytes each. Beyond it those that may come again already are
/// forgotten.
const STREAKS_MAX: usize = 20_000;

/// Doublings of the range for a client that is refused again and again.
const DOUBLINGS_MAX: u32 = 3;

/// Longest time that doubling leads to: a service that is back should not wait longer for its clients.
const DOUBLED_MAX: Duration = Duration::from_secs(60);

/// Bounds of a time to come back at, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBounds {
    /// Shortest time.
    pub min: Duration,
    /// Longest time, at least `min`.
    pub max: Duration,
}

/// Kind of a client that begins a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comer {
    /// A client that had a stream before: it shows a token or the id of an event.
    Returning,
    /// A client that shows neither.
    New,
}

/// Name of a client whose refusals are counted: its session, or its address.
pub type ClientName = [u8; 16];

/// Clients of one service that are told when to come back.
#[derive(Debug, Default)]
pub struct Herd {
    calendar: Mutex<Calendar>,
    gate: Mutex<Gate>,
    streaks: Mutex<HashMap<ClientName, Streak>>,
    /// Place of the last draw without a rate, in 2^64ths of its range; `None` if there was none.
    drawn: Mutex<Option<u64>>,
    /// Moment of the next stream that goes on elsewhere because its endpoint died, in thousandths of a millisecond.
    next_crash: Mutex<u64>,
}

/// Clients that were told a time which has not come.
#[derive(Debug, Default)]
struct Calendar {
    /// Number of the first page, in pages since the beginning of time.
    first: u64,
    pages: VecDeque<u32>,
    booked: u64,
}

/// Clients that may begin a stream now.
#[derive(Debug, Default)]
struct Gate {
    /// Places in thousandths; `None` if no client has come.
    places: Option<u64>,
    looked: Millis,
}

/// Refusals of one client in a row.
#[derive(Clone, Copy, Debug)]
struct Streak {
    count: u32,
    /// Earliest moment at which the client may come again, as it was told.
    until: Millis,
    /// Moment at which the refusals are forgotten.
    forgotten: Millis,
}

impl Herd {
    /// Returns the time after which a client is to come back, and books it: drawn evenly from the bounds, or from as long as it takes at
    /// `per_second` until all have come that are `away` or were told a time. `rng(bound)` returns a number below `bound`, evenly.
    pub fn draw(
        &self,
        bounds: RetryBounds,
        per_second: Option<u32>,
        away: u32,
        now: Millis,
        rng: &mut dyn FnMut(u64) -> u64,
    ) -> Duration {
        let (min, max) = (millis(bounds.min), millis(bounds.max.max(bounds.min)));
        let drawn = match per_second {
            Some(rate) => self.calendar.lock().book(Request { min, max, away }, rate, now, rng),
            None => min + self.even(max - min + 1, rng),
        };
        Duration::from_millis(drawn)
    }

    /// Returns a number below `bound`; those of a row of calls are even over it.
    fn even(&self, bound: u64, rng: &mut dyn FnMut(u64) -> u64) -> u64 {
        let mut drawn = self.drawn.lock();
        let place = drawn.map_or_else(|| rng(u64::MAX), |last| last.wrapping_add(STEP));
        *drawn = Some(place);
        u64::try_from((u128::from(place) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// Returns a time as [`Herd::draw`] does, for a client that is not sent away.
    pub fn draw_unbooked(
        &self,
        bounds: RetryBounds,
        per_second: Option<u32>,
        away: u32,
        now: Millis,
        rng: &mut dyn FnMut(u64) -> u64,
    ) -> Duration {
        let (min, max) = (millis(bounds.min), millis(bounds.max.max(bounds.min)));
        let longest = per_second.map_or(max, |rate| {
            let mut calendar = self.calendar.lock();
            calendar.turn_pages(now);
            calendar.longest(Request { min, max, away }, rate)
        });
        Duration::from_millis(min + rng(longest - min + 1))
    }

    /// Returns whether a client may begin a stream now, at `per_second`. One that may not is told a time by [`Herd::draw`].
    pub fn admit(&self, comer: Comer, per_second: u32, now: Millis) -> bool {
        let mut gate = self.gate.lock();
        let all = u64::from(per_second.max(1)) * CLIENT;
        let income = now.since(gate.looked).as_millis();
        let income = u64::try_from(income).unwrap_or(u64::MAX).saturating_mul(u64::from(per_second));
        let places = gate.places.map_or(all, |places| places.saturating_add(income).min(all));
        // New clients leave half of a second's places to those that return.
        let kept = match comer {
            Comer::Returning => 0,
            Comer::New => all / 2,
        };
        let is_admitted = places >= CLIENT.saturating_add(kept).min(all);
        gate.looked = now;
        gate.places = Some(if is_admitted { places - CLIENT } else { places });
        is_admitted
    }

    /// Returns how long a stream whose endpoint died waits before it looks for another one, so that `per_second` do.
    pub fn crash_wait(&self, per_second: u32, now: Millis) -> Duration {
        let mut next = self.next_crash.lock();
        let now = now.0.saturating_mul(1_000);
        let own = (*next).max(now);
        *next = own.saturating_add(1_000_000 / u64::from(per_second.max(1)));
        Duration::from_micros(own - now)
    }

    /// Counts a refusal of a client, and returns the bounds for the time that it is told: those configured, doubled for each refusal
    /// in a row. Requests that come before the time that was told, those of other clients at one address included, are not counted.
    pub fn refused(&self, client: ClientName, bounds: RetryBounds, now: Millis) -> RetryBounds {
        let mut streaks = self.streaks.lock();
        if streaks.len() >= STREAKS_MAX && !streaks.contains_key(&client) {
            streaks.retain(|_, streak| streak.until > now);
            if streaks.len() >= STREAKS_MAX {
                return bounds;
            }
        }
        let count = match streaks.get(&client) {
            Some(streak) if now < streak.until => streak.count,
            Some(streak) if now < streak.forgotten => (streak.count + 1).min(DOUBLINGS_MAX),
            Some(_) | None => 0,
        };
        let longest = DOUBLED_MAX.max(bounds.max);
        let doubled = |time: Duration| time.saturating_mul(1 << count).min(longest);
        let told = RetryBounds { min: doubled(bounds.min), max: doubled(bounds.max) };
        let until = match streaks.get(&client) {
            Some(streak) if now < streak.until => streak.until,
            _ => now.after(told.min),
        };
        let forgotten = now.after(told.max.saturating_mul(2));
        streaks.insert(client, Streak { count, until, forgotten });
        told
    }

    /// Forgets the refusals of a client that was served.
    pub fn served(&self, client: ClientName) {
        let mut streaks = self.streaks.lock();
        if !streaks.is_empty() {
            streaks.remove(&client);
        }
    }

    /// Returns how many clients were told a time that has not come.
    pub fn booked(&self, now: Millis) -> u64 {
        let mut calendar = self.calendar.lock();
        calendar.turn_pages(now);
        calendar.booked
    }
}

/// Client that is to be told a time, with the configured bounds in milliseconds.
#[derive(Clone, Copy)]
struct Request {
    min: u64,
    max: u64,
    /// Clients that are between two streams, whether they were told a time or not.
    away: u32,
}

impl Calendar {
    /// Books a client. Returns after how many milliseconds it is to come.
    fn book(&mut self, request: Request, rate: u32, now: Millis, rng: &mut dyn FnMut(u64) -> u64) -> u64 {
        self.turn_pages(now);
        let (min, longest, room) = (request.min, self.longest(request, rate), rate.max(1));
        let mut drawn = min + rng(longest - min + 1);
        for _ in 1..DRAWS_MAX {
            if self.count(self.page(now, drawn)) < room {
                break;
            }
            drawn = min + rng(longest - min + 1);
        }
        let mut page = self.page(now, drawn);
        if self.count(page) >= room {
            // The first page with room that begins after the shortest time, or the last one.
            let earliest = self.page(now, min).saturating_add(1);
            let last = earliest.saturating_add(usize::try_from(PAGES_MAX).unwrap_or(usize::MAX));
            page = (earliest..last).find(|page| self.count(*page) < room).unwrap_or(last);
            let begins = (self.first + u64::try_from(page).unwrap_or(0)) * PAGE_MS;
            drawn = begins.saturating_sub(now.0) + rng(PAGE_MS);
        }
        if self.pages.len() <= page {
            self.pages.resize(page + 1, 0);
        }
        if let Some(count) = self.pages.get_mut(page) {
            *count = count.saturating_add(1);
            self.booked += 1;
        }
        drawn
    }

    /// Returns the longest time that a client is told.
    fn longest(&self, request: Request, rate: u32) -> u64 {
        let Request { min, max, away } = request;
        let waiting = self.booked.max(u64::from(away)).saturating_add(1);
        let needed = waiting.saturating_mul(1_000) / u64::from(rate.max(1));
        max.max(min + needed.min(PAGES_MAX * PAGE_MS))
    }

    /// Forgets the pages whose time has come.
    fn turn_pages(&mut self, now: Millis) {
        let current = now.0 / PAGE_MS;
        while self.first < current {
            let Some(count) = self.pages.pop_front() else { break };
            self.booked = self.booked.saturating_sub(u64::from(count));
            self.first += 1;
        }
        self.first = self.first.max(current);
    }

    /// Returns the place of the page for the moment `after` milliseconds from now.
    fn page(&self, now: Millis, after: u64) -> usize {
        let page = now.0.saturating_add(after) / PAGE_MS;
        usize::try_from(page.saturating_sub(self.first)).unwrap_or(usize::MAX)
    }

    fn count(&self, page: usize) -> u32 {
        self.pages.get(page).copied().unwrap_or(0)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(PAGES_MAX * 24 * PAGE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(min: u64, max: u64) -> RetryBounds {
        RetryBounds { min: Duration::from_secs(min), max: Duration::from_secs(max) }
    }

    fn seeded(mut state: u64) -> impl FnMut(u64) -> u64 {
        move |bound| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        }
    }

    #[test]
    fn no_tenth_of_the_range_has_more_than_its_share_of_a_crowd() {
        for seed in 0..100 {
            let (herd, mut rng) = (Herd::default(), seeded(seed));
            let mut tenths = [0_u32; 10];
            for _ in 0..200 {
                let drawn = herd.draw(seconds(1, 10), None, 0, Millis(0), &mut rng).as_millis();
                tenths[usize::try_from((drawn - 1_000) * 10 / 9_001).unwrap()] += 1;
            }
            assert!(tenths.iter().all(|count| (18..=22).contains(count)), "{seed}: {tenths:?}");
        }
    }

    #[test]
    fn streams_of_a_dead_endpoint_look_for_another_one_at_the_rate() {
        let herd = Herd::default();
        let waits: Vec<u128> = (0..5).map(|_| herd.crash_wait(4, Millis(1_000)).as_millis()).collect();
        assert_eq!(waits, [0, 250, 500, 750, 1_000]);
        assert_eq!(herd.crash_wait(4, Millis(2_100)).as_millis(), 150);
        assert_eq!(herd.crash_wait(4, Millis(9_000)), Duration::ZERO, "what was not used is no stock");
    }

    #[test]
    fn without_a_rate_a_time_is_drawn_from_its_bounds() {
        let (herd, mut rng) = (Herd::default(), seeded(1));
        let drawn: Vec<_> =
            (0..1_000).map(|_| herd.draw(seconds(1, 2), None, 0, Millis(0), &mut rng).as_millis()).collect();
        assert!(drawn.iter().all(|time| (1_000..=2_000).contains(time)));
        assert!(drawn.iter().any(|time| *time < 1_100) && drawn.iter().any(|time| *time > 1_900));
        assert_eq!(herd.booked(Millis(0)), 0);
    }

    #[test]
    fn however_many_are_sent_away_at_once_they_come_back_at_the_rate() {
        let (herd, mut rng) = (Herd::default(), seeded(2));
        let now = Millis(500);
        let mut arrivals = [0_u32; 60];
        for _ in 0..5_000 {
            let after = millis(herd.draw(seconds(1, 3), Some(200), 0, now, &mut rng));
            assert!(after >= 1_000);
            arrivals[usize::try_from((now.0 + after) / 1_000).unwrap()] += 1;
        }
        assert!(arrivals.iter().all(|count| *count <= 200), "{arrivals:?}");
        let last = arrivals.iter().rposition(|count| *count > 0).unwrap();
        assert!((26..=29).contains(&last), "25 s at 200 a second: {arrivals:?}");
        assert_eq!(herd.booked(Millis(10_000)), 5_000 - u64::from(arrivals[..10].iter().sum::<u32>()));
        assert_eq!(herd.booked(Millis(100_000)), 0);
    }

    #[test]
    fn clients_that_are_away_and_were_told_nothing_count() {
        let (herd, mut rng) = (Herd::default(), seeded(3));
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            longest = longest.max(herd.draw(seconds(1, 1), Some(10), 1_000, Millis(0), &mut rng));
        }
        assert!(longest > Duration::from_secs(80) && longest < Duration::from_secs(105), "{longest:?}");
    }

    #[test]
    fn so_many_are_admitted_a_second_and_those_that_return_first() {
        let herd = Herd::default();
        let admitted = |comer, moments: std::ops::Range<u64>| {
            moments.filter(|at| herd.admit(comer, 100, Millis(*at))).count()
        };
        assert_eq!(admitted(Comer::Returning, 0..1), 1);
        let burst = (0..500).filter(|_| herd.admit(Comer::Returning, 100, Millis(0))).count();
        assert_eq!(burst, 99, "a second's worth at once");
        assert_eq!(admitted(Comer::New, 1..400), 0, "returning clients come first");
        let returning = admitted(Comer::Returning, 400..2_400);
        assert!((235..=241).contains(&returning), "{returning} in two seconds");
        assert_eq!(admitted(Comer::New, 4_000..4_001), 1, "the crowd is over");
        let one = Herd::default();
        assert!(one.admit(Comer::New, 1, Millis(0)) && !one.admit(Comer::New, 1, Millis(999)));
        assert!(one.admit(Comer::New, 1, Millis(1_000)), "a rate of one admits new clients, too");
    }

    #[test]
    fn a_client_that_is_refused_again_is_told_a_longer_time() {
        let (herd, client) = (Herd::default(), [1; 16]);
        let mut now = Millis(0);
        let mut refused = |pause| {
            now = now.after(Duration::from_secs(pause));
            herd.refused(client, seconds(1, 10), now)
        };
        assert_eq!(refused(0), seconds(1, 10));
        assert_eq!(refused(0), seconds(1, 10), "another one at the same address");
        assert_eq!(refused(5), seconds(2, 20));
        assert_eq!([refused(15), refused(25), refused(40)], [seconds(4, 40), seconds(8, 60), seconds(8, 60)]);
        assert_eq!(refused(121), seconds(1, 10), "forgotten");
        refused(5);
        herd.served(client);
        assert_eq!(refused(5), seconds(1, 10));
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        let herd = Herd::default();
        for number in 0..STREAKS_MAX as u128 + 10 {
            herd.refused(number.to_be_bytes(), seconds(1, 10), Millis(0));
        }
        assert_eq!(herd.streaks.lock().len(), STREAKS_MAX);
        herd.refused([255; 16], seconds(1, 10), Millis(60_000));
        assert_eq!(herd.streaks.lock().len(), 1);
        let mut calendar = Calendar::default();
        for _ in 0..10_000 {
            calendar.book(Request { min: 1, max: 1, away: 0 }, 1, Millis(0), &mut |_| 0);
        }
        assert!(calendar.pages.len() <= usize::try_from(PAGES_MAX).unwrap() + 3);
    }
}
