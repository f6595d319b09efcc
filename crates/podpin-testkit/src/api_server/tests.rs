//! The fake against a raw client: what it must get right, and each way in which it must go wrong.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::wire::{Body, Ending, Head, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use crate::{Connection, Request, in_time};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/lab/endpointslices";

/// A watch as a raw client sees it.
struct RawWatch {
    wire: Wire,
    body: Body,
    text: String,
}

impl RawWatch {
    async fn open(server: &ApiServer, parameters: &str) -> RawWatch {
        let (wire, head) = ask(server, &format!("{SLICES}?watch=true&{parameters}")).await;
        assert_eq!(head.word(1), "200");
        RawWatch { wire, body: Body::of_response("GET", &head), text: String::new() }
    }

    /// The next line, or how the watch ended.
    async fn line(&mut self) -> Result<String, Ending> {
        in_time("a line of a watch", async {
            loop {
                if let Some((line, rest)) = self.text.split_once('\n') {
                    let (line, rest) = (line.to_owned(), rest.to_owned());
                    self.text = rest;
                    return Ok(line);
                }
                let bytes = self.body.next(&mut self.wire).await?;
                self.text.push_str(&String::from_utf8_lossy(&bytes));
            }
        })
        .await
    }

    /// Type and name of the next event.
    async fn event(&mut self) -> (String, String) {
        let line = self.line().await.unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        let text = |path| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }

    async fn expect(&mut self, kind: &str, name: &str) {
        assert_eq!(self.event().await, (kind.to_owned(), name.to_owned()));
    }
}

async fn ask(server: &ApiServer, target: &str) -> (Wire, Head) {
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let mut wire = Wire::new(stream);
    wire.send(&Request::get(target).bytes()).await.unwrap();
    let head = in_time("a head", wire.head()).await.unwrap();
    (wire, head)
}

async fn get(server: &ApiServer, target: &str) -> (u16, Value) {
    let response = Request::get(target).send(server.address()).await;
    (response.status, response.json())
}

fn chat(pods: &[&str]) -> Slice {
    let pod = |(at, name): (usize, &&str)| SlicePod::new(name, IpAddr::from([127, 0, 0, at as u8 + 2]));
    Slice::of("chat", 8080).pods(pods.iter().enumerate().map(pod))
}

#[tokio::test]
async fn a_watch_goes_on_where_the_list_ended() {
    let server = ApiServer::start().await;
    server.put(&chat(&["pod-a"]));
    server.put(&Slice::of("web", 80));
    let (status, list) =
        get(&server, &format!("{SLICES}?labelSelector=kubernetes.io/service-name=chat")).await;
    assert_eq!((status, list["items"].as_array().unwrap().len()), (200, 1));
    assert_eq!(list["items"][0]["endpoints"][0]["targetRef"]["uid"], "uid-pod-a");
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    server.put(&chat(&["pod-a", "pod-b"]));
    let from = format!("resourceVersion={version}&labelSelector=kubernetes.io/service-name%20in%20(chat,x)");
    let mut watch = RawWatch::open(&server, &from).await;
    watch.expect("MODIFIED", "chat-1").await;
    server.put(&Slice::of("web", 81));
    server.put(&chat(&[]).name("chat-2"));
    watch.expect("ADDED", "chat-2").await;
    server.delete(&chat(&[]));
    watch.expect("DELETED", "chat-1").await;
    assert_eq!(server.watches().len(), 1);
    drop(watch);
    server.wait_watches(0).await;
    assert_eq!((server.count(On::List), server.count(On::Watch), server.count(On::Connect)), (1, 1, 2));
}

#[tokio::test]
async fn bookmarks_go_to_those_who_take_them_and_one_comes_before_the_timeout() {
    let server = ApiServer::start().await;
    server.put(&chat(&[]));
    let mut plain = RawWatch::open(&server, "resourceVersion=401").await;
    let mut taking = RawWatch::open(&server, "resourceVersion=401&allowWatchBookmarks=true").await;
    let mut short =
        RawWatch::open(&server, "resourceVersion=401&allowWatchBookmarks=true&timeoutSeconds=1").await;
    server.wait_watches(3).await;
    server.bookmark();
    taking.expect("BOOKMARK", "").await;
    short.expect("BOOKMARK", "").await;
    short.expect("BOOKMARK", "").await;
    assert_eq!(short.line().await, Err(Ending::Clean));
    server.put(&chat(&["pod-a"]));
    plain.expect("MODIFIED", "chat-1").await;
    taking.expect("MODIFIED", "chat-1").await;
}

