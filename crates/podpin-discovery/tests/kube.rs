//! The events of discovery for Services in a cluster, against the testkit's API server and every fault it knows.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that finds something else than it expects may panic anywhere"
)]

#[path = "kube/credentials.rs"]
mod credentials;
#[path = "kube/faults.rs"]
mod faults;
#[path = "kube/mismatches.rs"]
mod mismatches;
#[path = "kube/pods.rs"]
mod pods;
#[path = "kube/proxies.rs"]
mod proxies;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use podpin_config::IpFamily;
use podpin_discovery::{
    FailureKind, Known, KubeError, KubeEvent, KubeService, KubeSettings, Mismatch, PortRef, RelistReason,
    follow,
};
use podpin_endpoints::Update;
use podpin_testkit::{ApiServer, Cut, Fault, Kubeconfig, On, Slice, SlicePod, wait_for};
use serde_json::json;
use tokio::task::JoinHandle;

/// Everything that was told so far.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The endpoints by service.
    lists: BTreeMap<usize, Vec<podpin_endpoints::Observed>>,
    /// "name phase" of each endpoint by service, sorted.
    endpoints: BTreeMap<usize, Vec<String>>,
    /// Whether a service has ever been told without endpoints after it had some.
    emptied: bool,
    connected: BTreeMap<usize, bool>,
    relists: Vec<(usize, RelistReason)>,
    malformed: BTreeMap<usize, usize>,
    heard: BTreeMap<usize, usize>,
    pods_failed: BTreeMap<usize, usize>,
    /// The deadlines of a service's endpoints by name, in milliseconds since 1970.
    deadlines: BTreeMap<usize, BTreeMap<String, u64>>,
    /// Why lists and watches failed.
    failures: Vec<String>,
    /// The kinds of the failures, each attempt.
    kinds: Vec<FailureKind>,
    /// The judgements about the names of services, in their order.
    judged: Vec<(usize, Option<Mismatch>, bool)>,
    /// Whether endpoints were known before, which may stay.
    is_over: bool,
    /// How often its endpoints were told.
    told: BTreeMap<usize, usize>,
}

impl Seen {
    fn take(&mut self, event: KubeEvent) {
        match event {
            KubeEvent::Endpoints { service, update } => {
                let list = self.apply(service, update);
                let word = |one: &podpin_endpoints::Observed| {
                    format!("{} {}", one.name, one.condition.phase().as_str())
                };
                let mut words: Vec<String> = list.iter().map(word).collect();
                words.sort();
                let before = self.endpoints.insert(service, words).unwrap_or_default();
                self.emptied |= !before.is_empty() && list.is_empty();
                let deadline =
                    |one: &podpin_endpoints::Observed| Some((one.name.to_string(), one.deadline?.0));
                self.deadlines.insert(service, list.iter().filter_map(deadline).collect());
                *self.told.entry(service).or_default() += 1;
            }
            KubeEvent::Connected { service, connected } => {
                assert_ne!(
                    self.connected.insert(service, connected),
                    Some(connected),
                    "told without a change"
                );
            }
            KubeEvent::Failed { kind, words, .. } => {
                self.kinds.push(kind);
                self.failures.extend(words.map(|words| words.to_string()).filter(|words| !words.is_empty()));
            }
            KubeEvent::Judged { service, mismatch, keeps } => self.judged.push((service, mismatch, keeps)),
            KubeEvent::Heard { service } => *self.heard.entry(service).or_default() += 1,
            KubeEvent::Relist { service, reason } => {
                assert!(self.is_over || self.endpoints.contains_key(&service), "told before its endpoints");
                self.relists.push((service, reason));
            }
            KubeEvent::Malformed { service } => *self.malformed.entry(service).or_default() += 1,
            KubeEvent::PodsFailed { service } => *self.pods_failed.entry(service).or_default() += 1,
        }
    }

