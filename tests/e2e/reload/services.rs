//! Services that come, change and go: endpoints, discovery, accounts.

use podpin_testkit::{
    ApiServer, Ending, EndpointsFile, Kubeconfig, On, Pod, Reply, Request, Setup, Signal, Slice, SlicePod,
    start_pods, wait_for,
};

use super::{QUICK, silent_pods};

#[tokio::test]
async fn an_endpoint_that_the_new_list_does_not_have_is_left_and_the_others_are_not() {
    let pods = silent_pods(&["pod-a", "pod-b"]).await;
    let quick = |pods: &[&Pod]| Setup::chat(pods).with(QUICK);
    let proxy = quick(&[&pods[0], &pods[1]]).start().await;
    let mut clients = Vec::new();
    for pod in &pods {
        let mut visitor = proxy.pinned_to(pod.name()).await;
        clients.push((visitor.events("/events").await, pod.next_stream().await));
    }
    proxy.reload(&quick(&[&pods[0]])).await;
    let (mut left, _stream) = clients.pop().unwrap();
    assert_eq!(left.rest().await.1, Ending::Clean);
    let (mut stays, mut stream) = clients.pop().unwrap();
    stream.event("on").await;
    assert_eq!(stays.next_data().await, "on");
}

#[tokio::test]
async fn an_endpoint_that_stays_in_the_list_keeps_its_drain_and_its_count() {
    let pods = silent_pods(&["pod-a", "pod-b"]).await;
    let setup = Setup::chat(&[&pods[0], &pods[1]]).with("drain: {spread: 1h, timeout: 2h}");
    let proxy = setup.start().await;
    let mut visitor = proxy.pinned_to("pod-a").await;
    let _stream = visitor.events("/events").await;
    Request::new("POST", "/api/endpoints/chat/pod-a/drain").send(proxy.admin).await;
    proxy.reload(&setup.clone().with("timeouts: {connect: 1s}")).await;
    let listed = proxy.endpoints("chat").await;
    assert_eq!((&listed[0]["state"], &listed[0]["streams"]), (&"draining".into(), &1.into()), "{listed:?}");
    assert_eq!(proxy.metric("podpin_drain_streams_remaining", &[("endpoint", "pod-a")]).await, 1.0);
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
}

#[tokio::test]
async fn a_service_that_is_gone_leaves_and_one_of_its_name_begins_anew() {
    let pods = silent_pods(&["pod-a", "pod-b"]).await;
    let one = Setup::chat(&[&pods[0]]);
    let two = one.clone().service("news", &[&pods[1]]).with(QUICK);
    let two =
        two.route("{name: all, service: chat}").route("{name: news, hostnames: [news.test], service: news}");
    let proxy = two.start().await;
    let open = async || Request::events("/events").host("news.test").open(proxy.address).await;
    let mut client = open().await;
    let _stream = pods[1].next_stream().await;
    proxy.reload(&one).await;
    assert_eq!(client.rest().await.1, Ending::Clean);
    wait_for("its metrics to be of the past only", async || {
        let metrics = proxy.metrics().await;
        let of_news = [("service", "news")];
        let state = ["podpin_discovery_connected", "podpin_endpoints", "podpin_streams_active"];
        !state.iter().any(|name| metrics.has(name, &of_news))
            && metrics.sum("podpin_streams_closed_total", &[("service", "news"), ("reason", "drain")]) == 1.0
    })
    .await;
    proxy.reload(&two).await;
    let mut client = open().await;
    let mut stream = pods[1].next_stream().await;
    stream.event("again").await;
    assert_eq!(client.next_data().await, "again");
    assert_eq!(proxy.metric("podpin_discovery_connected", &[("service", "news")]).await, 1.0);
    assert_eq!(proxy.metric("podpin_streams_opened_total", &[("service", "news")]).await, 2.0);
}

