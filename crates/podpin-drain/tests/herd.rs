//! The arrival curve of 5,000 clients that lose their streams at one moment, with and without `sse.reconnect`.
//!
//! Printed with `--nocapture`: clients served, and told to come later, in each second.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]
#![expect(clippy::print_stdout, reason = "the curve is the result")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use podpin_drain::{Comer, Herd, RetryBounds};
use podpin_time::Millis;

const CLIENTS: u64 = 5_000;
const RATE: u32 = 500;
/// A drawn time of `sse.retry.normal`, by which the clients of a replica that died come back.
const NORMAL: u64 = 3_000;

/// Clients that were served and told to come later, by the second.
#[derive(Default)]
struct Curve {
    served: Vec<u32>,
    told: Vec<u32>,
}

fn seeded(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    }
}

fn count(curve: &mut Vec<u32>, at: u64) {
    let second = usize::try_from(at / 1_000).unwrap();
    curve.resize(curve.len().max(second + 1), 0);
    curve[second] += 1;
}

/// Lets clients come at these moments, until all are served.
fn run(arrivals: impl Iterator<Item = (u64, Comer)>, rate: Option<u32>) -> Curve {
    let (herd, mut rng, mut curve) = (Herd::default(), seeded(1), Curve::default());
    let bounds = RetryBounds { min: Duration::from_secs(1), max: Duration::from_secs(10) };
    let mut coming: BinaryHeap<_> = arrivals.map(|(at, comer)| Reverse((at, comer == Comer::New))).collect();
    while let Some(Reverse((at, is_new))) = coming.pop() {
        let comer = if is_new { Comer::New } else { Comer::Returning };
        if rate.is_none_or(|rate| herd.admit(comer, rate, Millis(at))) {
            count(&mut curve.served, at);
            continue;
        }
        count(&mut curve.told, at);
        let after = herd.draw(bounds, rate, 0, Millis(at), &mut rng);
        coming.push(Reverse((at + u64::try_from(after.as_millis()).unwrap(), is_new)));
    }
    curve
}

fn report(name: &str, curve: &Curve) {
    println!("{name}\n  served {:?}\n  told   {:?}", curve.served, curve.told);
}

#[test]
fn the_clients_of_a_replica_that_died_are_served_at_the_rate() {
    let mut rng = seeded(2);
    let come = || (0..CLIENTS).map(|_| NORMAL * 4 / 5).zip(0..);
    let mut moments: Vec<(u64, Comer)> =
        come().map(|(least, _): (u64, u64)| (least + rng(NORMAL * 2 / 5), Comer::Returning)).collect();
    moments.sort_unstable_by_key(|(at, _)| *at);
    let before = run(moments.iter().copied(), None);
    report("without a rate", &before);
    let curve = run(moments.into_iter(), Some(RATE));
    report("500 a second", &curve);
    assert!(before.served.iter().any(|count| *count > 2_000), "a crowd");
    let most = curve.served.iter().max().unwrap();
    assert!(*most <= 2 * RATE, "one second's places are there at the beginning: {:?}", curve.served);
    assert!(curve.served.iter().skip(4).all(|count| *count <= RATE + RATE / 10), "{:?}", curve.served);
    assert_eq!(curve.served.iter().sum::<u32>(), 5_000);
    assert!((11..=18).contains(&curve.served.len()), "5,000 need ten seconds: {:?}", curve.served);
    let told: u32 = curve.told.iter().sum();
    assert!(told <= 2 * 5_000, "a client is told once, or twice: {told}");
}

#[test]
fn new_clients_come_after_those_that_return() {
    let returning = (0..2_000).map(|number| (number, Comer::Returning));
    let new = (0..100).map(|number| (1_000 + 10 * number, Comer::New));
    let curve = run(returning.chain(new), Some(200));
    report("200 a second, new clients among them", &curve);
    assert_eq!(curve.served.iter().sum::<u32>(), 2_100);
    assert!(curve.served.iter().skip(2).all(|count| *count <= 220), "{:?}", curve.served);
}
