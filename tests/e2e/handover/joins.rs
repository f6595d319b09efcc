//! A successor's own word on the event that it begins after.

use super::*;

/// A stream that has shown the events 1 and 2, and whose pod drains.
async fn draining(pods: usize) -> (Scene, Open) {
    let scene = Scene::new(pods, &[QUICK]).await;
    let mut open = scene.open().await;
    for id in ["1", "2"] {
        open.stream.event_with_id(id, "x").await;
    }
    assert_eq!(ids(&mut open.client, 2).await, ["1", "2"]);
    (scene, open)
}

fn begins_after(id: &str) -> StreamAnswer {
    StreamAnswer::new().header("Last-Event-ID", id)
}

#[tokio::test]
async fn a_successor_that_begins_after_an_event_of_ours_is_believed() {
    for id in ["1", "2"] {
        let (scene, mut open) = draining(2).await;
        scene.pods[1 - open.at].answer("/events", begins_after(id));
        scene.drain(open.at);
        let (_, mut next) = successor(&scene.pods, open.at).await;
        if id == "1" {
            next.event_with_id("2", "x").await;
        }
        next.event_with_id("3", "x").await;
        assert_eq!(ids(&mut open.client, 1).await, ["3"], "after {id}");
        scene.wait_join("exact", 1.0).await;
    }
}

#[tokio::test]
async fn a_successor_whose_history_is_gone_is_used_only_if_no_other_does_better() {
    for said in ["earliest", "77"] {
        let (scene, mut open) = draining(3).await;
        let others: Vec<usize> = (0..3).filter(|at| *at != open.at).collect();
        scene.pods.iter().for_each(|pod| pod.answer_once("/events", begins_after(said)));
        scene.pods[others[0]].answer("/events", begins_after("2"));
        scene.pods[others[1]].answer("/events", begins_after("2"));
        scene.drain(open.at);
        // Both lost their history: the first that answered is as good as any.
        let (to, mut next) = successor(&scene.pods, open.at).await;
        let _other = scene.pods[3 - open.at - to].next_stream().await;
        next.event_with_id("9", "x").await;
        assert_eq!(ids(&mut open.client, 1).await, ["9"], "{said}");
        scene.wait_join("gap", 1.0).await;
        scene.wait_handover("planned", "ok", 1.0).await;
    }
    let (scene, mut open) = draining(3).await;
    scene.pods[(open.at + 1) % 3].answer("/events", begins_after("earliest"));
    scene.pods[(open.at + 2) % 3].answer("/events", begins_after("2"));
    scene.drain(open.at);
    let mut next = scene.pods[(open.at + 2) % 3].next_stream().await;
    next.event_with_id("3", "x").await;
    assert_eq!(ids(&mut open.client, 1).await, ["3"]);
    scene.wait_join("exact", 1.0).await;
}

#[tokio::test]
async fn a_silent_stream_knows_its_place_by_what_its_pods_say() {
    let scene = Scene::new(2, &[QUICK]).await;
    scene.pods.iter().for_each(|pod| pod.answer("/events", begins_after("5")));
    let open = scene.open().await;
    scene.drain(open.at);
    let (_, next) = successor(&scene.pods, open.at).await;
    assert_eq!(next.request.header("last-event-id"), Some("5"));
    scene.wait_join("exact", 1.0).await;
}
