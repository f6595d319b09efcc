//! Endpoints from names in DNS, asked of a real name server (dnsmasq), and of one that misbehaves.

use podpin_testkit::{BadNameServer, NameServer, Network, Pod, Proxy, Setup, start_pods, wait_for};

/// Discovery of the service `chat` from `chat.test` on the pods' port, at this name server.
fn setup(server: &NameServer, pods: &[Pod]) -> Setup {
    let (port, resolver) = (pods[0].address().port(), server.address());
    let keys =
        format!("{{dns: {{name: chat.test, port: {port}, interval: 200ms, resolver: \"{resolver}\"}}}}");
    Setup::new().service_from("chat", &keys)
}

/// `name address` lines for pods.
fn entries(pods: &[&Pod]) -> Vec<(String, String)> {
    pods.iter().map(|pod| ("chat.test".to_owned(), pod.address().ip().to_string())).collect()
}

fn set(server: &NameServer, pods: &[&Pod]) {
    let entries = entries(pods);
    server.set(&entries.iter().map(|(name, ip)| (name.as_str(), ip.as_str())).collect::<Vec<_>>());
}

async fn wait_listed(proxy: &Proxy, pods: &[(&Pod, &str)]) {
    let ips: Vec<String> = pods.iter().map(|(pod, _)| pod.address().ip().to_string()).collect();
    let listed: Vec<(&str, &str)> =
        ips.iter().map(String::as_str).zip(pods.iter().map(|one| one.1)).collect();
    proxy.wait_endpoints("chat", &listed).await;
}

const CONNECTED: (&str, [(&str, &str); 1]) = ("podpin_discovery_connected", [("service", "chat")]);

#[tokio::test]
async fn the_addresses_of_a_name_are_endpoints_and_those_that_vanish_drain() {
    let (server, pods) = (NameServer::start().await, start_pods(&["pod-a", "pod-b"]).await);
    set(&server, &[&pods[0]]);
    let proxy = setup(&server, &pods).with("drain: {spread: 100ms, timeout: 3s}").start().await;
    wait_listed(&proxy, &[(&pods[0], "ready")]).await;
    let mut visitor = proxy.pinned_to("pod-a").await;
    let mut open = visitor.events("/events").await;
    assert_eq!(open.next_data().await, "pod-a");
    set(&server, &[&pods[0], &pods[1]]);
    wait_listed(&proxy, &[(&pods[0], "ready"), (&pods[1], "ready")]).await;
    assert_eq!(visitor.get("/who").await.text(), "pod-a", "its pin holds");
    set(&server, &[&pods[1]]);
    wait_listed(&proxy, &[(&pods[0], "draining"), (&pods[1], "ready")]).await;
    assert_eq!(visitor.get("/who").await.text(), "pod-b");
    proxy.wait_metric("podpin_drain_departures_total", &[("kind", "polite")], 1.0).await;
    wait_listed(&proxy, &[(&pods[1], "ready")]).await;
}

#[tokio::test]
async fn a_name_that_disappears_drains_and_its_pods_stand_in_meanwhile() {
    let (server, pods) = (NameServer::start().await, start_pods(&["pod-a"]).await);
    set(&server, &[&pods[0]]);
    let proxy = setup(&server, &pods).with("drain: {spread: 100ms, timeout: 3s}").start().await;
    wait_listed(&proxy, &[(&pods[0], "ready")]).await;
    set(&server, &[]);
    wait_listed(&proxy, &[(&pods[0], "draining")]).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a", "nobody is ready");
    proxy.wait_endpoints("chat", &[]).await;
    assert_eq!(proxy.get("/who").await.status, 503);
    set(&server, &[&pods[0]]);
    wait_listed(&proxy, &[(&pods[0], "ready")]).await;
    let said = proxy.process.stderr().into_iter().filter(|line| line.contains("does not exist"));
    assert_eq!(said.count(), 1);
}

