//! Scenes: one rule of the controller each.

use std::sync::Arc;
use std::time::Duration;

use podpin_config::{Budget, Handover, Order, Pinned};
use podpin_drain::{
    Departure, DrainMember, DrainPolicy, DrainState, DrainSubject, EndKind, Fact, Mobility, ShutdownTimes,
};
use podpin_endpoints::{Condition, DrainTimes, HeirPolicy, Observed, Update};
use podpin_time::Millis;

use crate::world::{OPENING, Opening, Stream, World, id, moment, observed};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn policy() -> DrainPolicy {
    DrainPolicy::default()
}

pub(crate) fn open(world: &mut World, number: usize, count: usize) -> Vec<Arc<Stream>> {
    (0..count).map(|_| world.open(number, OPENING).unwrap()).collect()
}

pub(crate) fn states(streams: &[Arc<Stream>], state: DrainState) -> usize {
    streams.iter().filter(|stream| stream.drain.state() == state).count()
}

#[test]
fn streams_leave_evenly_and_the_report_says_so() {
    let mut world = World::new(policy(), 2);
    let streams = open(&mut world, 0, 100);
    open(&mut world, 1, 10);
    world.drain(0);
    world.run_for(10_000);
    let left = states(&streams, DrainState::Ended);
    assert!((49..=51).contains(&left), "half of the spread, and {left} of 100 have left");
    world.run_for(10_000);
    let reports = world.reports();
    assert_eq!(reports.len(), 1);
    let (name, report) = &reports[0];
    assert_eq!((&**name, report.streams, report.graceful), ("pod-0", 100, 100));
    assert_eq!((world.inbox.open_streams(), world.inbox.leaving_streams()), (10, 0));
}

#[test]
fn a_drain_that_is_taken_back_releases_all_that_have_no_moment() {
    let mut world = World::new(policy(), 2);
    let streams = open(&mut world, 0, 100);
    world.drain(0);
    world.run_for(5_000);
    let left = states(&streams, DrainState::Ended);
    world.set_condition(0, Condition::Ready);
    world.run_for(100);
    assert_eq!(states(&streams, DrainState::Staying) + left, 100);
    assert!(world.facts.iter().any(|fact| matches!(fact, Fact::TakenBack { .. })));
    let reports = world.reports();
    assert_eq!(
        (reports[0].1.streams as usize, reports.len()),
        (left, 1),
        "the others never were of this drain"
    );
}

#[test]
fn a_stream_that_has_its_moment_when_a_drain_is_taken_back_stays_and_leaves_with_the_next() {
    let mut world = World::new(
        DrainPolicy { times: DrainTimes { spread: Duration::ZERO, ..policy().times }, ..policy() },
        2,
    );
    let streams = open(&mut world, 0, 3);
    world.drain(0);
    // All have a moment within the turn that is taken now; one of them is later than this one.
    world.run_for(0);
    assert!(states(&streams, DrainState::Leaving) >= 1);
    world.set_condition(0, Condition::Ready);
    world.run_for(1_000);
    let left = states(&streams, DrainState::Ended);
    assert_eq!(states(&streams, DrainState::Staying) + left, 3);
    world.drain(0);
    world.run_for(1_000);
    assert_eq!(states(&streams, DrainState::Ended), 3);
    assert_eq!(world.reports().iter().map(|one| one.1.streams).sum::<u32>(), 3);
}

#[test]
fn pinned_clients_are_kept_until_spread_before_the_deadline_while_the_endpoint_serves() {
    let keep = DrainPolicy { pinned: Pinned::Keep, ..policy() };
    for (serves, gone, begins) in [(true, false, 11_000), (false, false, 1_000), (true, true, 6_000)] {
        let mut world = World::new(keep, 2);
        let streams = open(&mut world, 0, 10);
        world.set_condition(0, Condition::Draining { serving: serves });
        if gone {
            world.run_for(5_000);
            world.update(Update::Remove(vec![id(0)]));
        }
        while streams
            .iter()
            .all(|stream| moment(stream).is_none() && stream.drain.state() != DrainState::Ended)
        {
            world.run_for(50);
        }
        // Ten streams in twenty seconds: the first leaves after one, at another phase in each replica.
        let first = world.now.0 - begins;
        assert!((500..=1_700).contains(&first), "{serves} {gone}: the first after {first} ms");
    }
}

