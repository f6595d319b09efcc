//! Routes with several services: who goes where by weight, and who stays.

mod hashed;
mod keeping;
mod leaving;

use std::collections::BTreeMap;

use podpin_testkit::{H2Connection, Pod, Proxy, Request, Setup, Visitor};

const DECISIONS: &str = "podpin_affinity_decisions_total";

/// `chat` on pod-a and pod-b, `chat-next` on pod-c.
fn setup(pods: &[Pod; 3], weights: [u32; 2]) -> Setup {
    both(pods).route(&route(weights))
}

/// The same, with this line in both services.
fn lines(pods: &[Pod; 3], weights: [u32; 2], line: &str) -> Setup {
    let chat = Setup::chat(&[&pods[0], &pods[1]]).with(line);
    chat.service("chat-next", &[&pods[2]]).with(line).route(&route(weights)).h2c()
}

/// The services without a route.
fn both(pods: &[Pod; 3]) -> Setup {
    Setup::chat(&[&pods[0], &pods[1]]).service("chat-next", &[&pods[2]]).h2c()
}

fn route([chat, next]: [u32; 2]) -> String {
    format!(
        "{{name: all, backends: [{{service: chat, weight: {chat}}}, {{service: chat-next, weight: {next}}}]}}"
    )
}

/// The pod that all ways of asking with these cookies come to.
async fn who(proxy: &Proxy, visitor: &Visitor) -> String {
    let mut visitor = visitor.at(proxy.address);
    let cookies: Vec<_> = ["podpin-chat", "podpin-chat-next"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", visitor.cookie(name)?)))
        .collect();
    let cookies = cookies.join("; ");
    let mut h2 = H2Connection::open(proxy.address).await;
    let answers = [
        visitor.clone().get("/who").await.text(),
        h2.send(&Request::get("/who").header("Cookie", &cookies)).await.text(),
        h2.events(&Request::events("/events").header("Cookie", &cookies)).await.next_data().await,
        visitor.clone().send(Request::new("POST", "/who").body("x")).await.text(),
        visitor.events("/events").await.next_data().await,
    ];
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    answers[0].clone()
}

#[tokio::test]
async fn new_clients_are_split_by_weight_and_counted_where_they_went() {
    let pods = Pod::start_three().await;
    let proxy = setup(&pods, [3, 1]).start().await;
    let mut met: BTreeMap<String, u32> = BTreeMap::new();
    for client in 0..200 {
        let name = if client % 2 == 0 {
            proxy.get("/who").await.text()
        } else {
            Request::events("/events").open(proxy.address).await.next_data().await
        };
        *met.entry(name).or_default() += 1;
    }
    // 50 are expected, with a standard deviation of 6: not in a thousand million runs.
    let next = met["pod-c"];
    assert!((14..=87).contains(&next), "{met:?}");
    for (service, count) in [("chat", 200 - next), ("chat-next", next)] {
        let labels = [("service", service), ("result", "new")];
        proxy.wait_metric(DECISIONS, &labels, f64::from(count)).await;
        let labels = [("service", service), ("route", "all")];
        proxy.wait_metric("podpin_requests_total", &labels, f64::from(count)).await;
    }
    let line = proxy.access_log_line(|line| line["service"] == "chat-next").await;
    assert_eq!((line["route"].as_str(), line["endpoint"].as_str()), (Some("all"), Some("pod-c")));
}

#[tokio::test]
async fn only_the_service_that_was_chosen_sets_its_cookie() {
    let pods = Pod::start_three().await;
    let proxy = setup(&pods, [1, 1]).start().await;
    for name in ["pod-a", "pod-c"] {
        let mut visitor = proxy.pinned_to(name).await;
        let held = [visitor.cookie("podpin-chat").is_some(), visitor.cookie("podpin-chat-next").is_some()];
        assert_eq!(held, [name == "pod-a", name == "pod-c"]);
        assert_eq!(visitor.get("/who").await.header("set-cookie"), None);
    }
}

#[tokio::test]
async fn a_service_without_endpoints_refuses_its_share_and_no_other_stands_in() {
    let pods = Pod::start_three().await;
    let setup = Setup::chat(&[&pods[0]]).service_at("chat-next", &[]).route(&route([1, 1]));
    let proxy = setup.start().await;
    let mut statuses = [0_u32, 0];
    while statuses.contains(&0) {
        let status = proxy.get("/who").await.status;
        assert!(status == 200 || status == 503, "{status}");
        statuses[usize::from(status == 503)] += 1;
    }
    let labels = [("service", "chat-next"), ("kind", "no_endpoint")];
    proxy.wait_metric("podpin_refusals_total", &labels, f64::from(statuses[1])).await;
    assert_eq!(u32::try_from(pods[0].requests().len()), Ok(statuses[0]));
}
