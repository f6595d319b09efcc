//! Scenes of rebalancing: which streams move, and where they count meanwhile.

use podpin_config::Rebalance;
use podpin_drain::{BudgetUse, Cause, DrainMember, DrainPolicy, DrainState, Fact, Mobility};
use podpin_endpoints::{Condition, Observed, Update};
use podpin_time::Millis;

use crate::scenes::{open, policy, states};
use crate::world::{OPENING, Opening, World, id, observed};

#[test]
fn rebalancing_moves_streams_that_may_move_and_remembers_their_sessions() {
    let rebalance = Some(Rebalance { threshold: 1.5, budget_per_second: 100 });
    let mut world = World::new(DrainPolicy { rebalance, ..policy() }, 2);
    for number in 0..20_u8 {
        let mobility = if number < 15 { Mobility::Rebalances } else { Mobility::DrainOnly };
        world.open(0, Opening { mobility, session: Some([number; 16]), ..OPENING }).unwrap();
    }
    world.run_for(2_000);
    let moved: Vec<_> = world.streams.iter().filter(|stream| stream.endpoint().id == id(1)).collect();
    assert_eq!(moved.len(), 10);
    assert!(moved.iter().all(|stream| stream.mobility == Mobility::Rebalances));
    let session = moved[0].session().unwrap();
    assert_eq!(world.inbox.moved_pins().correct(&session, id(0)), id(1));
    assert_eq!(world.facts.iter().filter(|fact| matches!(fact, Fact::RebalanceBegan)).count(), 1);
    assert_eq!((world.inbox.leaving_streams(), world.reports().len()), (0, 0));
}

#[test]
fn two_replicas_do_not_undo_for_each_other_what_they_rebalance_though_it_is_more_than_the_half() {
    let rebalance = Some(Rebalance { threshold: 1.5, budget_per_second: 1_000 });
    // The sessions are at one endpoint in the view of one replica, and at the other one in that of the other.
    for (weight, expected) in [(1, [40, 40]), (3, [60, 20]), (7, [70, 10])] {
        let moved: Vec<Vec<_>> = [0, 1]
            .map(|full| {
                let mut world = World::new(DrainPolicy { rebalance, ..policy() }, 2);
                let heavy = Observed { weight, ..observed(1, Condition::Ready) };
                world.update(Update::Upsert(vec![heavy]));
                for number in 0..80_u8 {
                    let (mobility, session) = (Mobility::Rebalances, Some([number; 16]));
                    world.open(full, Opening { mobility, session, ..OPENING }).unwrap();
                }
                world.run_for(2_000);
                let moved = world.streams.iter().filter(|stream| stream.endpoint().id != id(full));
                moved.map(|stream| stream.session().unwrap()).collect()
            })
            .into();
        assert_eq!([moved[0].len(), moved[1].len()], expected);
        assert!(!moved[0].iter().any(|session| moved[1].contains(session)), "{weight}");
    }
}

#[test]
fn an_endpoint_whose_streams_cannot_move_does_not_keep_others_full() {
    let rebalance = Some(Rebalance { threshold: 1.5, budget_per_second: 100 });
    let mut world = World::new(DrainPolicy { rebalance, ..policy() }, 3);
    open(&mut world, 0, 40);
    for _ in 0..20 {
        world.open(1, Opening { mobility: Mobility::Rebalances, ..OPENING }).unwrap();
    }
    world.run_for(2_000);
    let at = |number| world.streams.iter().filter(|stream| stream.endpoint().id == id(number)).count();
    assert_eq!((at(0), at(1), at(2)), (40, 10, 10));
}

#[test]
fn a_stream_that_could_not_be_rebalanced_leaves_with_the_drain_that_began_meanwhile() {
    let rebalance = Some(Rebalance { threshold: 1.1, budget_per_second: 1_000 });
    let mut world = World::new(DrainPolicy { rebalance, ..policy() }, 2);
    let stream = world.open(0, Opening { mobility: Mobility::Rebalances, ..OPENING }).unwrap();
    open(&mut world, 0, 3);
    // Asked to move, and on its way when its own endpoint begins to drain.
    world.now = Millis(1_100);
    world.turn_once();
    assert_eq!(stream.drain.order().unwrap().cause, Cause::Rebalance);
    world.drain(0);
    world.turn_once();
    assert_eq!(stream.drain.order().unwrap().cause, Cause::Rebalance, "on its way already");
    world.registry.stayed(&stream);
    world.turn_once();
    assert_eq!(stream.drain.state(), DrainState::Queued);
}

#[test]
fn a_stream_on_its_way_counts_once_at_the_endpoint_that_it_goes_to() {
    let rebalance = Some(Rebalance { threshold: 1.1, budget_per_second: 1_000 });
    let mut world = World::new(DrainPolicy { rebalance, ..policy() }, 2);
    for (number, count) in [(0, 8), (1, 4)] {
        (0..count).for_each(|_| {
            world.open(number, Opening { mobility: Mobility::Rebalances, ..OPENING }).unwrap();
        });
    }
    world.now = Millis(1_100);
    world.turn_once();
    let under_way: Vec<_> =
        world.streams.iter().filter(|one| one.drain.state() == DrainState::Leaving).cloned().collect();
    assert_eq!(under_way.len(), 2, "six and six");
    assert!(under_way.iter().all(|one| one.drain.order().unwrap().budget_use == BudgetUse::Free));
    // Both have opened their successors, and still hold their old streams.
    let targets: Vec<_> = under_way.iter().map(|one| one.drain.take_target().unwrap()).collect();
    let permits: Vec<_> = targets.iter().map(|target| target.load.try_open(None).unwrap()).collect();
    world.now = Millis(1_200);
    world.turn_once();
    let leaving = states(&world.streams.clone(), DrainState::Leaving);
    assert_eq!((leaving, permits.len()), (2, 2), "nobody moves back");
}
