//! Streams that begin, move and end on several threads while their endpoints begin and stop to drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use podpin_config::Pinned;
use podpin_drain::{DrainMember, DrainPolicy, DrainRegistry, EndKind, Fact, StreamEnd};
use podpin_endpoints::{Condition, DrainTimes, Phase, Update};
use podpin_time::Millis;

use crate::world::{Opener, World, id, moment, observed};

const THREADS: usize = 4;
const STREAMS: usize = 2_000;

/// Worker that opens streams and ends or moves each at once, or when it is asked to leave.
fn work(opener: &Opener, registry: &DrainRegistry<crate::world::Stream>, seed: usize) {
    let end = |kind| StreamEnd { kind, is_awaited: false };
    for number in 0..STREAMS {
        let choice = (number * 7 + seed) % 5;
        let Some(stream) = opener.open(choice % 2) else { continue };
        match choice {
            0 => drop(registry.close(&stream, end(EndKind::Left), Millis(2_000))),
            1 | 2 => {
                let from = stream.endpoint().id;
                if let Some(endpoint) = opener.endpoint(1 - choice % 2) {
                    stream.move_to(endpoint);
                    registry.moved(&stream, from, Millis(2_000));
                }
                registry.close(&stream, end(EndKind::Broken), Millis(2_000));
            }
            _ => {
                if moment(&stream).is_some() {
                    _ = stream.order(registry);
                }
                registry.close(&stream, end(EndKind::Graceful), Millis(2_000));
            }
        }
    }
}

#[test]
fn no_stream_is_missed_or_counted_twice_whoever_comes_first() {
    let times = DrainTimes { spread: Duration::ZERO, timeout: Duration::ZERO, margin: Duration::ZERO };
    let policy = DrainPolicy { times, pinned: Pinned::Repin, ..DrainPolicy::default() };
    let mut world = World::new(policy, 2);
    let (opener, is_done) = (world.opener(), AtomicBool::new(false));
    let mut facts = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (opener, registry) = (&opener, Arc::clone(&world.registry));
                scope.spawn(move || work(opener, &registry, seed))
            })
            .collect();
        scope.spawn(|| {
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            is_done.store(true, Ordering::SeqCst);
        });
        let mut number = 0_u64;
        while !is_done.load(Ordering::SeqCst) {
            number += 1;
            world.now = Millis(1_000 + number * 50);
            let drains = !number.is_multiple_of(3);
            let condition = if drains { Condition::Draining { serving: true } } else { Condition::Ready };
            world.update(Update::Upsert(vec![observed(number as usize % 2, condition)]));
            facts.extend(world.turn_once());
        }
    });
    // A stream that is still open when its endpoint drains is found, whichever of the two came first.
    let stream = opener.open(0).unwrap();
    world.drain(0);
    assert_eq!(stream.endpoint_phase(), Phase::Draining);
    world.now = Millis(world.now.0 + 100);
    for _ in 0..3 {
        world.now = Millis(world.now.0 + 50);
        facts.extend(world.turn_once());
    }
    assert!(moment(&stream).is_some());
    world.registry.close(&stream, StreamEnd { kind: EndKind::Graceful, is_awaited: false }, world.now);
    facts.extend(world.turn_once());
    for fact in &facts {
        if let Fact::Finished { report, .. } = fact {
            assert!(report.streams == report.ended() && report.streams > 0, "{report:?}");
        }
    }
    assert!(facts.iter().any(|fact| matches!(fact, Fact::Finished { .. })));
    assert_eq!((world.inbox.open_streams(), world.inbox.leaving_streams()), (0, 0));
    assert_eq!((world.registry.count(), world.snapshot().get(&id(0)).is_some()), (0, true));
}