    /// Returns the list of a service after an update.
    fn apply(&mut self, service: usize, update: Update) -> Vec<podpin_endpoints::Observed> {
        let list = self.lists.entry(service).or_default();
        match update {
            Update::Replace(all) => *list = all,
            Update::Upsert(changed) => {
                for one in changed {
                    let held = list.iter_mut().find(|held| held.id == one.id);
                    *held.expect("only what was listed changes") = one;
                }
            }
            Update::Remove(gone) => panic!("a full list was expected without {gone:?}"),
        }
        list.clone()
    }

    fn relisted(&self, reason: RelistReason) -> usize {
        self.relists.iter().filter(|(_, why)| *why == reason).count()
    }
}

/// Services that are being followed.
struct Followed {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
    kubeconfig: Kubeconfig,
}

impl Followed {
    fn start(server: &ApiServer, services: &[&str], change: impl FnOnce(&mut KubeSettings)) -> Followed {
        let kubeconfig = server.kubeconfig();
        let mut settings = KubeSettings { kubeconfig: Some(kubeconfig.path()), ..KubeSettings::default() };
        change(&mut settings);
        Followed::services(kubeconfig, settings, services.iter().map(|name| service(name)).collect())
    }

    /// Follows the service `chat` with these settings.
    fn with(kubeconfig: Kubeconfig, settings: KubeSettings) -> Followed {
        Followed::services(kubeconfig, settings, vec![service("chat")])
    }

    fn services(kubeconfig: Kubeconfig, settings: KubeSettings, services: Vec<KubeService>) -> Followed {
        let is_over = services.iter().any(|service| service.known != Known::Nothing);
        let seen = Arc::new(Mutex::new(Seen { is_over, ..Seen::default() }));
        let into = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let ended = follow(settings, services, move |event| into.lock().unwrap().take(event)).await;
            panic!("ended: {ended:?}");
        });
        Followed { seen, task, kubeconfig }
    }

    /// Follows the service `chat` from a good start.
    async fn chat(server: &ApiServer) -> Followed {
        let followed = Followed::start(server, &["chat"], |_| {});
        followed.expect(0, &["a ready", "b ready"]).await;
        server.wait_watches(1).await;
        followed.until("connected", |seen| seen.connected.get(&0) == Some(&true)).await;
        followed
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, check: impl Fn(&Seen) -> bool) {
        assert!(!self.task.is_finished(), "following has ended");
        wait_for(what, async || check(&self.seen())).await;
    }

    async fn expect(&self, service: usize, endpoints: &[&str]) {
        let expected: Vec<String> = endpoints.iter().map(|one| (*one).to_owned()).collect();
        let what = format!("{expected:?} of service {service}");
        wait_for(&what, async || self.seen().endpoints.get(&service) == Some(&expected)).await;
    }

    async fn relisted(&self, reason: RelistReason, times: usize) {
        let what = format!("{times} lists for {reason:?}");
        wait_for(&what, async || self.seen().relisted(reason) >= times).await;
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `name`, `namespace/name`, each with `:port` or not, and with `+pods` or not.
fn service(text: &str) -> KubeService {
    let pods = text.ends_with("+pods");
    let text = text.trim_end_matches("+pods");
    let (text, port) = text.split_once(':').unwrap_or((text, "http"));
    let port = port.parse().map_or_else(|_| PortRef::Name(port.to_owned()), PortRef::Number);
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, text),
    };
    KubeService {
        namespace,
        service: name.to_owned(),
        port,
        family: IpFamily::default(),
        pods,
        known: Known::Nothing,
    }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// The slice of the service `chat` with these pods, all ready.
fn chat(pods: &[&str]) -> Slice {
    let pod = |name: &&str| SlicePod::new(name, ip(name.as_bytes()[0]));
    Slice::of("chat", 8080).pods(pods.iter().map(pod))
}

async fn server_with(pods: &[&str]) -> ApiServer {
    let server = ApiServer::start().await;
    server.put(&chat(pods));
    server
}