#[tokio::test]
async fn an_expired_version_is_told_inside_the_watch() {
    let server = ApiServer::start().await;
    server.put(&chat(&[]));
    let mut watch = RawWatch::open(&server, "resourceVersion=401").await;
    server.cut_watches(Cut::Expired);
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&watch.line().await.unwrap()).unwrap();
        assert_eq!((line["type"].as_str(), line["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
        assert_eq!(watch.line().await, Err(Ending::Clean));
        watch = RawWatch::open(&server, "resourceVersion=401").await;
    }
}

#[tokio::test]
async fn a_restored_backup_makes_watches_deaf() {
    let server = ApiServer::start().await;
    let backup = server.backup();
    server.put(&chat(&[]));
    server.put(&chat(&["pod-a"]));
    let mut watch = RawWatch::open(&server, "resourceVersion=402").await;
    server.wait_watches(1).await;
    server.restore(&backup);
    assert_eq!(watch.line().await, Err(Ending::Cut));
    let mut deaf = RawWatch::open(&server, "resourceVersion=402&allowWatchBookmarks=true").await;
    server.wait_watches(1).await;
    (0..5).for_each(|_| server.put(&chat(&["pod-b"])));
    server.bookmark();
    server.cut_watches(Cut::Clean);
    assert_eq!(deaf.line().await, Err(Ending::Clean), "neither event nor bookmark");
    assert_eq!(get(&server, SLICES).await.1["metadata"]["resourceVersion"], "405");
}

#[tokio::test]
async fn every_cut_ends_a_watch_in_its_way() {
    let server = ApiServer::start().await;
    for (cut, ending) in [
        (Cut::Clean, Ending::Clean),
        (Cut::Fin, Ending::Cut),
        (Cut::HalfLine, Ending::Cut),
        (Cut::Reset, Ending::Reset),
    ] {
        let mut watch = RawWatch::open(&server, "resourceVersion=400").await;
        server.wait_watches(1).await;
        server.send_line("{not json");
        assert_eq!(watch.line().await.unwrap(), "{not json");
        server.cut_watches(cut);
        assert_eq!(watch.line().await, Err(ending), "{cut:?}");
        assert_eq!(watch.text.is_empty(), cut != Cut::HalfLine, "{cut:?}");
    }
}

#[tokio::test]
async fn faults_come_once_then_for_ever_until_it_heals() {
    let server = ApiServer::start().await;
    server.fail_once(On::List, Fault::Status(403));
    server.fail(On::List, Fault::Status(429));
    let mut connection = Connection::open(server.address()).await;
    for code in [403, 429, 429] {
        let response = connection.ask(&Request::get(SLICES)).await;
        assert_eq!((response.status, response.json()["code"].as_u64()), (code, Some(u64::from(code))));
        assert_eq!(response.header("retry-after").is_some(), code == 429);
    }
    server.heal();
    assert_eq!(connection.ask(&Request::get(SLICES)).await.status, 200);
    assert_eq!(connection.ask(&Request::get("/version")).await.status, 404);
    assert!(server.requests().iter().all(|request| request.connection == 0));
}

#[tokio::test]
async fn faults_of_the_transport_are_what_they_say() {
    let server = ApiServer::start().await;
    server.put(&chat(&["pod-a"]));
    for (fault, ending) in [(Fault::Reset, Ending::Reset), (Fault::Close, Ending::Cut)] {
        server.fail_once(On::List, fault);
        let mut connection = Connection::open(server.address()).await;
        connection.send(Request::get(SLICES).bytes()).await;
        assert_eq!(connection.try_head().await.unwrap_err(), ending);
    }
    server.fail_once(On::List, Fault::Half);
    let cut = Request::get(SLICES).send(server.address()).await;
    assert_eq!((cut.status, cut.ending), (200, Ending::Cut));
    assert!(!cut.body.is_empty() && serde_json::from_slice::<Value>(&cut.body).is_err());
    server.fail(On::List, Fault::SlowDrip { bytes: 64, every: Duration::from_millis(5) });
    assert_eq!(get(&server, SLICES).await.1["items"].as_array().unwrap().len(), 1);
    server.fail(On::List, Fault::EmptyList);
    assert_eq!(get(&server, SLICES).await.1["items"].as_array().unwrap().len(), 0);
    server.fail(On::Watch, Fault::EndAtOnce);
    assert_eq!(RawWatch::open(&server, "").await.line().await, Err(Ending::Clean));
}

#[tokio::test]
async fn what_hangs_is_reset_when_it_heals() {
    let server = ApiServer::start().await;
    server.fail(On::List, Fault::HangBeforeHeaders);
    server.fail(On::Watch, Fault::HangAfterHeaders);
    let mut list = Connection::open(server.address()).await;
    list.send(Request::get(SLICES).bytes()).await;
    let mut watch = RawWatch::open(&server, "").await;
    crate::wait_for("the list to hang", async || server.count(On::List) == 1).await;
    server.heal();
    assert_eq!(list.try_head().await.unwrap_err(), Ending::Reset);
    assert_eq!(watch.line().await, Err(Ending::Reset));
}

#[tokio::test]
async fn a_stop_closes_the_port_and_a_start_opens_it_with_the_same_objects() {
    let mut server = ApiServer::start().await;
    server.put(&chat(&["pod-a"]));
    let mut watch = RawWatch::open(&server, "resourceVersion=401").await;
    server.stop().await;
    assert!(watch.line().await.is_err());
    assert!(tokio::net::TcpStream::connect(server.address()).await.is_err());
    server.start_again().await;
    assert_eq!(get(&server, SLICES).await.1["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_that_is_required_is_required_of_every_request() {
    let server = ApiServer::start().await;
    server.require_token("first");
    let with = |token: &str| Request::get(SLICES).header("Authorization", &format!("Bearer {token}"));
    assert_eq!(Request::get(SLICES).send(server.address()).await.status, 401);
    assert_eq!(with("first").send(server.address()).await.status, 200);
    server.require_token("second");
    assert_eq!(with("first").send(server.address()).await.status, 401);
    assert_eq!(with("second").send(server.address()).await.status, 200);
}

#[tokio::test]
async fn the_request_rate_is_counted_over_any_window() {
    let server = ApiServer::start().await;
    let before = Instant::now();
    for _ in 0..3 {
        get(&server, SLICES).await;
    }
    assert_eq!(server.most_within(crate::PATIENCE, before), 3);
    assert_eq!(server.most_within(Duration::ZERO, before), 0);
    assert_eq!(server.most_within(crate::PATIENCE, Instant::now()), 0);
}

#[tokio::test]
async fn scripted_pods_share_a_port_and_fit_into_one_slice() {
    let pods = start_pods(&["pod-a", "pod-b", "pod-c"]).await;
    let ports: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod.address().port()).collect();
    assert_eq!(ports.len(), 1);
    for pod in &pods {
        assert_eq!(Request::get("/who").send(pod.address()).await.text(), pod.name());
    }
}

#[tokio::test]
async fn over_tls_it_is_known_by_the_authority_of_its_kubeconfig_only() {
    let (server, other) = (ApiServer::start_tls().await, ApiServer::start_tls().await);
    let kubeconfig = server.kubeconfig();
    let text = std::fs::read_to_string(kubeconfig.path()).unwrap();
    assert!(text.contains(&format!("server: https://{}", server.address())), "{text}");
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(kubeconfig.path().with_file_name("ca.crt")).unwrap();
    roots.add(authority).unwrap();
    let configuration = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(configuration));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let mut trusted = connector.connect(name.clone(), stream).await.unwrap();
    trusted.write_all(&Request::get(SLICES).header("Connection", "close").bytes()).await.unwrap();
    let mut answer = [0; 12];
    trusted.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let stream = tokio::net::TcpStream::connect(other.address()).await.unwrap();
    assert!(connector.connect(name, stream).await.is_err(), "another authority");
}

const PODS: &str = "/api/v1/namespaces/lab/pods";

#[tokio::test]
async fn a_pod_is_deleted_with_grace_and_then_without() {
    let server = ApiServer::start().await;
    server.put(&chat(&["pod-a"]));
    server.put_pod(&PodObject::new("pod-a"));
    server.put_pod(&PodObject::new("pod-b").namespace("other"));
    let (_, list) = get(&server, PODS).await;
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("PodList"), 1));
    assert_eq!(list["items"][0]["metadata"]["uid"], "uid-pod-a");
    let (wire, head) =
        ask(&server, &format!("{PODS}?watch=true&resourceVersion=402&allowWatchBookmarks=1")).await;
    let mut watch = RawWatch { wire, body: Body::of_response("GET", &head), text: String::new() };
    let deadline = server.delete_pod("pod-a", Duration::from_secs(30));
    let line: Value = serde_json::from_str(&watch.line().await.unwrap()).unwrap();
    assert_eq!(line["type"], "MODIFIED", "the pod of the other namespace is not told");
    assert_eq!(line["object"]["metadata"]["deletionTimestamp"], deadline);
    assert_eq!(line["object"]["metadata"]["deletionGracePeriodSeconds"], 30);
    server.put(&chat(&[]));
    assert!(server.delete_pod("pod-a", Duration::ZERO) < deadline);
    watch.expect("MODIFIED", "pod-a").await;
    watch.expect("DELETED", "pod-a").await;
    let (lists, watches) = (server.count(On::ListPods), server.count(On::WatchPods));
    assert_eq!((lists, watches, server.count(On::List), server.count(On::Watch)), (1, 1, 0, 0));
    server.fail(On::ListPods, Fault::Status(403));
    assert_eq!((get(&server, PODS).await.0, get(&server, SLICES).await.0), (403, 200));
}

#[tokio::test]
async fn bookmarks_are_of_the_kind_that_is_watched() {
    let server = ApiServer::start().await;
    let target = format!("{PODS}?watch=true&resourceVersion=400&allowWatchBookmarks=true");
    let (wire, head) = ask(&server, &target).await;
    let mut pods = RawWatch { wire, body: Body::of_response("GET", &head), text: String::new() };
    let mut slices = RawWatch::open(&server, "resourceVersion=400&allowWatchBookmarks=true").await;
    server.wait_watches(2).await;
    server.bookmark();
    for (watch, kind) in [(&mut pods, "Pod"), (&mut slices, "EndpointSlice")] {
        let line: Value = serde_json::from_str(&watch.line().await.unwrap()).unwrap();
        assert_eq!((line["type"].as_str(), line["object"]["kind"].as_str()), (Some("BOOKMARK"), Some(kind)));
    }
    server.send_line_of_pods("only you");
    server.send_line("all of you");
    assert_eq!(pods.line().await.unwrap(), "only you");
    assert_eq!(slices.line().await.unwrap(), "all of you");
}