#[test]
fn while_no_endpoint_is_ready_departures_wait_until_one_is_and_then_keep_their_pace() {
    for serving in [true, false] {
        let mut world = World::new(DrainPolicy::default(), 2);
        let streams = open(&mut world, 0, 100);
        world.set_condition(1, Condition::NotReady { serving: false });
        world.set_condition(0, Condition::Draining { serving });
        world.run_for(6_000);
        assert_eq!(states(&streams, DrainState::Queued), 100, "no stream has anywhere to go");
        world.set_condition(1, Condition::Ready);
        world.run_for(10_000);
        let left = states(&streams, DrainState::Ended);
        assert!(
            (49..=51).contains(&left),
            "half of the spread after somebody is ready, and {left} have left"
        );
        // That one is ready was noticed within a quarter of a second.
        world.run_for(10_250);
        assert_eq!(states(&streams, DrainState::Ended), 100);
    }
}

/// Lists a pod of generation `1` or `2`; heirs are chosen.
fn list(world: &mut World, number: usize, generation: &str, condition: Condition) {
    world.update(Update::Upsert(vec![Observed {
        generation: Some(generation.into()),
        reversible_drain: false,
        ..observed(number, condition)
    }]));
}

#[test]
fn departures_wait_for_an_heir_that_is_listed_and_then_keep_their_pace() {
    let mut world = World::new(DrainPolicy::default(), 0);
    let policy = HeirPolicy { lifetime: seconds(60), namesakes: false, times: DrainPolicy::default().times };
    world.table.lock().unwrap().keep_heirs(Some(policy));
    list(&mut world, 0, "1", Condition::Ready);
    list(&mut world, 1, "1", Condition::Ready);
    let streams = open(&mut world, 0, 100);
    list(&mut world, 0, "1", Condition::Draining { serving: true });
    world.run_for(2_000);
    assert_eq!(states(&streams, DrainState::Queued), 100, "what replaces it is not listed yet");
    list(&mut world, 2, "2", Condition::NotReady { serving: false });
    world.run_for(4_000);
    assert_eq!(states(&streams, DrainState::Queued), 100, "its heir is not ready yet");
    list(&mut world, 2, "2", Condition::Ready);
    world.run_for(10_250);
    let left = states(&streams, DrainState::Ended);
    assert!((49..=51).contains(&left), "half of the spread after the heir is ready, and {left} have left");
}

#[test]
fn departures_wait_for_no_heir_beyond_the_spread_before_the_deadline_or_without_one_in_sight() {
    for (is_listed, waits) in [(true, 10_000), (false, 3_000)] {
        let mut world = World::new(DrainPolicy::default(), 0);
        let policy =
            HeirPolicy { lifetime: seconds(60), namesakes: false, times: DrainPolicy::default().times };
        world.table.lock().unwrap().keep_heirs(Some(policy));
        list(&mut world, 0, "1", Condition::Ready);
        list(&mut world, 1, "1", Condition::Ready);
        let streams = open(&mut world, 0, 100);
        if is_listed {
            list(&mut world, 2, "2", Condition::NotReady { serving: false });
        }
        list(&mut world, 0, "1", Condition::Draining { serving: true });
        world.run_for(waits);
        assert_eq!(states(&streams, DrainState::Queued), 100, "{waits}");
        world.run_for(10_250);
        let left = states(&streams, DrainState::Ended);
        assert!((49..=52).contains(&left), "half of the spread, and {left} of 100 have left");
    }
}

#[test]
fn departures_do_not_wait_beyond_the_spread_before_the_deadline() {
    let mut world = World::new(DrainPolicy::default(), 1);
    let streams = open(&mut world, 0, 100);
    world.drain(0);
    world.run_for(10_000);
    assert_eq!(states(&streams, DrainState::Queued), 100);
    world.run_for(10_000);
    let left = states(&streams, DrainState::Ended);
    assert!((49..=51).contains(&left), "half of the spread, and {left} of 100 have left");
    world.run_for(10_000);
    assert_eq!(states(&streams, DrainState::Ended), 100, "by the deadline");
}

#[test]
fn departures_that_have_begun_wait_when_the_last_ready_endpoint_is_lost() {
    let mut world = World::new(DrainPolicy::default(), 2);
    let streams = open(&mut world, 0, 100);
    world.drain(0);
    world.run_for(5_000);
    let left = states(&streams, DrainState::Ended);
    assert!((23..=27).contains(&left));
    world.set_condition(1, Condition::NotReady { serving: false });
    world.run_for(4_900);
    let waiting = states(&streams, DrainState::Ended) - left;
    assert!(waiting <= 1, "{waiting} left, who may have had a moment");
    let rescheduled =
        |world: &World| world.facts.iter().filter(|fact| matches!(fact, Fact::Rescheduled { .. })).count();
    assert_eq!(rescheduled(&world), 1, "said once");
    world.run_for(20_200);
    assert_eq!((states(&streams, DrainState::Ended), rescheduled(&world)), (100, 1), "by the deadline");
}

