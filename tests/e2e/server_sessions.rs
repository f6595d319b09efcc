//! Session ids that the pod issues (`Mcp-Session-Id` of the Model Context Protocol): bound to the pod, and unknown to it.

use podpin_testkit::{
    EndpointsFile, H2Connection, Pod, Proxy, Reply, Request, Response, Setup, StreamAnswer,
};

const HEADER: &str = "Mcp-Session-Id";
const BY_HEADER: &str = "affinity: {header: Mcp-Session-Id, cookie: off}";

/// Three pods that issue session ids of their own on `/mcp`, which other paths do not repeat.
async fn pods() -> [Pod; 3] {
    let pods = Pod::start_three().await;
    for pod in &pods {
        let issued = format!("{}-0123456789abcdef", pod.name());
        pod.answer("/mcp", Reply::new(200).header(HEADER, &issued).body(pod.name()));
        pod.answer(
            "/live",
            StreamAnswer::new().header(HEADER, &issued).opening(&format!("data: {}\n\n", pod.name())),
        );
    }
    pods
}

async fn initialize(proxy: &Proxy) -> Response {
    Request::new("POST", "/mcp").body("{}").send(proxy.address).await
}

/// The pod that an ordinary request and a stream with this id come to.
async fn who(proxy: &Proxy, id: &str) -> String {
    let asked = Request::new("POST", "/who").header(HEADER, id).body("{}").send(proxy.address).await.text();
    let stream = Request::events("/events").header(HEADER, id).open(proxy.address).await.next_data().await;
    assert_eq!(asked, stream);
    asked
}

#[tokio::test]
async fn the_client_comes_back_to_the_pod_that_issued_its_session_and_the_pod_sees_its_own_id() {
    let pods = pods().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(BY_HEADER).h2c();
    let (one, other) = (setup.start().await, setup.start().await);
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let issued = initialize(&one).await;
        let (id, pod) = (issued.header(HEADER).unwrap().to_owned(), issued.text());
        assert!(!id.contains("0123456789abcdef") && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
        assert_eq!(issued.header("cache-control"), Some("private"));
        for proxy in [&one, &other] {
            assert_eq!(who(proxy, &id).await, pod, "another pod than the one that issued it");
            let again = Request::get("/mcp").header(HEADER, &id).send(proxy.address).await;
            assert_eq!(again.header(HEADER), Some(id.as_str()), "the client's id changed for no reason");
            let live = Request::events("/live").header(HEADER, &id).open(proxy.address).await;
            assert_eq!(live.header(HEADER), Some(id.as_str()));
        }
        let mut h2 = H2Connection::open(one.address).await;
        assert_eq!(h2.send(&Request::get("/who").header(HEADER, &id)).await.text(), pod);
        let home = pods.iter().find(|one| one.name() == pod).unwrap();
        let mut seen = home.requests();
        seen.retain(|request| request.header(HEADER).is_some());
        let own = format!("{pod}-0123456789abcdef");
        assert!(seen.iter().all(|request| request.header(HEADER) == Some(&own)), "{seen:?}");
        assert!(seen.iter().all(|request| request.head.all(HEADER).len() == 1));
        met.insert(pod);
    }
    assert!(met.len() > 1, "everybody went to {met:?}");
}

#[tokio::test]
async fn a_session_whose_pod_is_gone_is_bound_to_the_pod_that_takes_it_over() {
    let pods = pods().await;
    let all: Vec<_> = pods.iter().map(|pod| (pod.name(), pod.address(), "ready")).collect();
    let file = EndpointsFile::with(&all);
    let setup = Setup::new().service_in("chat", &file).with(BY_HEADER);
    let (one, other) = (setup.start().await, setup.start().await);
    let issued = initialize(&one).await;
    let (id, pod) = (issued.header(HEADER).unwrap().to_owned(), issued.text());
    let left: Vec<_> = all.iter().filter(|(name, ..)| *name != pod).copied().collect();
    file.write(&left);
    let expected: Vec<_> = left.iter().map(|(name, _, state)| (*name, *state)).collect();
    one.wait_endpoints("chat", &expected).await;
    other.wait_endpoints("chat", &expected).await;
    let next = who(&one, &id).await;
    assert_ne!(next, pod);
    assert_eq!(who(&other, &id).await, next, "the replicas disagree");
    let successor = pods.iter().find(|one| one.name() == next).unwrap();
    let seen = successor.requests().into_iter().rfind(|seen| seen.header(HEADER).is_some()).unwrap();
    assert_eq!(seen.header(HEADER), Some(format!("{pod}-0123456789abcdef").as_str()));
    assert_eq!(seen.header("x-podpin-repinned"), Some("gone"));
    let rebound = Request::get("/mcp").header(HEADER, &id).send(other.address).await;
    let new = rebound.header(HEADER).unwrap().to_owned();
    assert_ne!(new, id);
    assert_eq!(who(&one, &new).await, next);
    one.wait_metric("podpin_affinity_decisions_total", &[("result", "repinned")], 2.0).await;
    one.wait_metric("podpin_affinity_decisions_total", &[("result", "pinned")], 2.0).await;
}

#[tokio::test]
async fn a_session_stays_with_the_pod_that_issued_it_while_that_drains() {
    let pods = pods().await;
    let all: Vec<_> = pods.iter().map(|pod| (pod.name(), pod.address(), "ready")).collect();
    let file = EndpointsFile::with(&all);
    let proxy = Setup::new().service_in("chat", &file).with(BY_HEADER).start().await;
    let issued = initialize(&proxy).await;
    let (id, pod) = (issued.header(HEADER).unwrap().to_owned(), issued.text());
    let draining = |name| if name == pod { "draining" } else { "ready" };
    let changed: Vec<_> = all.iter().map(|(name, at, _)| (*name, *at, draining(*name))).collect();
    file.write(&changed);
    let expected: Vec<_> = all.iter().map(|(name, ..)| (*name, draining(*name))).collect();
    proxy.wait_endpoints("chat", &expected).await;
    assert_eq!(who(&proxy, &id).await, pod, "another pod's 404 would end the session");
    for _ in 0..6 {
        assert_ne!(initialize(&proxy).await.text(), pod, "no new session goes there");
    }
}

#[tokio::test]
async fn a_forged_id_is_counted_and_hashed_as_any_value_of_the_clients_own() {
    let pods = pods().await;
    let setup = Setup::chat(&[&pods[0], &pods[1], &pods[2]]).with(BY_HEADER);
    let (proxy, stranger) =
        (setup.start().await, setup.clone().key_material(&[("k1", "other")]).start().await);
    let forged = initialize(&stranger).await.header(HEADER).unwrap().to_owned();
    let pod = who(&proxy, &forged).await;
    assert_eq!(who(&proxy, &forged).await, pod);
    let home = pods.iter().find(|one| one.name() == pod).unwrap();
    let seen = home.requests().into_iter().rfind(|seen| seen.header(HEADER).is_some()).unwrap();
    assert_eq!(seen.header(HEADER), Some(forged.as_str()));
    proxy.wait_metric("podpin_affinity_decisions_total", &[("result", "forged")], 4.0).await;
}