#[tokio::test]
async fn without_an_answer_the_last_good_one_is_kept_and_the_log_says_so_once() {
    let (mut server, pods) = (NameServer::start().await, start_pods(&["pod-a"]).await);
    set(&server, &[&pods[0]]);
    let proxy = setup(&server, &pods).start().await;
    wait_listed(&proxy, &[(&pods[0], "ready")]).await;
    for (round, code) in [Some(2), Some(5), None].into_iter().enumerate() {
        server.stop().await;
        let bad = BadNameServer::start(server.address(), code).await;
        proxy.wait_metric(CONNECTED.0, &CONNECTED.1, 0.0).await;
        let errors = [("service", "chat"), ("reason", "dns")];
        let before = proxy.metric("podpin_discovery_errors_total", &errors).await;
        proxy.wait_metric_at_least("podpin_discovery_errors_total", &errors, before + 1.0).await;
        wait_listed(&proxy, &[(&pods[0], "ready")]).await;
        assert_eq!(proxy.get("/who").await.text(), "pod-a");
        bad.stop().await;
        server.start_again().await;
        proxy.wait_metric(CONNECTED.0, &CONNECTED.1, 1.0).await;
        let said = proxy.process.stderr().into_iter().filter(|line| line.contains("cannot be looked up"));
        assert_eq!(said.count(), round + 1);
    }
}

#[tokio::test]
async fn a_replica_is_not_ready_before_the_first_answer() {
    let (mut server, pods) = (NameServer::start().await, start_pods(&["pod-a"]).await);
    set(&server, &[&pods[0]]);
    server.stop().await;
    let proxy = setup(&server, &pods).start_alive().await;
    proxy.wait_metric(CONNECTED.0, &CONNECTED.1, 0.0).await;
    assert_eq!(proxy.admin_get("/readyz").await.status, 503);
    server.start_again().await;
    wait_for("readiness", async || proxy.is_ready().await).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
}

#[tokio::test]
async fn five_hundred_addresses_do_not_fit_a_datagram_and_all_are_listed() {
    let (server, pods) = (NameServer::start().await, start_pods(&["pod-a"]).await);
    let ips: Vec<String> = (0..500_u16).map(|n| format!("127.1.{}.{}", n / 250, n % 250 + 1)).collect();
    server.set(&ips.iter().map(|ip| ("chat.test", ip.as_str())).collect::<Vec<_>>());
    let proxy = setup(&server, &pods).start().await;
    wait_for("all addresses", async || proxy.endpoints("chat").await.len() == 500).await;
    proxy.wait_metric("podpin_endpoints", &[("state", "ready")], 500.0).await;
}

#[tokio::test]
async fn ipv6_is_used_where_there_is_no_ipv4() {
    let (server, pods) = (NameServer::start().await, start_pods(&["pod-a"]).await);
    server.set(&[("chat.test", "::1"), ("chat.test", "fd00::7")]);
    let proxy = setup(&server, &pods).start().await;
    proxy.wait_endpoints("chat", &[("::1", "ready"), ("fd00::7", "ready")]).await;
    server.set(&[("chat.test", "::1"), ("chat.test", "127.0.0.2")]);
    proxy
        .wait_endpoints("chat", &[("127.0.0.2", "ready"), ("::1", "draining"), ("fd00::7", "draining")])
        .await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
}

#[tokio::test]
async fn srv_records_say_hosts_and_ports() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await, Pod::start("pod-c").await];
    let srv = |pod: &Pod, priority: u8| {
        let (host, port) = (pod.name(), pod.address().port());
        format!("--srv-host=_http._tcp.chat.test,{host}.test,{port},{priority},10")
    };
    let records = [srv(&pods[0], 1), srv(&pods[1], 1), srv(&pods[2], 2)];
    let server = NameServer::start_with(&records.each_ref().map(String::as_str)).await;
    server.set(&["pod-a.test", "pod-b.test", "pod-c.test"].map(|name| (name, "127.0.0.1")));
    let resolver = server.address();
    let keys = format!("{{dns: {{name: _http._tcp.chat.test, interval: 200ms, resolver: \"{resolver}\"}}}}");
    let proxy = Setup::new().service_from("chat", &keys).start().await;
    // The third has a worse priority.
    proxy.wait_endpoints("chat", &[("pod-a.test", "ready"), ("pod-b.test", "ready")]).await;
    assert_eq!(proxy.endpoints("chat").await[0]["weight"], 10);
    let names: Vec<String> = (0..2).map(|n| pods[n].name().to_owned()).collect();
    assert!(names.contains(&proxy.get("/who").await.text()));
}

