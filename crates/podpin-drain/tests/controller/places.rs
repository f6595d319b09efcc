//! Scenes of departures while the endpoints that are ready have few places or none.

use std::sync::Arc;

use podpin_drain::{DrainMember, DrainPolicy, DrainState, EndKind};

use crate::scenes::{open, states};
use crate::world::{OPENING, Opening, Stream, World};

#[test]
fn while_all_ready_endpoints_are_full_departures_wait_for_places() {
    let limited = DrainPolicy { streams_per_endpoint: Some(100), ..DrainPolicy::default() };
    let mut world = World::new(limited, 3);
    let mut others = open(&mut world, 1, 100);
    others.extend(open(&mut world, 2, 100));
    let streams = open(&mut world, 0, 40);
    world.drain(0);
    world.run_for(6_000);
    assert_eq!(states(&streams, DrainState::Queued), 40, "no stream has a place anywhere");
    others.drain(..60).for_each(|stream| world.close(&stream, EndKind::Left));
    world.run_for(10_250);
    let left = states(&streams, DrainState::Ended);
    assert!((19..=21).contains(&left), "half of the spread since there are places, and {left} have left");
}

#[test]
fn clients_on_their_way_have_the_places_that_are_left() {
    let limited = DrainPolicy { streams_per_endpoint: Some(50), ..DrainPolicy::default() };
    let mut world = World::new(limited, 2);
    open(&mut world, 1, 45);
    let streams: Vec<Arc<Stream>> = (0..40_u8)
        .map(|number| world.open(0, Opening { session: Some([number; 16]), ..OPENING }).unwrap())
        .collect();
    let began = world.now;
    world.drain(0);
    for _ in 0..180 {
        world.run_for(50);
        assert!(world.inbox.reconnects().away() <= 5, "more clients than places");
    }
    assert_eq!(states(&streams, DrainState::Ended), 5);
    for stream in streams.iter().filter(|one| one.drain.state() == DrainState::Ended) {
        world.open(1, Opening { session: stream.session(), ..OPENING });
    }
    world.run_for(900);
    assert_eq!(states(&streams, DrainState::Ended), 5, "all places are taken");
    world.run_for(30_000 - world.now.since(began).as_millis() as u64);
    assert_eq!(states(&streams, DrainState::Ended), 40, "by the deadline");
}