#[tokio::test]
async fn a_service_may_get_its_endpoints_from_elsewhere() {
    let pods = silent_pods(&["pod-a", "pod-b", "pod-c"]).await;
    let first = EndpointsFile::with(&[("pod-a", pods[0].address(), "ready")]);
    let second = EndpointsFile::with(&[("pod-b", pods[1].address(), "ready")]);
    let proxy = Setup::new().service_in("chat", &first).start().await;
    proxy.reload(&Setup::new().service_in("chat", &second)).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
    // The old file has no reader any more, the new one has.
    first.write(&[("pod-c", pods[2].address(), "ready"), ("pod-x", pods[0].address(), "notReady")]);
    second.write(&[("pod-b", pods[1].address(), "draining"), ("pod-a", pods[0].address(), "ready")]);
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "draining")]).await;
    proxy.reload(&Setup::chat(&[&pods[2]])).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-c");
    // A file that is not there yet takes nothing away.
    let absent = EndpointsFile::absent();
    proxy.reload(&Setup::new().service_in("chat", &absent)).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-c");
    absent.write(&[("pod-a", pods[0].address(), "ready")]);
    wait_for("the new file", async || proxy.get("/who").await.text() == "pod-a").await;
    assert!(!proxy.process.output().contains("pod-x"), "it listened to the old one");
    assert!(proxy.is_ready().await);
}

#[tokio::test]
async fn a_service_that_waits_for_its_endpoints_does_not_make_the_proxy_unready() {
    let pods = silent_pods(&["pod-a"]).await;
    let chat = Setup::chat(&[&pods[0]]);
    let proxy = chat.start().await;
    let absent = EndpointsFile::absent();
    proxy.reload(&chat.clone().service_in("news", &absent)).await;
    assert!(proxy.is_ready().await);
    assert!(proxy.admin_get("/readyz").await.text().contains("news"));
}

#[tokio::test]
async fn a_service_of_the_cluster_gets_no_request_before_its_first_list() {
    let pods = start_pods(&["pod-a", "pod-b"]).await;
    let port = pods[0].address().port();
    let api = ApiServer::start().await;
    let kubeconfig = api.kubeconfig();
    let source = |name: &str| format!("{{kubernetes: {{service: {name}, port: http}}}}");
    api.put(&Slice::of("chat", port).pod(SlicePod::of(&pods[0])));
    api.put(&Slice::of("news", port).pod(SlicePod::of(&pods[1])));
    let one = Setup::new().service_from("chat", &source("chat")).top(&kubeconfig.setting());
    let proxy = one.start().await;
    let two = one.clone().service_from("news", &source("news")).route("{name: all, service: news}");
    api.fail(On::List, podpin_testkit::Fault::HangBeforeHeaders);
    let lists = api.count(On::List);
    let mut reload = Box::pin(proxy.reload(&two));
    let asked = async {
        wait_for("the list to hang", async || api.count(On::List) > lists).await;
        assert_eq!(proxy.get("/who").await.text(), "pod-a", "the old route still");
        api.heal();
    };
    tokio::join!(&mut reload, asked);
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
}

#[tokio::test]
async fn the_cluster_is_not_listed_again_for_what_does_not_concern_it() {
    let pods = start_pods(&["pod-a"]).await;
    let port = pods[0].address().port();
    let api = ApiServer::start().await;
    api.put(&Slice::of("chat", port).pod(SlicePod::of(&pods[0])));
    let kubeconfig = api.kubeconfig();
    let setup = of_cluster(&kubeconfig);
    let proxy = setup.start().await;
    api.wait_watches(1).await;
    let asked = (api.count(On::List), api.count(On::Watch));
    proxy.reload(&setup.clone().with("timeouts: {connect: 1s}").top("limits: {connections: 100}")).await;
    api.put(&Slice::of("chat", port).pod(SlicePod::of(&pods[0]).terminating()));
    proxy.wait_endpoints("chat", &[("pod-a", "draining")]).await;
    assert_eq!((api.count(On::List), api.count(On::Watch)), asked);
}