#[tokio::test]
async fn a_static_endpoint_may_be_named_by_its_host() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    let (named, fixed) = (pods[0].address().port(), pods[1].address());
    let keys = format!(
        "{{static: [{{name: pod-a, address: \"localhost:{named}\", weight: 3}}, {{name: pod-b, address: \"{fixed}\"}}]}}"
    );
    let proxy = Setup::new().service_from("chat", &keys).start().await;
    proxy.wait_endpoints("chat", &[("pod-a", "ready"), ("pod-b", "ready")]).await;
    assert_eq!(proxy.endpoints("chat").await[0]["address"], format!("127.0.0.1:{named}"));
    let mut visitor = proxy.pinned_to("pod-a").await;
    assert_eq!(visitor.get("/who").await.text(), "pod-a");
    proxy.wait_metric(CONNECTED.0, &CONNECTED.1, 1.0).await;
}

/// As the kubelet writes it for Pods: a search list, and names of fewer than five dots are looked up in it first.
const RESOLV_CONF: &str = "search prod.svc.test svc.test test\noptions ndots:5 timeout:1\nnameserver";

#[test]
fn without_a_resolver_names_are_looked_up_as_etc_resolv_conf_says() {
    Network::with(async |network| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        // The file itself changes, not the one that is at its path: a Pod's is mounted, too.
        let ask = |servers: &str| {
            std::fs::write(file.path(), format!("{RESOLV_CONF} {servers}\n")).expect("resolv.conf");
        };
        // Nothing listens at the first.
        ask("127.0.0.52\nnameserver 127.0.0.53");
        network.resolve_as(file.path());
        let first = NameServer::start_at(([127, 0, 0, 53], 53).into(), &[]).await;
        let pods = start_pods(&["pod-a", "pod-b"]).await;
        let entry = |name, pod: &Pod| (name, pod.address().ip().to_string());
        let set = |server: &NameServer, entries: &[(&str, String)]| {
            server.set(&entries.iter().map(|(name, ip)| (*name, ip.as_str())).collect::<Vec<_>>());
        };
        // The search list has an order.
        set(&first, &[entry("chat.prod.svc.test", &pods[0]), entry("chat.test", &pods[1])]);
        let keys = format!("{{dns: {{name: chat, port: {}, interval: 200ms}}}}", pods[0].address().port());
        let service = Setup::new().service_from("chat", &keys).with("drain: {spread: 100ms, timeout: 1s}");
        let proxy = service.start().await;
        wait_listed(&proxy, &[(&pods[0], "ready")]).await;
        assert_eq!(proxy.get("/who").await.text(), "pod-a");
        set(&first, &[entry("chat.test", &pods[1])]);
        wait_listed(&proxy, &[(&pods[1], "ready")]).await;
        // Another name server from now on, without a signal or a reload.
        let second = NameServer::start_at(([127, 0, 0, 54], 53).into(), &[]).await;
        set(&second, &[entry("chat.svc.test", &pods[0])]);
        ask("127.0.0.54");
        wait_listed(&proxy, &[(&pods[0], "ready")]).await;
        // A file in which no server is named says nothing about the name.
        std::fs::write(file.path(), "").expect("resolv.conf");
        proxy.wait_metric(CONNECTED.0, &CONNECTED.1, 0.0).await;
        assert_eq!(proxy.get("/who").await.text(), "pod-a", "what is known stays in use");
        ask("127.0.0.54");
        proxy.wait_metric(CONNECTED.0, &CONNECTED.1, 1.0).await;
    });
}
