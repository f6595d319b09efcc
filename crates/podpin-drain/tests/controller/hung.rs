//! Scenes of endpoints that neither are ready nor serve.

use podpin_drain::{Departure, DrainMember, DrainState};
use podpin_endpoints::Condition;

use crate::scenes::{open, policy, states};
use crate::world::{OPENING, Opening, World, id};

#[test]
fn streams_of_an_endpoint_that_neither_is_ready_nor_serves_look_for_another_place_until_they_have_one() {
    let mut world = World::new(policy(), 2);
    let streams = open(&mut world, 0, 10);
    let bound = world.open(0, Opening { departure: Departure::Goodbye, ..OPENING }).unwrap();
    world.set_condition(0, Condition::NotReady { serving: true });
    world.heirs = Some(1);
    world.run_for(20_000);
    assert_eq!(states(&streams, DrainState::Staying), 10, "it serves");
    assert!(streams.iter().all(|stream| stream.endpoint().id == id(0)));
    // No other endpoint takes them at first.
    world.heirs = None;
    world.set_condition(0, Condition::Ready);
    world.set_condition(0, Condition::NotReady { serving: false });
    world.run_for(1_000);
    assert!(streams.iter().all(|stream| stream.endpoint().id == id(0)), "they stay");
    world.heirs = Some(1);
    world.run_for(13_000);
    assert!(streams.iter().all(|stream| stream.endpoint().id == id(0)), "not yet");
    world.run_for(2_000);
    assert!(streams.iter().all(|stream| stream.endpoint().id == id(1)));
    assert_eq!(bound.endpoint().id, id(0), "a stream that cannot move is left in peace");
    assert_eq!((world.reports().len(), world.inbox.leaving_streams()), (0, 0));
}

#[test]
fn streams_of_a_hung_endpoint_stay_while_no_other_one_is_ready() {
    let mut world = World::new(policy(), 2);
    let streams = open(&mut world, 0, 5);
    world.heirs = Some(1);
    world.set_condition(1, Condition::NotReady { serving: false });
    world.set_condition(0, Condition::NotReady { serving: false });
    world.run_for(30_000);
    assert_eq!(states(&streams, DrainState::Staying), 5);
    assert!(streams.iter().all(|stream| stream.endpoint().id == id(0)));
    world.set_condition(1, Condition::Ready);
    world.run_for(1_000);
    assert!(streams.iter().all(|stream| stream.endpoint().id == id(1)), "as soon as one is");
}
