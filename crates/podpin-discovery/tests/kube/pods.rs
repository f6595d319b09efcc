//! When pods will be killed: what is told of it, and that nothing else ever depends on it.

use podpin_testkit::{PodObject, Recording, Step};
use serde_json::Value;

use super::*;

/// A server whose service `chat` has the pods `a` and `b`, as objects, too.
async fn server() -> ApiServer {
    let server = server_with(&["a", "b"]).await;
    for name in ["a", "b"] {
        server.put_pod(&PodObject::new(name));
    }
    server
}

/// `chat` with its pods, both watches open.
async fn followed(server: &ApiServer) -> Followed {
    let followed = Followed::start(server, &["chat+pods"], |_| {});
    followed.expect(0, &["a ready", "b ready"]).await;
    server.wait_watches(2).await;
    followed.until("connected", |seen| seen.connected.get(&0) == Some(&true)).await;
    followed
}

/// `a` is terminating in the slice.
fn terminating() -> Slice {
    chat(&[]).pods([SlicePod::new("a", ip(97)).terminating(), SlicePod::new("b", ip(98))])
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A time of this century as the API writes it, in milliseconds since 1970.
fn millis(timestamp: &str) -> u64 {
    let numbers: Vec<u64> =
        timestamp.split(['-', 'T', ':', 'Z']).filter_map(|part| part.parse().ok()).collect();
    let [year, month, day, hour, minute, second] = numbers.try_into().unwrap();
    // As February of the year before was the last month of its year, only whole years before it matter.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000
}

impl Followed {
    async fn deadlines(&self, service: usize, expected: &[(&str, &str)]) {
        let all: BTreeMap<String, u64> =
            expected.iter().map(|(name, at)| ((*name).to_owned(), millis(at))).collect();
        let what = format!("the deadlines {expected:?} of service {service}");
        wait_for(&what, async || self.seen().deadlines.get(&service) == Some(&all)).await;
    }
}

#[tokio::test]
async fn a_pod_that_is_deleted_after_its_slice_has_said_so_has_a_deadline_at_once() {
    let server = server().await;
    let followed = followed(&server).await;
    server.put(&terminating());
    followed.expect(0, &["a draining", "b ready"]).await;
    followed.deadlines(0, &[]).await;
    let first = server.delete_pod("a", seconds(30));
    followed.deadlines(0, &[("a", &first)]).await;
    assert_eq!(followed.seen().endpoints[&0], ["a draining", "b ready"]);
    // A second deletion moves it nearer, the last one to now.
    let shorter = server.delete_pod("a", seconds(5));
    followed.deadlines(0, &[("a", &shorter)]).await;
    let last = server.delete_pod("a", Duration::ZERO);
    followed.deadlines(0, &[("a", &last)]).await;
    server.put(&chat(&["b"]));
    followed.expect(0, &["b ready"]).await;
    followed.deadlines(0, &[]).await;
    assert!(followed.seen().pods_failed.is_empty());
    assert_eq!(followed.seen().relists, [(0, RelistReason::Start)], "those of pods are not counted");
}

#[tokio::test]
async fn a_pod_that_is_deleted_before_its_slice_says_so_has_its_deadline_with_it() {
    let server = server().await;
    let deadline = server.delete_pod("a", seconds(30));
    let followed = followed(&server).await;
    followed.deadlines(0, &[("a", &deadline)]).await;
    server.put(&terminating());
    followed.expect(0, &["a draining", "b ready"]).await;
    followed.deadlines(0, &[("a", &deadline)]).await;
    // One that no slice lists yet.
    server.put_pod(&PodObject::new("c"));
    let early = server.delete_pod("c", seconds(40));
    server.bookmark();
    server.put(&terminating().pod(SlicePod::new("c", ip(99)).ending()));
    followed.deadlines(0, &[("a", &deadline), ("c", &early)]).await;
}

#[tokio::test]
async fn pods_that_live_cost_nothing_and_tell_nothing() {
    let server = server().await;
    let followed = followed(&server).await;
    let told = followed.seen().told[&0];
    for round in 0..50 {
        server.put_pod(&PodObject::new(&format!("other-{round}")));
        server.put_pod(&PodObject::new("a"));
    }
    let deadline = server.delete_pod("b", seconds(30));
    followed.deadlines(0, &[("b", &deadline)]).await;
    assert_eq!(followed.seen().told[&0], told + 1);
    // The same word again is nothing new.
    server.delete_pod("b", seconds(60));
    let sooner = server.delete_pod("b", seconds(1));
    followed.deadlines(0, &[("b", &sooner)]).await;
    assert_eq!(followed.seen().told[&0], told + 2);
}

#[tokio::test]
async fn pods_are_asked_for_where_somebody_wants_them_once_and_as_metadata_only() {
    let server = server().await;
    server.put(&Slice::of("web", 80).pod(SlicePod::new("a", ip(1))));
    server.put(&Slice::of("far", 80).namespace("prod").pod(SlicePod::new("p", ip(2))));
    let services = ["chat+pods", "chat", "web+pods", "prod/far"];
    let followed = Followed::start(&server, &services, |_| {});
    server.wait_watches(3).await;
    let deadline = server.delete_pod("a", seconds(30));
    followed.deadlines(0, &[("a", &deadline)]).await;
    followed.deadlines(2, &[("a", &deadline)]).await;
    assert!(followed.seen().deadlines[&1].is_empty(), "it has not asked");
    let of_pods = |one: &podpin_testkit::ApiRequest| matches!(one.on, On::ListPods | On::WatchPods);
    let requests: Vec<_> = server.requests().into_iter().filter(of_pods).collect();
    assert_eq!(requests.len(), 2, "{requests:?}");
    for request in requests {
        assert!(request.target.starts_with("/api/v1/namespaces/lab/pods?"), "{request:?}");
        assert!(request.accept.unwrap().contains("as=PartialObjectMetadata"));
        assert!(!request.target.contains("Selector"));
    }
}

#[tokio::test]
async fn nobody_is_asked_for_pods_unless_a_service_wants_them() {
    let server = server().await;
    let followed = Followed::chat(&server).await;
    server.delete_pod("a", seconds(30));
    server.put(&terminating());
    followed.expect(0, &["a draining", "b ready"]).await;
    followed.deadlines(0, &[]).await;
    assert_eq!((server.count(On::ListPods), server.count(On::WatchPods)), (0, 0));
    assert!(server.requests().iter().all(|one| !one.target.contains("pods")));
}

#[tokio::test]
async fn without_the_right_to_read_pods_everything_else_is_as_ever() {
    for verb in [On::ListPods, On::WatchPods] {
        let server = server().await;
        server.fail(verb, Fault::Status(403));
        let followed = Followed::start(&server, &["chat+pods", "chat"], |_| {});
        followed.expect(0, &["a ready", "b ready"]).await;
        followed.until("told twice", |seen| seen.pods_failed.get(&0) >= Some(&2)).await;
        server.put(&terminating());
        followed.expect(0, &["a draining", "b ready"]).await;
        let seen = followed.seen();
        assert_eq!((seen.connected.get(&0), seen.malformed.len(), seen.emptied), (Some(&true), 0, false));
        assert_eq!(seen.relists, [(0, RelistReason::Start), (1, RelistReason::Start)]);
        assert_eq!(seen.pods_failed.get(&1), None, "it has not asked");
        assert_eq!(server.count(On::List), 1);
        let deadline = server.delete_pod("a", seconds(60));
        server.heal();
        followed.deadlines(0, &[("a", &deadline)]).await;
    }
}

#[tokio::test]
async fn whatever_pods_are_answered_with_endpoints_are_followed_and_deadlines_stay() {
    let server = server().await;
    let followed = followed(&server).await;
    server.put(&terminating());
    let deadline = server.delete_pod("a", seconds(600));
    followed.deadlines(0, &[("a", &deadline)]).await;
    let faults = [
        Fault::Status(401),
        Fault::Status(500),
        Fault::Reset,
        Fault::Close,
        Fault::Half,
        Fault::Garbage,
        Fault::WrongType,
        Fault::EndAtOnce,
    ];
    for (round, fault) in faults.into_iter().enumerate() {
        server.fail(On::ListPods, fault.clone());
        let failed = followed.seen().pods_failed.get(&0).copied().unwrap_or_default();
        server.cut_watches(Cut::Expired);
        followed.until(&format!("told of {fault:?}"), |seen| seen.pods_failed.get(&0) > Some(&failed)).await;
        let name = format!("n{round} ready");
        server.put(&terminating().pod(SlicePod::new(&format!("n{round}"), ip(9))));
        followed.expect(0, &["a draining", "b ready", &name]).await;
        assert_eq!(followed.seen().deadlines[&0]["a"], millis(&deadline), "{fault:?}");
        server.heal();
        server.wait_watches(2).await;
    }
    let seen = followed.seen();
    assert_eq!((seen.connected[&0], seen.malformed.len(), seen.emptied), (true, 0, false));
    // A list that is empty by mistake takes no deadline away either.
    server.fail_once(On::ListPods, Fault::EmptyList);
    server.cut_watches(Cut::Expired);
    server.wait_watches(2).await;
    server.put(&terminating());
    followed.expect(0, &["a draining", "b ready"]).await;
    followed.deadlines(0, &[("a", &deadline)]).await;
}

#[tokio::test]
async fn endpoints_do_not_wait_for_pods() {
    let server = server().await;
    server.fail(On::ListPods, Fault::HangBeforeHeaders);
    let deadline = server.delete_pod("a", seconds(30));
    let followed = Followed::start(&server, &["chat+pods"], |_| {});
    followed.expect(0, &["a ready", "b ready"]).await;
    followed.until("connected", |seen| seen.connected.get(&0) == Some(&true)).await;
    wait_for("the list to hang", async || server.count(On::ListPods) == 1).await;
    followed.deadlines(0, &[]).await;
    server.heal();
    followed.deadlines(0, &[("a", &deadline)]).await;
}

#[tokio::test]
async fn pods_do_not_speak_for_endpoints_that_were_never_listed() {
    let server = server().await;
    server.fail(On::List, Fault::Status(403));
    server.delete_pod("a", seconds(30));
    let followed = Followed::start(&server, &["chat+pods"], |_| {});
    server.wait_watches(1).await;
    server.delete_pod("a", seconds(3));
    followed.until("disconnected", |seen| seen.connected.get(&0) == Some(&false)).await;
    assert!(followed.seen().endpoints.is_empty());
    assert_eq!(followed.seen().pods_failed.get(&0), None);
}

#[tokio::test]
async fn a_deletion_during_an_outage_is_known_after_it_and_one_that_was_undone_is_forgotten() {
    let mut server = server().await;
    let backup = server.backup();
    let followed = followed(&server).await;
    server.stop().await;
    followed.until("told", |seen| seen.pods_failed.get(&0) >= Some(&1)).await;
    let deadline = server.delete_pod("a", seconds(600));
    server.put(&terminating());
    server.expire();
    server.start_again().await;
    followed.deadlines(0, &[("a", &deadline)]).await;
    followed.expect(0, &["a draining", "b ready"]).await;
    // An etcd that was restored from a backup knows nothing of it.
    server.wait_watches(2).await;
    server.restore(&backup);
    server.wait_watches(2).await;
    server.cut_watches(Cut::Expired);
    followed.deadlines(0, &[]).await;
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_counted_and_healed_by_a_list() {
    let server = server().await;
    let followed = followed(&server).await;
    let mut bad = PodObject::new("a").value();
    bad["metadata"]["deletionTimestamp"] = json!("tomorrow");
    let lists = server.count(On::ListPods);
    server.send_line_of_pods(&json!({"type": "MODIFIED", "object": bad}).to_string());
    followed.until("counted", |seen| seen.pods_failed.get(&0) == Some(&1)).await;
    wait_for("a list", async || server.count(On::ListPods) > lists).await;
    assert_eq!((followed.seen().malformed.len(), server.count(On::List)), (0, 1), "slices are none of it");
    server.wait_watches(2).await;
    let deadline = server.delete_pod("a", seconds(30));
    followed.deadlines(0, &[("a", &deadline)]).await;
}

#[tokio::test]
async fn pods_are_read_page_by_page_and_followed_through_every_end_of_a_watch() {
    let server = server().await;
    for number in 0..1_200 {
        server.put_pod(&PodObject::new(&format!("other-{number}")));
    }
    server.put_pod(&PodObject::new("zzz"));
    let mut zzz = server.delete_pod("zzz", seconds(900));
    server.put(&chat(&["a", "zzz"]));
    let followed = Followed::start(&server, &["chat+pods"], |_| {});
    followed.deadlines(0, &[("zzz", &zzz)]).await;
    assert_eq!(server.count(On::ListPods), 3);
    for (grace, cut) in [(800, Cut::Clean), (700, Cut::HalfLine), (600, Cut::Reset), (500, Cut::Expired)] {
        server.wait_watches(2).await;
        server.cut_watches(cut);
        zzz = server.delete_pod("zzz", seconds(grace));
        followed.deadlines(0, &[("zzz", &zzz)]).await;
    }
    assert_eq!(server.count(On::ListPods), 6, "once more, after the 410");
}

/// A model of the recorded pods and slices: the last `deletionTimestamp` of each pod that a slice lists, by name.
#[derive(Default)]
struct Pencil {
    deletions: BTreeMap<String, String>,
    listed: Vec<String>,
}

impl Pencil {
    fn follow(&mut self, step: &Step) {
        match step {
            Step::List(items) => items.iter().for_each(|item| self.write(item)),
            Step::Put(object) => self.write(object),
            Step::Delete { .. } | Step::Bookmark | Step::Expired => {}
        }
    }

    fn write(&mut self, object: &Value) {
        if object["kind"] == "Pod" {
            if let Some(at) = object["metadata"]["deletionTimestamp"].as_str() {
                let name = object["metadata"]["name"].as_str().unwrap();
                self.deletions.insert(name.to_owned(), at.to_owned());
            }
            return;
        }
        let endpoints = object["endpoints"].as_array().unwrap();
        self.listed =
            endpoints.iter().map(|one| one["targetRef"]["name"].as_str().unwrap().to_owned()).collect();
    }

    fn deadlines(&self) -> Vec<(&str, &str)> {
        let of = |name: &String| self.deletions.get_key_value(name).map(|(name, at)| (&**name, &**at));
        self.listed.iter().filter_map(of).collect()
    }
}

#[tokio::test]
async fn a_recorded_rolling_update_gives_every_old_pod_its_deadline() {
    let read = |name: &str| {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        Recording::read(&fixtures.join(name))
    };
    let recording = read("rolling-update.jsonl").beside(read("rolling-update-pods.jsonl"));
    let server = ApiServer::start().await;
    let followed = Followed::start(&server, &["web+pods"], |_| {});
    server.wait_watches(2).await;
    let mut pencil = Pencil::default();
    let mut all = std::collections::BTreeSet::new();
    for step in &recording.steps {
        server.replay(step);
        pencil.follow(step);
        let expected = pencil.deadlines();
        followed.deadlines(0, &expected).await;
        all.extend(expected.iter().map(|(_, at)| (*at).to_owned()));
    }
    // Asked for at :56, :57 and :58 with a grace of 30 s; each ended six seconds after it was asked to, which of two
    // was said after they had left the slice.
    let times = ["13:48:04", "13:48:26", "13:48:27", "13:48:28"];
    let times: Vec<String> = times.iter().map(|time| format!("2026-11-22T{time}Z")).collect();
    assert_eq!(all.into_iter().collect::<Vec<_>>(), times);
    assert!(pencil.listed.len() == 3 && pencil.deadlines().is_empty(), "the old pods are gone");
}