#[test]
fn streams_of_an_endpoint_that_is_gone_do_not_wait() {
    let mut world = World::new(DrainPolicy::default(), 1);
    let streams = open(&mut world, 0, 10);
    world.drain(0);
    world.run_for(1_000);
    world.update(Update::Remove(vec![id(0)]));
    world.run_for(20_000);
    assert_eq!(states(&streams, DrainState::Ended), 10);
}

#[test]
fn a_deadline_that_becomes_known_hurries_what_is_left() {
    let mut world = World::new(policy(), 2);
    let streams = open(&mut world, 0, 100);
    world.drain(0);
    world.run_for(2_000);
    let mut known = observed(0, Condition::Draining { serving: true });
    known.deadline = Some(Millis(9_000));
    world.update(Update::Upsert(vec![known]));
    world.run_for(4_000);
    assert_eq!(states(&streams, DrainState::Ended), 100, "two seconds of margin before the end");
    let rescheduled =
        |fact: &Fact| matches!(fact, Fact::Rescheduled { deadline, .. } if *deadline == Millis(7_000));
    assert!(world.facts.iter().any(rescheduled), "{:?}", world.facts);
}

#[test]
fn a_stream_that_begins_on_a_draining_endpoint_leaves_with_the_others() {
    let mut world = World::new(policy(), 2);
    world.drain(0);
    world.run_for(1_000);
    let late = world.open(0, OPENING).unwrap();
    world.run_for(0);
    assert_eq!(late.drain.state(), DrainState::Queued);
    world.run_for(29_000);
    assert_eq!(late.drain.state(), DrainState::Ended);
    // A second wave, after the first has left.
    let later = world.open(0, OPENING).unwrap();
    world.run_for(1_000);
    assert_eq!(later.drain.state(), DrainState::Ended, "the deadline has passed");
    assert_eq!(world.reports().len(), 2, "a record for each wave");
}

#[test]
fn a_stream_that_begins_on_an_endpoint_that_is_gone_has_a_drain_of_its_own() {
    let mut world = World::new(policy(), 2);
    let endpoint = world.snapshot().get(&id(0)).cloned().unwrap();
    world.update(Update::Remove(vec![id(0)]));
    world.run_for(1_000);
    let late = world.open_at(endpoint, OPENING);
    world.run_for(20_000);
    assert_eq!(late.drain.state(), DrainState::Ended);
    assert_eq!(world.reports()[0].1.graceful, 1);
}

#[test]
fn a_stream_that_may_finish_is_cut_at_the_deadline() {
    let mut world = World::new(policy(), 2);
    let upload = world.open(0, Opening { mobility: Mobility::CutAtDeadline, ..OPENING }).unwrap();
    world.drain(0);
    world.run_for(29_900);
    assert_eq!((upload.drain.state(), moment(&upload)), (DrainState::Queued, None));
    world.run_for(400);
    assert_eq!(upload.drain.state(), DrainState::Ended);
    assert_eq!(world.reports()[0].1.forced, 1);
}

#[test]
fn the_shutdown_takes_over_whoever_has_no_moment() {
    let mut world = World::new(DrainPolicy { pinned: Pinned::Keep, ..policy() }, 2);
    let kept = open(&mut world, 0, 10);
    let others = open(&mut world, 1, 10);
    world.drain(0);
    world.run_for(1_000);
    let (begins, deadline) = (world.now, Millis(world.now.0 + 5_000));
    world.registry.begin_shutdown(ShutdownTimes { begins, spread: seconds(2), deadline });
    world.run_for(0);
    let late = world.open(1, OPENING).unwrap();
    world.run_for(2_100);
    assert_eq!(states(&kept, DrainState::Ended) + states(&others, DrainState::Ended), 20);
    assert_eq!(late.drain.state(), DrainState::Ended);
    let reports = world.reports();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert_eq!((&*reports[0].0, reports[0].1.graceful), ("(all)", 21));
}

