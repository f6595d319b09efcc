//! When streams leave: evenly, in their order, within the budget, and never later than the deadline.

use std::time::{Duration, Instant};

use podpin_testkit::{EndpointsFile, H2Connection, Item, Pod, Proxy, Request, Setup, Visitor};

use crate::crowd::{
    BALANCE, Client, Left, all, assert_even, crowd, h2_crowd, listed, operate, streams, watch, window,
};

const CLOSED: &str = "podpin_streams_closed_total";
const DRAINED: [(&str, &str); 2] = [("service", "chat"), ("reason", "drain")];
const EXCEEDED: &str = "podpin_disconnect_budget_exceeded_total";

/// A proxy whose streams are all on `pod-a`, with `pod-b` to go to.
async fn on_one_pod(lines: &[&str]) -> ([Pod; 3], EndpointsFile, Proxy) {
    let pods = Pod::start_three().await;
    let file = EndpointsFile::with(&listed(&pods[..1], &["ready"]));
    let setup = Setup::new().service_in("chat", &file).with(BALANCE).h2c();
    let setup = lines.iter().fold(setup, |setup, line| setup.with(line));
    let proxy = setup.start().await;
    (pods, file, proxy)
}

fn drain(pods: &[Pod], file: &EndpointsFile) {
    file.write(&listed(&pods[..2], &["draining", "ready"]));
}

#[tokio::test]
async fn three_hundred_streams_leave_evenly_over_the_spread() {
    let (pods, file, proxy) = on_one_pod(&["drain: {spread: 3s, timeout: 30s}"]).await;
    let mut connections = Vec::new();
    let mut leaving = streams(crowd(&proxy, 200).await);
    for _ in 0..2 {
        let mut connection = H2Connection::open(proxy.address).await;
        leaving.extend(h2_crowd(&mut connection, 50).await);
        connections.push(connection);
    }
    let watched = watch(leaving);
    drain(&pods, &file);
    let left = all(watched).await;
    assert!(left.iter().all(|one| one.goodbye().is_empty()));
    assert_even(&left);
    // Nothing makes it shorter; how much longer is the machine's business.
    assert!(window(&left) > Duration::from_millis(2_500), "over {:?}", window(&left));
    proxy
        .wait_metric("podpin_drain_departures_total", &[("service", "chat"), ("kind", "polite")], 300.0)
        .await;
    assert_eq!(proxy.metric(EXCEEDED, &[]).await, 0.0);
}

#[tokio::test]
async fn a_deadline_before_the_end_of_the_spread_comes_first() {
    // The test's patience is 10 s: a spread that is waited for is a failure.
    let (pods, file, proxy) = on_one_pod(&["drain: {spread: 60s, timeout: 1500ms}"]).await;
    let watched = watch(streams(crowd(&proxy, 100).await));
    drain(&pods, &file);
    let left = all(watched).await;
    assert!(left.iter().all(|one| one.goodbye().is_empty()));
    assert_even(&left);
}

/// Drains ten streams in this order; the places at which they left, in the order in which they were opened.
async fn places(order: &str, speak: &[usize]) -> Vec<usize> {
    let drain_line = format!("drain: {{spread: 2500ms, timeout: 30s, order: {order}}}");
    let (pods, file, proxy) = on_one_pod(&[&drain_line]).await;
    let clients = crowd(&proxy, 10).await;
    let mut open = pods[0].waiting_streams().await;
    let mut clients = streams(clients);
    for index in speak {
        open[*index].event("speaks").await;
        assert_eq!(clients[*index].next_data().await, "speaks");
        // The proxy counts in milliseconds: the next one speaks in a later one.
        let spoke = Instant::now();
        while spoke.elapsed() < Duration::from_millis(5) {
            proxy.get("/who").await;
        }
    }
    let watched = watch(clients);
    drain(&pods, &file);
    let left = all(watched).await;
    let mut by_end: Vec<usize> = (0..left.len()).collect();
    by_end.sort_by_key(|index| left[*index].at);
    let mut places = vec![0; left.len()];
    by_end.into_iter().enumerate().for_each(|(place, index)| places[index] = place);
    places
}