/// A service of the cluster that this kubeconfig leads to.
fn of_cluster(kubeconfig: &Kubeconfig) -> Setup {
    let setup = Setup::new().service_from("chat", "{kubernetes: {service: chat, port: http}}");
    setup.top(&kubeconfig.setting())
}

#[tokio::test]
async fn a_kubeconfig_that_leads_elsewhere_now_is_followed_after_a_reload_and_a_broken_one_is_refused() {
    let pods = start_pods(&["pod-a", "pod-b"]).await;
    let port = pods[0].address().port();
    let chat = |pods: &[Pod]| Slice::of("chat", port).pods(pods.iter().map(SlicePod::of));
    let (old, new) = (ApiServer::start().await, ApiServer::start().await);
    old.put(&chat(&pods[..1]));
    new.put(&chat(&pods));
    let kubeconfig = old.kubeconfig();
    let proxy = of_cluster(&kubeconfig).start().await;
    let mut client = Request::events("/events").open(proxy.address).await;
    let mut stream = pods[0].next_stream().await;
    assert_eq!(client.next_data().await, "pod-a");
    let hang_up = async |result| proxy.reload_with(result, || proxy.signal(Signal::HUP)).await;
    std::fs::copy(new.kubeconfig().path(), kubeconfig.path()).unwrap();
    hang_up("success").await;
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    old.wait_watches(0).await;
    stream.event("on").await;
    assert_eq!(client.next_data().await, "on");
    std::fs::write(kubeconfig.path(), "clusters: nonsense").unwrap();
    hang_up("failure").await;
    let named = kubeconfig.path().display().to_string();
    wait_for("what is wrong", async || proxy.process.stderr().iter().any(|line| line.contains(&named))).await;
    new.put(&chat(&pods[1..]));
    proxy.wait_endpoints("chat", &[("pod-b", "ready")]).await;
}

#[tokio::test]
async fn the_authority_of_an_api_server_is_read_again_at_a_reload() {
    let (api, other) = (ApiServer::start_tls().await, ApiServer::start_tls().await);
    let kubeconfig = api.kubeconfig();
    let authority = |kubeconfig: &Kubeconfig| {
        let path = kubeconfig.path().with_file_name("ca.crt");
        (std::fs::read_to_string(&path).unwrap(), path)
    };
    let proxy = of_cluster(&kubeconfig).start().await;
    api.wait_watches(1).await;
    let lists = api.count(On::List);
    // Before the old one ends, the next is added: until a request fails, only a reload can tell.
    let ((old, path), (next, _)) = (authority(&kubeconfig), authority(&other.kubeconfig()));
    std::fs::write(path, [old, next].concat()).unwrap();
    proxy.reload_with("success", || proxy.signal(Signal::HUP)).await;
    wait_for("a list by another client", async || api.count(On::List) > lists).await;
}

#[tokio::test]
async fn health_checks_begin_change_and_end_and_leave_nobody_ejected() {
    let pods = silent_pods(&["pod-a", "pod-b", "pod-c"]).await;
    for pod in &pods {
        pod.answer("/healthz", Reply::new(204));
        pod.answer("/ready", Reply::new(204));
    }
    pods[0].answer("/ready", Reply::new(503));
    let all = Setup::chat(&[&pods[0], &pods[1], &pods[2]]);
    let checked = |path: &str| {
        let times = "interval: 100ms, timeout: 300ms, failures: 2, successes: 2";
        all.clone().with(&format!("health: {{active: {{path: {path}, {times}}}}}"))
    };
    let ejected = async |proxy: &podpin_testkit::Proxy| {
        let listed = proxy.endpoints("chat").await;
        listed.iter().filter(|one| one["ejected"] == true).count()
    };
    let proxy = all.start().await;
    proxy.reload(&checked("/healthz")).await;
    wait_for("a check", async || pods[0].targets().contains(&"/healthz".to_owned())).await;
    proxy.reload(&checked("/ready")).await;
    wait_for("pod-a to be ejected", async || ejected(&proxy).await == 1).await;
    proxy.reload(&all).await;
    assert_eq!(ejected(&proxy).await, 0);
}