#[tokio::test]
async fn services_are_listed_and_then_followed_event_by_event() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    server.put(&Slice::of("chat", 8080).pods([
        SlicePod::new("a", ip(1)).terminating(),
        SlicePod::new("b", ip(2)).unready(),
        SlicePod::new("c", ip(3)),
    ]));
    followed.expect(0, &["a draining", "b resting", "c ready"]).await;
    server.put(&chat(&["d"]).name("chat-2"));
    followed.expect(0, &["a draining", "b resting", "c ready", "d ready"]).await;
    server.delete(&chat(&[]));
    followed.expect(0, &["d ready"]).await;
    assert_eq!(followed.seen().relists, [(0, RelistReason::Start)]);
    assert_eq!((server.count(On::List), server.count(On::Watch)), (1, 1));
}

#[tokio::test]
async fn there_is_one_watch_for_a_namespace_and_it_asks_for_what_is_wanted() {
    let server = server_with(&["a"]).await;
    server.put(&Slice::of("web", 80).pod(SlicePod::new("w", ip(1))).ports(&[("http", 80), ("admin", 90)]));
    server.put(&Slice::of("other", 80).pod(SlicePod::new("o", ip(2))));
    server.put(&Slice::of("chat", 8080).namespace("prod").pod(SlicePod::new("p", ip(3))));
    let services = ["chat", "web", "lab/web:admin", "web:80", "prod/chat", "web:nobody"];
    let followed = Followed::start(&server, &services, |_| {});
    server.wait_watches(2).await;
    for (number, expected) in ["a ready", "w ready", "w ready", "w ready", "p ready"].iter().enumerate() {
        followed.expect(number, &[expected]).await;
    }
    followed.expect(5, &[]).await;
    assert_eq!((server.count(On::List), server.count(On::Watch)), (2, 2));
    let mut watches = server.watches();
    watches.sort();
    let selectors = ["%28chat%2Cweb%29", "service-name%3Dchat"];
    for (target, selector) in watches.iter().zip(selectors) {
        assert!(target.contains("watch=true") && target.contains("allowWatchBookmarks=true"), "{target}");
        assert!(target.contains("timeoutSeconds=290") && target.contains("resourceVersion="), "{target}");
        assert!(target.contains(selector), "{target}");
    }
    server.bookmark();
    followed
        .until("heard of all", |seen| {
            (0..6).all(|number| seen.heard.get(&number).is_some_and(|times| *times >= 2))
        })
        .await;
}

#[tokio::test]
async fn so_many_services_that_their_names_do_not_fit_are_read_with_the_whole_namespace() {
    let server = server_with(&["a"]).await;
    let names: Vec<String> = (0..200).map(|number| format!("service-with-a-long-name-{number}")).collect();
    let mut services: Vec<&str> = names.iter().map(String::as_str).collect();
    services.push("chat");
    let followed = Followed::start(&server, &services, |_| {});
    followed.expect(200, &["a ready"]).await;
    assert!(!server.requests()[0].target.contains("labelSelector"), "{:?}", server.requests()[0]);
    followed.expect(0, &[]).await;
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let server = ApiServer::start().await;
    for number in 0..1_201 {
        server.put(&Slice::of("chat", 80).name(&format!("chat-{number}")));
    }
    server.put(&chat(&["a"]).name("chat-zzz"));
    let followed = Followed::start(&server, &["chat"], |_| {});
    followed.expect(0, &["a ready"]).await;
    assert_eq!(server.count(On::List), 3);
    // The token expires between two pages: from the start again, and at once.
    let before = server.count(On::List);
    server.cut_watches(Cut::Expired);
    server.fail_once(On::List, Fault::SlowDrip { bytes: 1 << 20, every: Duration::ZERO });
    server.fail_once(On::List, Fault::Status(410));
    followed.relisted(RelistReason::Expired, 1).await;
    assert_eq!(server.count(On::List) - before, 5);
    assert!(!followed.seen().emptied);
}