#[test]
fn the_shutdown_takes_over_streams_whose_drain_is_taken_back_meanwhile() {
    let mut world = World::new(policy(), 2);
    let earlier = world.open(0, OPENING).unwrap();
    let (begins, deadline) = (world.now, Millis(world.now.0 + 20_000));
    world.registry.begin_shutdown(ShutdownTimes { begins, spread: seconds(10), deadline });
    world.run_for(100);
    // Found by the drain of its endpoint before the shutdown hears of it.
    let late = world.open(0, OPENING).unwrap();
    world.drain(0);
    world.run_for(100);
    world.set_condition(0, Condition::Ready);
    world.run_for(100);
    assert_eq!(earlier.drain.state(), DrainState::Queued, "so that the shutdown does not begin anew");
    assert_eq!(late.drain.state(), DrainState::Queued);
    world.run_for(10_000);
    assert_eq!(states(&[earlier, late], DrainState::Ended), 2);
}

#[test]
fn streams_of_a_withdrawn_route_leave_and_none_goes_on_elsewhere() {
    let mut world = World::new(DrainPolicy { handover: Handover::LastEventId, ..policy() }, 2);
    world.heirs = Some(1);
    let stays = open(&mut world, 0, 5);
    let leaves: Vec<_> = (0..5).map(|_| world.open(0, Opening { route: 1, ..OPENING }).unwrap()).collect();
    world.reload(policy(), Some(1));
    world.run_for(0);
    let late = world.open(0, Opening { route: 1, ..OPENING }).unwrap();
    world.run_for(30_000);
    assert_eq!((states(&stays, DrainState::Staying), states(&leaves, DrainState::Ended)), (5, 5));
    assert_eq!(late.drain.state(), DrainState::Ended);
    assert_eq!(world.reports()[0].0, "(withdrawn routes)");
}

#[test]
fn another_reload_begins_no_second_drain_of_the_routes_that_the_last_one_withdrew() {
    let mut world = World::new(policy(), 2);
    let leaves: Vec<_> = (0..5).map(|_| world.open(0, Opening { route: 1, ..OPENING }).unwrap()).collect();
    world.reload(policy(), Some(1));
    world.run_for(0);
    world.reload(policy(), None);
    world.run_for(30_000);
    assert_eq!(states(&leaves, DrainState::Ended), 5);
    let began = world.facts.iter().filter(|fact| matches!(fact, Fact::Began { .. })).count();
    assert_eq!((began, world.reports().len()), (1, 1));
}

#[test]
fn a_handover_leaves_the_drain_and_the_budget_alone() {
    let budget = Some(Budget { per_second: Some(1), percent: None });
    let mut world = World::new(DrainPolicy { handover: Handover::LastEventId, budget, ..policy() }, 2);
    world.heirs = Some(1);
    let streams = open(&mut world, 0, 100);
    world.drain(0);
    world.run_for(21_000);
    assert_eq!(states(&streams, DrainState::Staying), 100);
    assert!(streams.iter().all(|stream| stream.endpoint().id == id(1)));
    let (_, report) = &world.reports()[0];
    assert_eq!((report.moved, report.graceful), (100, 0));
    assert!(!world.facts.iter().any(|fact| matches!(fact, Fact::BudgetExceeded { .. })));
}

#[test]
fn streams_that_cannot_be_handed_over_leave_within_the_budget_and_the_others_at_the_pace() {
    let budget = Some(Budget { per_second: Some(4), percent: None });
    let times = DrainTimes { spread: seconds(1), ..policy().times };
    let mut world = World::new(DrainPolicy { handover: Handover::LastEventId, budget, times, ..policy() }, 2);
    world.heirs = Some(1);
    let moving = open(&mut world, 0, 20);
    let goodbye = Opening { departure: Departure::Goodbye, ..OPENING };
    let ending: Vec<_> = (0..40).map(|_| world.open(0, goodbye).unwrap()).collect();
    world.drain(0);
    world.run_for(1_100);
    assert!(moving.iter().all(|stream| stream.endpoint().id == id(1)));
    world.run_for(3_900);
    let left = states(&ending, DrainState::Ended);
    assert!((18..=21).contains(&left), "5 s at 4 a second, and {left} have left");
    world.run_for(6_000);
    assert_eq!(states(&ending, DrainState::Ended), 40);
    assert!(!world.facts.iter().any(|fact| matches!(fact, Fact::BudgetExceeded { .. })));
}

