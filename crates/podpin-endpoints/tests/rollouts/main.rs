//! Rollouts of every strategy over 2,000 sessions: how often streams move, and how evenly pods are filled afterwards.
//!
//! A cluster in seconds: pods start, become ready, drain and go, as a controller of Kubernetes has it. Streams of a draining pod
//! leave evenly over its drain. The table of figures is printed with `--nocapture`, for the ring alone and for heirs.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]
#![expect(clippy::print_stdout, reason = "the figures are the result")]

mod cluster;
mod fleet;
mod strategy;

use fleet::{Figures, Law};
use strategy::Rollout;

/// The figures of a rollout by the ring alone, by heirs that are not awaited, and by heirs.
struct Laws {
    ring: Figures,
    at_once: Figures,
    heirs: Figures,
}

/// Runs a rollout with 8 and with 60 pods, and prints its figures.
fn figures(rollout: Rollout) -> [Laws; 2] {
    [8, 60].map(|pods| {
        let [ring, at_once, heirs] =
            [Law::Ring, Law::HeirsAtOnce, Law::Heirs].map(|law| strategy::run(rollout, pods, law));
        println!("{rollout:?}, {pods} pods\n  ring    {ring}\n  at once {at_once}\n  heirs   {heirs}");
        Laws { ring, at_once, heirs }
    })
}

#[test]
fn a_rollout_that_keeps_all_pods_moves_each_stream_once_and_fills_pods_evenly() {
    for rollout in [Rollout::SURGE_ONE, Rollout::SURGE_QUARTER, Rollout::SURGE_ALL] {
        for Laws { heirs, .. } in figures(rollout) {
            assert!(heirs.moves <= 1.05, "{heirs}");
            assert!(heirs.fullest <= 1.15 && heirs.emptiest >= 0.85, "{heirs}");
            assert!(heirs.split < 0.001, "a client's requests are where its stream is: {heirs}");
        }
    }
}

#[test]
fn a_rollout_that_lacks_pods_does_the_same_when_departures_wait_for_heirs() {
    let less = [Rollout::UNAVAILABLE_ONE, Rollout::UNAVAILABLE_QUARTER, Rollout::DEFAULT, Rollout::BOTH_ONE];
    for Laws { at_once, heirs, .. } in less.into_iter().flat_map(figures) {
        assert!(heirs.moves <= 1.05, "{heirs}");
        assert!(heirs.fullest <= 1.15 && heirs.emptiest >= 0.85, "{heirs}");
        assert!(heirs.split < 0.001 && at_once.split > 0.1, "{heirs} beside {at_once}");
    }
}

#[test]
fn a_rollout_that_is_rolled_back_half_way_moves_its_streams_there_and_back() {
    for Laws { heirs, .. } in figures(Rollout::RolledBack) {
        assert!(heirs.moves <= 1.05, "half of them, twice: {heirs}");
        assert!(heirs.fullest <= 1.15 && heirs.emptiest >= 0.85, "{heirs}");
        assert!(heirs.split < 0.001, "{heirs}");
    }
}

#[test]
fn without_a_newer_generation_streams_go_where_the_ring_sends_them() {
    for Laws { ring, heirs, .. } in
        [Rollout::NodeDrain, Rollout::ScaleDownAndUp].into_iter().flat_map(figures)
    {
        assert!(
            (heirs.moves - ring.moves).abs() < 0.01 && heirs.split <= ring.split,
            "{heirs} beside {ring}"
        );
    }
}

#[test]
fn pods_that_all_go_first_move_each_stream_once() {
    for Laws { ring, heirs, .. } in figures(Rollout::Recreate) {
        assert!(heirs.moves <= 1.05 && heirs.fullest <= ring.fullest, "{heirs} beside {ring}");
    }
}

#[test]
fn streams_of_a_stateful_set_do_not_await_the_namesake_of_their_pod() {
    for Laws { ring, heirs, .. } in figures(Rollout::StatefulSet) {
        assert!((heirs.moves - ring.moves).abs() < 0.001, "{heirs} beside {ring}");
    }
}
