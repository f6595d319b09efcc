//! The cost of a pick: nanoseconds at 10 and 10,000 endpoints, for each strategy and for a pinned client.
//!
//! `cargo run --release -p podpin-endpoints --example pick`

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use podpin_endpoints::{
    EndpointId, Observed, Pick, PickRequest, Ring, Snapshot, Strategy, Table, Update, pick,
};
use podpin_time::Millis;

const PICKS: u32 = 1_000_000;

/// The cost of the ring is the ring's own.
struct FirstOf(EndpointId);

impl Ring for FirstOf {
    fn first(&self, _: &[u8], accept: &mut dyn FnMut(&EndpointId) -> bool) -> Option<EndpointId> {
        accept(&self.0).then_some(self.0)
    }
}

fn observed(number: u32) -> Observed {
    let name = format!("pod-{number}");
    let address = SocketAddr::from((number.to_be_bytes(), 8080));
    Observed {
        weight: 1 + number % 3,
        ..Observed::ready(EndpointId::of_address(&name, address), name, address)
    }
}

/// Xorshift: fast enough not to be what is measured.
fn chance() -> impl FnMut(u64) -> u64 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((u128::from(state) * u128::from(bound)) >> 64) as u64
    }
}

fn nanoseconds(snapshot: &Snapshot, pinned: Option<EndpointId>, strategy: Strategy) -> u128 {
    let ring = FirstOf(observed(0).id);
    let mut rng = chance();
    let request = PickRequest {
        pinned,
        session: &[7; 16],
        strategy,
        stream_limit: Some(10_000),
        slow_start: Some(Duration::from_secs(30)),
        zone: None,
        keep: None,
        exclude: &[],
        now: Millis(60_000),
    };
    let start = now();
    for _ in 0..PICKS {
        let picked = pick(snapshot, &request, &ring, &mut rng);
        assert!(!matches!(std::hint::black_box(picked), Pick::Nowhere(_)));
    }
    now().duration_since(start).as_nanos() / u128::from(PICKS)
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock; the crate itself does not")]
fn now() -> Instant {
    Instant::now()
}

fn main() {
    println!(
        "{:>10} {:>14} {:>14} {:>14} {:>8} {:>8}",
        "endpoints", "leastStreams", "roundRobin", "random", "pinned", "moved"
    );
    for endpoints in [10, 10_000] {
        let mut table = Table::new();
        let list = (0..endpoints).map(observed).collect();
        let snapshot = table.apply(Update::Replace(list), Millis(0)).snapshot;
        let [least, turn, lot] = [Strategy::LeastStreams, Strategy::RoundRobin, Strategy::Random]
            .map(|strategy| nanoseconds(&snapshot, None, strategy));
        let [stay, moved] = [endpoints / 2, endpoints + 1]
            .map(|number| nanoseconds(&snapshot, Some(observed(number).id), Strategy::Random));
        println!("{endpoints:>10} {least:>11} ns {turn:>11} ns {lot:>11} ns {stay:>5} ns {moved:>5} ns");
        let start = now();
        let one = (0..100).map(|number| Observed { zone: Some("z".into()), ..observed(number) }).collect();
        table.apply(Update::Upsert(one), Millis(1));
        println!("{:>10} 100 changed endpoints applied in {:?}", "", now().duration_since(start));
    }
}