#[test]
fn at_the_shutdown_an_answer_that_its_client_can_repair_leaves_with_the_others() {
    let mut world = World::new(policy(), 2);
    let answer = Opening { mobility: Mobility::CutAtDeadline, ..OPENING };
    let repairable = world.open(0, Opening { departure: Departure::Goodbye, ..answer }).unwrap();
    let whole = world.open(0, Opening { departure: Departure::Cut, ..answer }).unwrap();
    let (begins, deadline) = (world.now, Millis(world.now.0 + 20_000));
    world.registry.begin_shutdown(ShutdownTimes { begins, spread: seconds(2), deadline });
    world.run_for(2_100);
    assert_eq!((repairable.drain.state(), whole.drain.state()), (DrainState::Ended, DrainState::Queued));
    world.run_for(18_000);
    let report = &world.reports()[0].1;
    assert_eq!((report.graceful, report.forced), (1, 1));
}

#[test]
fn a_budget_that_cannot_be_kept_is_reported_once_for_each_group() {
    let budget = Some(Budget { per_second: Some(1), percent: None });
    let mut world = World::new(DrainPolicy { budget, ..policy() }, 2);
    open(&mut world, 0, 100);
    world.drain(0);
    world.run_for(31_000);
    let exceeded: u32 = world.turns.iter().map(|turn| turn.exceeded).sum();
    assert!((70..=75).contains(&exceeded), "30 of 100 fit, {exceeded} did not");
    let warnings = world.facts.iter().filter(|fact| matches!(fact, Fact::BudgetTooSmall { .. })).count();
    assert_eq!(warnings, 1);
}

#[test]
fn a_disconnect_that_was_planned_as_a_handover_is_paid_by_the_next() {
    let budget = Some(Budget { per_second: Some(10), percent: None });
    let mut world = World::new(DrainPolicy { budget, ..policy() }, 2);
    open(&mut world, 0, 10);
    (0..10).for_each(|_| world.inbox.charge());
    world.drain(0);
    world.run_for(900);
    assert_eq!(world.inbox.open_streams(), 10, "a second's worth was spent elsewhere");
}

#[test]
fn the_most_silent_leave_first_if_asked_for() {
    let mut world = World::new(DrainPolicy { order: Order::Idle, ..policy() }, 2);
    let streams = open(&mut world, 0, 20);
    for (place, stream) in streams.iter().enumerate() {
        stream.set_last_event(Millis(1_000 - 10 * place as u64));
    }
    world.drain(0);
    world.run_for(10_000);
    let ended: Vec<bool> = streams.iter().map(|stream| stream.drain.state() == DrainState::Ended).collect();
    assert_eq!(ended, (0..20).map(|place| place >= 10).collect::<Vec<_>>());
}

#[test]
fn clients_are_awaited_and_counted_as_returned_or_lost() {
    let mut world = World::new(policy(), 2);
    for session in 1..=4 {
        world.open(0, Opening { session: Some([session; 16]), ..OPENING }).unwrap();
    }
    world.drain(0);
    world.run_for(20_000);
    assert_eq!((world.inbox.reconnects().away(), world.reports().len()), (4, 0));
    for session in 1..=3 {
        world.open(1, Opening { session: Some([session; 16]), ..OPENING }).unwrap();
    }
    world.run_for(31_000);
    let (_, report) = &world.reports()[0];
    assert_eq!((report.returned, report.lost, report.awaited), (3, 1, 0));
    assert!(report.gap_millis(500).is_some());
    assert!(world.facts.iter().any(|fact| matches!(fact, Fact::ClientsLost { clients: 1 })));
}

#[test]
fn a_service_that_a_reload_removed_is_over_with_its_last_client() {
    let mut world = World::new(policy(), 2);
    let stream = world.open(0, Opening { session: Some([1; 16]), ..OPENING }).unwrap();
    world.controller.reload(None, world.now);
    assert!(!world.controller.is_over());
    world.close(&stream, EndKind::Graceful);
    world.run_for(0);
    assert!(!world.controller.is_over(), "its client may come back");
    world.run_for(31_000);
    assert!(world.controller.is_over());
}

#[test]
fn groups_are_named_for_logs() {
    let endpoint = World::new(policy(), 2).snapshot().get(&id(0)).cloned().unwrap();
    let names = [
        (DrainSubject::Endpoint(endpoint), "pod-0"),
        (DrainSubject::WithdrawnRoutes, "(withdrawn routes)"),
        (DrainSubject::Shutdown, "(all)"),
    ];
    names.iter().for_each(|(subject, name)| assert_eq!(subject.name(), *name));
}