#[tokio::test]
async fn after_a_410_the_list_comes_at_once() {
    for cut in [Cut::Expired, Cut::Clean] {
        let server = server_with(&["a", "b"]).await;
        let followed = Followed::chat(&server).await;
        server.put_unseen(&chat(&["b", "c"]));
        let start = Instant::now();
        if cut == Cut::Clean {
            server.fail_once(On::Watch, Fault::Status(410));
        }
        server.cut_watches(cut);
        followed.expect(0, &["b ready", "c ready"]).await;
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        followed.relisted(RelistReason::Expired, 1).await;
        server.wait_watches(1).await;
        assert!(followed.seen().connected[&0], "a 410 is no failure");
    }
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_from_where_it_was() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    for (round, cut) in [Cut::Clean, Cut::Fin, Cut::HalfLine, Cut::Reset].into_iter().enumerate() {
        server.cut_watches(cut);
        let name = ["c", "d", "e", "f"][round];
        server.put(&chat(&["a", name]));
        followed.expect(0, &["a ready", &format!("{name} ready")]).await;
        server.wait_watches(1).await;
    }
    assert_eq!(followed.seen().relists, [(0, RelistReason::Start)]);
    assert_eq!(followed.seen().malformed, BTreeMap::new(), "half a line is nothing");
}

#[tokio::test]
async fn a_list_that_would_empty_a_service_needs_a_second_one() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    server.fail_once(On::List, Fault::EmptyList);
    server.cut_watches(Cut::Expired);
    followed.relisted(RelistReason::Confirm, 1).await;
    assert!(!followed.seen().emptied);
    assert_eq!(followed.seen().endpoints[&0], ["a ready", "b ready"]);
    // This time it is true.
    server.put_unseen(&chat(&[]));
    let start = Instant::now();
    server.cut_watches(Cut::Expired);
    followed.expect(0, &[]).await;
    assert!(start.elapsed() >= Duration::from_secs(1), "not before the second list");
    assert!(followed.seen().relisted(RelistReason::Confirm) >= 2);
}

#[tokio::test]
async fn a_service_that_is_scaled_to_nothing_is_empty_at_once() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    server.put(&chat(&[]));
    followed.expect(0, &[]).await;
    server.put(&chat(&["a"]));
    followed.expect(0, &["a ready"]).await;
    server.delete(&chat(&[]));
    followed.expect(0, &[]).await;
    assert_eq!(followed.seen().relists, [(0, RelistReason::Start)]);
}

#[tokio::test]
async fn an_etcd_restored_from_a_backup_is_noticed() {
    let server = server_with(&["a", "b"]).await;
    let backup = server.backup();
    let change = |settings: &mut KubeSettings| {
        settings.watch_timeout = Duration::from_secs(2);
        settings.relist_every = Duration::from_secs(3_600);
    };
    let followed = Followed::start(&server, &["chat"], change);
    followed.expect(0, &["a ready", "b ready"]).await;
    server.put(&chat(&["a", "c"]));
    followed.expect(0, &["a ready", "c ready"]).await;
    // From now on watches of the version that we know are open and silent.
    server.restore(&backup);
    followed.expect(0, &["a ready", "b ready"]).await;
    followed.relisted(RelistReason::Expired, 1).await;
}

#[tokio::test]
async fn lists_are_repeated_for_the_case_that_an_event_was_lost() {
    let server = server_with(&["a", "b"]).await;
    let often = |settings: &mut KubeSettings| settings.relist_every = Duration::from_millis(500);
    let followed = Followed::start(&server, &["chat"], often);
    followed.expect(0, &["a ready", "b ready"]).await;
    server.wait_watches(1).await;
    server.put_unseen(&chat(&["c"]));
    followed.expect(0, &["c ready"]).await;
    followed.relisted(RelistReason::Periodic, 1).await;
}

#[tokio::test]
async fn a_version_that_goes_backwards_brings_a_list() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    let mut old = chat(&["old"]).value();
    old["metadata"]["resourceVersion"] = json!("1");
    server.send_event("MODIFIED", &old);
    followed.relisted(RelistReason::Expired, 1).await;
    assert_eq!(followed.seen().endpoints[&0], ["a ready", "b ready"], "it is not believed");
    server.wait_watches(1).await;
    server.send_event("BOOKMARK", &json!({"metadata": {"resourceVersion": "1"}}));
    followed.relisted(RelistReason::Expired, 2).await;
}