/// How far `places` are from these, together.
fn distance(places: &[usize], expected: impl Iterator<Item = usize>) -> usize {
    places.iter().zip(expected).map(|(one, other)| one.abs_diff(other)).sum()
}

#[tokio::test]
async fn the_oldest_leave_first() {
    let places = places("oldest", &[3, 1, 4]).await;
    // Two neighbours may change places on a busy machine.
    assert!(distance(&places, 0..10) <= 2, "{places:?}");
}

#[tokio::test]
async fn the_longest_silent_leave_first() {
    let spoke = [9, 0, 7, 2, 5, 4, 3, 6, 1, 8];
    let places = places("idle", &spoke).await;
    let place_of = |index: usize| spoke.iter().position(|spoken| *spoken == index).unwrap();
    assert!(distance(&places, (0..10).map(place_of)) <= 2, "{places:?}");
}

#[tokio::test]
async fn at_random_they_leave_in_no_order() {
    let places = places("random", &[]).await;
    // Of all orders, one in 360,000 is this near to that of their age; the mean distance is 33.
    assert!(distance(&places, 0..10) > 2, "{places:?}");
}

#[tokio::test]
async fn a_budget_per_second_stretches_the_drain() {
    let lines = ["drain: {spread: 0s, timeout: 30s, budget: {perSecond: 20}}"];
    let (pods, file, proxy) = on_one_pod(&lines).await;
    let watched = watch(streams(crowd(&proxy, 50).await));
    drain(&pods, &file);
    let left = all(watched).await;
    assert!(left.iter().all(|one| one.goodbye().is_empty()));
    // 50 at 20 a second; the first leaves at once.
    assert!(window(&left) > Duration::from_millis(2_000), "over {:?}", window(&left));
    assert_even(&left);
    assert_eq!(proxy.metric(EXCEEDED, &[]).await, 0.0);
}

#[tokio::test]
async fn a_budget_holds_for_streams_that_cannot_be_handed_over() {
    // Their events have no ids.
    let drain_line = "drain: {handover: lastEventId, spread: 0s, timeout: 30s, budget: {perSecond: 5}}";
    let (pods, file, proxy) = on_one_pod(&[drain_line]).await;
    let watched = watch(streams(crowd(&proxy, 20).await));
    drain(&pods, &file);
    let left = all(watched).await;
    assert!(left.iter().all(|one| one.goodbye().is_empty()));
    assert!(window(&left) > Duration::from_millis(3_000), "over {:?}", window(&left));
    assert_even(&left);
    assert_eq!(proxy.metric(EXCEEDED, &[]).await, 0.0);
}

#[tokio::test]
async fn a_budget_is_one_for_all_endpoints_of_a_service() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(BALANCE);
    let proxy = setup.with("drain: {spread: 0s, timeout: 30s, budget: {perSecond: 10}}").start().await;
    let (leaving, staying): (Vec<_>, Vec<_>) =
        crowd(&proxy, 36).await.into_iter().partition(|client| client.pod != "pod-c");
    let count = leaving.len();
    let watched = watch(streams(leaving));
    for pod in ["pod-a", "pod-b"] {
        assert_eq!(operate(&proxy, pod, "drain").await.status, 200);
    }
    let left = all(watched).await;
    let shortest = Duration::from_millis(100 * count as u64 - 500);
    assert!(window(&left) > shortest, "{count} over {:?}, {} stayed", window(&left), staying.len());
}

#[tokio::test]
async fn a_deadline_that_the_budget_cannot_meet_wins_and_that_is_counted_and_said() {
    let lines = ["drain: {spread: 0s, timeout: 2s, budget: {perSecond: 5}}"];
    let (pods, file, proxy) = on_one_pod(&lines).await;
    let watched = watch(streams(crowd(&proxy, 60).await));
    drain(&pods, &file);
    let left = all(watched).await;
    assert!(left.iter().all(|one| one.goodbye().is_empty()));
    assert_even(&left);
    // Ten fit into 2 s, and one more for the rounding.
    let exceeded = proxy.metric(EXCEEDED, &[("service", "chat")]).await;
    assert!((45.0..=55.0).contains(&exceeded), "{exceeded}");
    let said = proxy.process.stderr().into_iter().filter(|line| line.contains("drain.budget is exceeded"));
    let said: Vec<_> = said.collect();
    assert!(matches!(said.as_slice(), [line] if line.contains("pod-a") && line.contains("WARN")), "{said:?}");
}

