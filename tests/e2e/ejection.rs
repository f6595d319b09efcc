//! An application's answer is not its pod's illness: what one client asks for takes no pod from the others.

use podpin_testkit::{Answer, H2Connection, Pod, Proxy, Reply, Request, Setup, free_port};

const EJECTIONS: &str = "podpin_endpoint_ejections_total";

/// Three pods whose application answers these paths as ill ones would, and everything else well.
async fn pods() -> [Pod; 3] {
    let pods = Pod::start_three().await;
    for pod in &pods {
        let busy = || Reply::new(503).header("Retry-After", "7").header("X-Pod", pod.name()).body("busy");
        pod.answer("/busy", busy());
        pod.answer("/crash", Answer::Reset);
        pod.answer("/late", Answer::ByHand);
    }
    pods
}

fn setup(pods: &[Pod; 3]) -> Setup {
    Setup::chat(&[&pods[0], &pods[1], &pods[2]]).top("trustedProxies: [127.0.0.0/8]")
}

async fn nothing_is_ejected(proxy: &Proxy) {
    assert_eq!(proxy.metric(EJECTIONS, &[]).await, 0.0);
    assert!(proxy.endpoints("chat").await.iter().all(|endpoint| endpoint["ejected"] == false));
}

/// A request as a client at this address would send it, through a proxy that is trusted.
fn from(client: usize, request: Request) -> Request {
    request.header("X-Forwarded-For", &format!("192.0.2.{client}"))
}

#[tokio::test]
async fn what_an_application_answers_with_503_ejects_no_pod() {
    let pods = pods().await;
    let proxy = setup(&pods).h2c().start().await;
    let mut own = proxy.visitor();
    let home = own.get("/who").await.text();
    for request in [Request::events("/busy"), Request::get("/busy"), Request::websocket("/busy")] {
        for _ in 0..8 {
            assert_eq!(request.send(proxy.address).await.status, 503);
        }
    }
    let mut connection = H2Connection::open(proxy.address).await;
    for _ in 0..8 {
        assert_eq!(connection.send(&Request::events("/busy")).await.status, 503);
    }
    nothing_is_ejected(&proxy).await;
    assert_eq!(own.get("/who").await.text(), home);
}

#[tokio::test]
async fn a_pinned_client_gets_the_503_of_its_pod_and_no_other_is_asked() {
    let pods = pods().await;
    let proxy = setup(&pods).start().await;
    let mut visitor = proxy.visitor();
    let home = visitor.get("/who").await.text();
    for _ in 0..8 {
        let response = visitor.send(Request::events("/busy")).await;
        assert_eq!((response.status, response.text().as_str()), (503, "busy"));
        assert_eq!((response.header("retry-after"), response.header("x-pod")), (Some("7"), Some(&*home)));
    }
    let others = pods.iter().filter(|pod| pod.name() != home);
    assert_eq!(others.map(|pod| pod.requests().len()).sum::<usize>(), 0);
}

#[tokio::test]
async fn late_heads_eject_no_pod() {
    let pods = pods().await;
    let patience = "timeouts: {responseHeader: 100ms}";
    let health = "health: {passive: {failures: 1, ejection: 60s}}";
    let proxy = setup(&pods).with(patience).with(health).with("sse: {unavailable: status}").start().await;
    for request in [Request::events("/late"), Request::get("/late"), Request::websocket("/late")] {
        for client in 0..3 {
            assert_eq!(from(client, request.clone()).send(proxy.address).await.status, 504);
        }
    }
    nothing_is_ejected(&proxy).await;
}

#[tokio::test]
async fn resets_that_one_client_provokes_eject_no_pod_and_those_of_several_do() {
    let pods = pods().await;
    let health = "health: {passive: {failures: 3, ejection: 60s}}";
    let proxy = setup(&pods).with(health).with("retries: {attempts: 0}").start().await;
    for request in [Request::events("/crash"), Request::get("/crash"), Request::websocket("/crash")] {
        for _ in 0..12 {
            from(1, request.clone()).send(proxy.address).await;
        }
    }
    nothing_is_ejected(&proxy).await;
    for client in 0..30 {
        from(client, Request::get("/crash")).send(proxy.address).await;
    }
    proxy.wait_metric_at_least(EJECTIONS, &[], 1.0).await;
}

#[tokio::test]
async fn statuses_eject_where_they_are_configured() {
    let pods = pods().await;
    let health = "health: {passive: {failures: 3, ejection: 60s, statuses: [503]}}";
    let proxy = setup(&pods).with(health).start().await;
    for _ in 0..12 {
        from(1, Request::get("/busy")).send(proxy.address).await;
    }
    nothing_is_ejected(&proxy).await;
    for client in 0..30 {
        from(client, Request::get("/busy")).send(proxy.address).await;
    }
    proxy.wait_metric_at_least(EJECTIONS, &[], 1.0).await;
}

#[tokio::test]
async fn only_a_request_for_nothing_but_event_streams_is_asked_back() {
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let proxy =
        Setup::new().service_at("chat", &[("dead", nobody)]).with("health: {passive: off}").start().await;
    let accepting = |accept: &str| Request::get("/events").header("Accept", accept);
    for (accept, status) in [
        ("text/event-stream", 200),
        ("text/event-stream, application/json;q=0", 200),
        ("text/event-stream, application/json", 502),
        ("text/event-stream, */*", 502),
    ] {
        assert_eq!(accepting(accept).send(proxy.address).await.status, status, "{accept}");
    }
}
