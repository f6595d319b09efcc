//! The cost of framing: `cargo run --release -p podpin-sse --example throughput`.
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use podpin_sse::Framer;

const EVENT_BYTES: usize = 120;
const BURST_EVENTS: usize = 500;

fn main() {
    let event = format!("id: 1234567\ndata: {:x<1$}\n\n", "", EVENT_BYTES - 20);
    assert_eq!(event.len(), EVENT_BYTES);
    let line = format!("data: {:x<1$}\n\n", "", EVENT_BYTES * BURST_EVENTS);

    // Ids that differ, as those of a stream that may be handed over do; more of them than a cursor remembers.
    let numbered: Vec<_> =
        (0..BURST_EVENTS).map(|id| event.replace("1234567", &format!("{id:07}"))).collect();
    let one_by_one: Vec<_> = numbered.iter().map(String::as_str).collect();
    let halves: Vec<_> = one_by_one.iter().flat_map(|event| [&event[..60], &event[60..]]).collect();
    let numbered_burst = numbered.concat();

    for (name, framer) in
        [("", Framer::new as fn(usize) -> Framer), (", cursor", |bytes| Framer::with_cursor(bytes, 64))]
    {
        measure(&format!("one event a push{name}"), framer, &one_by_one, BURST_EVENTS);
        measure(&format!("an event in two pushes{name}"), framer, &halves, BURST_EVENTS);
        measure(&format!("a burst of events a push{name}"), framer, &[&numbered_burst], BURST_EVENTS);
    }
    measure("one long line a push", Framer::new, &[&line], 1);
}

/// Pushes `pieces` over and over for a second and prints the time for each event, and the bytes in a second.
fn measure(name: &str, framer: fn(usize) -> Framer, pieces: &[&str], events: usize) {
    let mut framer = framer(1 << 20);
    let mut out = Vec::new();
    let (start, mut rounds, mut seen) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..100 {
            out.clear();
            for piece in pieces {
                seen += framer.push(black_box(piece.as_bytes()), &mut out).events as usize;
            }
            black_box(&out);
        }
        rounds += 100;
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(seen, rounds * events, "{name}");
    let bytes = rounds * pieces.iter().map(|piece| piece.len()).sum::<usize>();
    println!(
        "{name:32} {:>8.1} ns an event, {:>8.0} MB/s",
        seconds * 1e9 / seen as f64,
        bytes as f64 / seconds / 1e6
    );
}