/// Ten streams on `pod-a`, which drains, and ten on `pod-b`; a quarter of the clients may be away.
async fn a_quarter_away(proxy: &Proxy) -> (Vec<Visitor>, Vec<tokio::task::JoinHandle<Left>>, Vec<Client>) {
    let (mut visitors, mut leaving, mut staying) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..10 {
        let client = Client::on(proxy, "pod-a").await;
        visitors.push(client.visitor);
        leaving.push(client.stream);
        staying.push(Client::on(proxy, "pod-b").await);
    }
    (visitors, watch(leaving), staying)
}

#[tokio::test]
async fn a_budget_in_percent_lets_the_next_go_when_one_is_back() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with(BALANCE).with("sse: {keepAlive: 1s}");
    let line = "drain: {spread: 0s, timeout: 1h, returnWindow: 1h, budget: {percent: 25}}";
    let proxy = setup.with(line).start().await;
    let (visitors, watched, mut staying) = a_quarter_away(&proxy).await;
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    proxy.wait_metric(CLOSED, &DRAINED, 5.0).await;
    proxy.pass_keep_alives("/silent", 2).await;
    assert_eq!(proxy.metric(CLOSED, &DRAINED).await, 5.0, "a quarter of 20 is away, and nobody else leaves");
    for visitor in &visitors[..2] {
        staying.push(Client::back(visitor.clone()).await);
    }
    proxy.wait_metric(CLOSED, &DRAINED, 7.0).await;
    proxy.pass_keep_alives("/silent", 2).await;
    assert_eq!(proxy.metric(CLOSED, &DRAINED).await, 7.0, "two are back, two more have left");
    let mut back = 2;
    for visitor in &visitors[2..] {
        staying.push(Client::back(visitor.clone()).await);
        back += 1;
        proxy.wait_metric_at_least(CLOSED, &DRAINED, f64::from(10.min(back + 5))).await;
    }
    assert!(
        all(watched)
            .await
            .iter()
            .all(|left| left.goodbye().iter().all(|item| matches!(item, Item::Comment(_))))
    );
    assert_eq!(proxy.metric(EXCEEDED, &[]).await, 0.0);
}

#[tokio::test]
async fn clients_that_do_not_come_back_hold_up_the_others_until_they_are_lost() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with(BALANCE);
    let line = "drain: {spread: 0s, timeout: 1h, returnWindow: 1s, budget: {percent: 25}}";
    let proxy = setup.with(line).start().await;
    let (_visitors, watched, _staying) = a_quarter_away(&proxy).await;
    assert_eq!(operate(&proxy, "pod-a", "drain").await.status, 200);
    let mut left = all(watched).await;
    left.sort_by_key(|one| one.at);
    let pause = left[5].at - left[4].at;
    assert!(pause > Duration::from_millis(500), "the sixth left {pause:?} after the fifth");
    proxy.wait_metric("podpin_reconnects_total", &[("outcome", "lost")], 10.0).await;
}

#[tokio::test]
async fn those_that_stay_leave_at_their_pace_while_others_leave_by_themselves() {
    let (pods, file, proxy) = on_one_pod(&["drain: {spread: 1s, timeout: 30s}"]).await;
    // The last of a departure is not left over when others leave by themselves meanwhile.
    let mut clients = crowd(&proxy, 40).await;
    let kept = clients.split_off(10);
    let watched = watch(streams(kept));
    drain(&pods, &file);
    drop(clients);
    assert!(all(watched).await.iter().all(|one| one.goodbye().is_empty()));
    assert_ne!(Request::events("/events").open(proxy.address).await.next_data().await, "pod-a");
}