#[tokio::test]
async fn what_cannot_be_read_in_a_watch_is_counted_and_healed_by_a_list() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    let mut bad = chat(&[]).value();
    bad["endpoints"] = json!("oops");
    let mut pod = chat(&["c"]).value();
    pod["kind"] = json!("Pod");
    let mut nameless = chat(&["c"]).value();
    nameless["metadata"]["name"] = json!(null);
    let lines = [
        json!({"type": "MODIFIED", "object": bad}).to_string(),
        json!({"type": "ADDED", "object": pod}).to_string(),
        json!({"type": "DELETED", "object": pod}).to_string(),
        json!({"type": "ADDED", "object": nameless}).to_string(),
        json!({"type": "BOOKMARK", "object": {}}).to_string(),
        "{\"type\":\"MODIFIED\",\"object\":{".to_owned(),
        "<html>".to_owned(),
    ];
    for (round, line) in lines.iter().enumerate() {
        if round > 1 {
            // Later ones wait longer; a test has no hour.
            break;
        }
        server.send_line(line);
        followed.relisted(RelistReason::Malformed, round + 1).await;
        server.wait_watches(1).await;
        assert_eq!(followed.seen().malformed[&0], round + 1, "{line}");
        assert_eq!(followed.seen().endpoints[&0], ["a ready", "b ready"], "{line}");
    }
    let before = followed.seen().malformed[&0];
    lines[2..].iter().for_each(|line| server.send_line(line));
    server.put(&chat(&["a", "b", "z"]));
    followed.expect(0, &["a ready", "b ready", "z ready"]).await;
    assert_eq!(followed.seen().malformed[&0], before + lines[2..].len(), "the good ones between are heard");
}

#[tokio::test]
async fn an_unknown_kind_of_event_is_counted_and_nothing_else() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    server.send_event("RENAMED", &chat(&[]).value());
    followed.until("counted", |seen| seen.malformed.get(&0) == Some(&1)).await;
    server.put(&chat(&["c"]));
    followed.expect(0, &["c ready"]).await;
    assert_eq!(followed.seen().relists, [(0, RelistReason::Start)]);
}

#[tokio::test]
async fn what_cannot_be_read_in_a_list_is_left_as_it_was() {
    let server = server_with(&["a", "b"]).await;
    server.put(&chat(&["c"]).name("chat-2"));
    let followed = Followed::start(&server, &["chat"], |_| {});
    followed.expect(0, &["a ready", "b ready", "c ready"]).await;
    server.wait_watches(1).await;
    let mut bad = chat(&[]).value();
    bad["endpoints"] = json!("oops");
    server.put_value(bad);
    server.put_unseen(&chat(&["d"]).name("chat-2"));
    // The event brings a list, which has the same bad object in it, and a good one that is new.
    followed.expect(0, &["a ready", "b ready", "d ready"]).await;
    assert!(followed.seen().malformed[&0] >= 2);
    server.put_unseen(&chat(&["e"]));
    followed.expect(0, &["d ready", "e ready"]).await;
    followed.relisted(RelistReason::Malformed, 2).await;
}

#[tokio::test]
async fn a_service_without_slices_is_told_empty_and_comes_later() {
    let server = ApiServer::start().await;
    let followed = Followed::start(&server, &["chat"], |_| {});
    followed.expect(0, &[]).await;
    server.wait_watches(1).await;
    server.put(&chat(&["a"]));
    followed.expect(0, &["a ready"]).await;
}

#[tokio::test]
async fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let server = server_with(&["a"]).await;
    server.put(&Slice::of("web", 80).pod(SlicePod::new("w", ip(1))));
    // No selector, so that the change is seen as what it is.
    let names: Vec<String> = (0..200).map(|number| format!("service-with-a-long-name-{number}")).collect();
    let mut services = vec!["chat", "web"];
    services.extend(names.iter().map(String::as_str));
    let followed = Followed::start(&server, &services, |_| {});
    followed.expect(0, &["a ready"]).await;
    server.wait_watches(1).await;
    server.put(&Slice::of("web", 80).name("chat-1").pod(SlicePod::new("x", ip(2))));
    followed.expect(0, &[]).await;
    followed.expect(1, &["w ready", "x ready"]).await;
}
