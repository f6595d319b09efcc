//! The first bytes of a successor: line ends of its own, a generous replay, ids that are none.

use super::*;

/// A client that was shown these bytes, and the successor of its pod.
struct Adopted {
    scene: Scene,
    client: EventStream,
    next: PodStream,
}

impl Adopted {
    /// The old pod sends `first`, of which the last event is called `last`; then it drains.
    async fn new(first: &str, last: &str) -> Adopted {
        let scene = Scene::new(2, &[QUICK]).await;
        let Open { mut client, mut stream, at, .. } = scene.open().await;
        stream.send(first).await;
        while client.next_event().await.data != last {}
        scene.drain(at);
        let (_, next) = successor(&scene.pods, at).await;
        Adopted { scene, client, next }
    }

    /// The data of the next events.
    async fn data(&mut self, count: usize) -> Vec<String> {
        let mut data = Vec::new();
        for _ in 0..count {
            data.push(self.client.next_data().await);
        }
        data
    }

    async fn wait_dropped(&self, count: u32) {
        let dropped = "podpin_handover_duplicates_dropped_total";
        self.scene.proxy.wait_metric(dropped, &[("service", "chat")], f64::from(count)).await;
    }
}

fn events(ids: impl IntoIterator<Item = u32>) -> String {
    ids.into_iter().map(|id| format!("id: {id}\ndata: {id}\n\n")).collect()
}

#[tokio::test]
async fn a_successor_may_end_its_lines_otherwise_and_begin_with_a_byte_order_mark() {
    let two = "id: 1\ndata: a\n\nid: 2\ndata: b\n\n";
    // What the old pod sent, and how the successor ends its lines.
    let table = [
        (two, "\n"),
        (two, "\r\n"),
        (two, "\r"),
        ("id: 1\r\ndata: a\r\n\r\nid: 2\r\ndata: b\r\n\r", "\n"),
        ("id: 1\rdata: a\r\rid: 2\rdata: b\r\r", "\r\n"),
    ];
    for (first, line_end) in table {
        for mark in ["", "\u{feff}"] {
            let mut adopted = Adopted::new(first, "b").await;
            let again = format!("{mark}id: 2\ndata: b\n\nid: 3\ndata: c\n\n").replace('\n', line_end);
            adopted.next.send(&again).await;
            let event = adopted.client.next_event().await;
            assert_eq!((event.id.as_str(), event.data.as_str()), ("3", "c"), "{first:?} {again:?}");
            adopted.wait_dropped(1).await;
            assert!(!adopted.client.text().contains('\u{feff}'), "{again:?}");
        }
    }
}

#[tokio::test]
async fn a_replay_of_more_ids_than_are_remembered_is_dropped_when_it_comes_in_one_burst() {
    let mut adopted = Adopted::new(&events(1..=200), "200").await;
    adopted.next.send(&events(1..=201)).await;
    assert_eq!(adopted.data(1).await, ["201"]);
    adopted.wait_dropped(200).await;
}

#[tokio::test]
async fn what_the_old_pod_still_sent_is_dropped_in_pieces_however_much_it_was() {
    let scene = Scene::new(2, &[QUICK]).await;
    let Open { mut client, mut stream, at, .. } = scene.open().await;
    stream.send(&events([1])).await;
    assert_eq!(client.next_data().await, "1");
    scene.pods[1 - at].answer("/events", Answer::ByHand);
    scene.drain(at);
    let (_, mut next) = successor(&scene.pods, at).await;
    assert_eq!(next.request.header("last-event-id"), Some("1"));
    stream.send(&events(2..=200)).await;
    while client.next_data().await != "200" {}
    next.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    stream.client_gone().await;
    let replay = events(2..=201);
    // Cut within lines and within ids.
    for piece in replay.as_bytes().chunks(7) {
        assert!(next.try_send(piece).await);
    }
    assert_eq!(client.next_data().await, "201");
    let dropped = "podpin_handover_duplicates_dropped_total";
    scene.proxy.wait_metric(dropped, &[("service", "chat")], 199.0).await;
}

#[tokio::test]
async fn of_ids_that_repeat_on_purpose_nothing_is_dropped() {
    let mut adopted = Adopted::new("id: room\ndata: a\n\nid: room\ndata: b\n\n", "b").await;
    assert_eq!(adopted.next.request.header("last-event-id"), Some("room"));
    adopted.next.send("id: room\ndata: c\n\nid: room\ndata: d\n\n").await;
    assert_eq!(adopted.data(2).await, ["c", "d"]);
    adopted.wait_dropped(0).await;
}

#[tokio::test]
async fn events_without_an_id_go_with_the_one_before_them() {
    let first = "id: 1\ndata: a\n\ndata: a1\n\nid: 2\ndata: b\n\ndata: b1\n\n";
    let mut adopted = Adopted::new(first, "b1").await;
    assert_eq!(adopted.next.request.header("last-event-id"), Some("2"));
    adopted.next.send("id: 2\ndata: b\n\ndata: b1\n\ndata: b2\n\nid: 3\ndata: c\n\n").await;
    assert_eq!(adopted.data(2).await, ["b2", "c"]);
    adopted.wait_dropped(2).await;
}

#[tokio::test]
async fn a_greeting_of_the_successor_reaches_the_client() {
    let mut adopted = Adopted::new(&events(1..=2), "2").await;
    adopted.next.send("event: hello\ndata: pod-b\n\n").await;
    assert_eq!(adopted.data(1).await, ["pod-b"]);
    adopted.next.send(&events(2..=3)).await;
    assert_eq!(adopted.data(1).await, ["3"]);
}

#[tokio::test]
async fn an_id_is_told_to_the_successor_as_it_was_or_there_is_no_handover() {
    let adopted = Adopted::new("id: \u{e9}\t7\ndata: a\n\n", "a").await;
    assert_eq!(adopted.next.request.header("last-event-id"), Some("\u{e9}\t7"));
    for id in ["a\u{1}b", "a\u{7f}"] {
        let scene = Scene::new(2, &[QUICK]).await;
        let mut open = scene.open().await;
        open.stream.event_with_id(id, "x").await;
        assert_eq!(open.client.next_event().await.id, id);
        scene.drain(open.at);
        let (items, ending) = open.client.rest().await;
        assert!(matches!(items.as_slice(), [Item::Retry(_)]), "{id:?}: {items:?}");
        assert_eq!(ending, Ending::Clean, "{id:?}");
        scene.wait_handover("planned", "no_id", 1.0).await;
        assert_eq!(scene.pods[1 - open.at].requests().len(), 0, "{id:?}");
    }
}
