//! HTTP/2 as clients of others speak it: curl, nghttp2's two programs, Chromium, and the `h2` library of PyPI as a judge.

use std::process::Command;

use podpin_testkit::{Authority, Pod, PodRequest, Process, Proxy, Reply, Setup, StreamAnswer, wait_for};
use serde_json::json;

use crate::browser::Browser;
use crate::python_sdks::{lines, script};

/// Bytes of a response that no window takes at once.
pub(super) const LARGE: usize = 300_000;

pub(super) async fn pod() -> Pod {
    let pod = Pod::start("pod-a").await;
    pod.answer("/small", Reply::new(200).body("small"));
    pod.answer("/large", Reply::new(200).body("x".repeat(LARGE)));
    pod.answer("/events", StreamAnswer::new().opening("data: first\n\n"));
    pod
}

/// A proxy with TLS, whose clients choose HTTP/2 by ALPN; the authority that they trust.
async fn secured(pod: &Pod) -> (Proxy, Authority) {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let words = format!("{{certificates: [{}]}}", authority.entry("one"));
    (Setup::chat(&[pod]).tls(&words).start().await, authority)
}

/// Runs a program to its end; returns what it printed.
async fn output(program: &str, arguments: &[&str]) -> String {
    let mut process = Process::spawn(Command::new(program).args(arguments));
    assert_eq!(process.wait_exit().await, 0, "{program}: {:?}", process.stderr());
    process.stdout().join("\n")
}

#[tokio::test]
async fn the_library_of_pypi_finds_no_fault_in_any_frame() {
    let pod = pod().await;
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    let mut oracle = script("h2_oracle.py", &[&proxy.address.port().to_string()]);
    let said = lines(&mut oracle, 9).await;
    let small = json!(["200", 5]);
    let answers = |scene: &str| {
        let line = said.iter().find(|line| line["scene"] == scene);
        line.unwrap_or_else(|| panic!("{scene}: {said:?}"))["answers"].clone()
    };
    assert_eq!(answers("many"), json!([small, ["200", LARGE]]));
    assert_eq!(answers("window of 1"), json!([small]));
    assert_eq!(answers("window of 0"), json!([small]));
    for size in [0, 64, 4096, 65536] {
        assert_eq!(answers(&format!("table of {size}")), json!([small]));
    }
    assert_eq!(answers("uploads"), json!([small, ["200", 0]]));
    assert_eq!(answers("events"), json!([small, small]));
    assert_eq!(oracle.wait_exit().await, 0, "{:?}", oracle.stderr());
    let body = said.last().unwrap()["body"].clone();
    assert_eq!(body, "data: first\n\n");
    // The other one was given up.
    let whole = |request: &PodRequest| request.method == "POST" && !request.trailers.is_empty();
    let upload = pod.requests().into_iter().find(whole).unwrap();
    assert_eq!((upload.body.len(), &*upload.trailers), (40 * 4096, "X-Sum: abc\r\n"));
}

#[tokio::test]
async fn curl_speaks_http2_over_tls() {
    let pod = pod().await;
    let (proxy, authority) = secured(&pod).await;
    let url = |path: &str| format!("https://localhost:{}{path}", proxy.address.port());
    let resolve = format!("localhost:{}:127.0.0.1", proxy.address.port());
    let file = authority.file("ca.pem").display().to_string();
    let common = ["-sS", "-N", "--http2", "--cacert", &file, "--resolve", &resolve];
    let version = ["-o", "/dev/null", "-w", "%{http_version} %{size_download}"];
    let large = output("curl", &[&common[..], &version, &[&url("/large")]].concat()).await;
    assert_eq!(large, format!("2 {LARGE}"));
    // HTTP/1.0 is offered by ALPN as well (RFC 7301), and served.
    let old = ["-sS", "--http1.0", "--cacert", &file, "--resolve", &resolve];
    let old = output("curl", &[&old[..], &version, &[&url("/small")]].concat()).await;
    assert_eq!(old, "1.1 5");
    let upload = "y".repeat(LARGE);
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), &upload).unwrap();
    let data = format!("@{}", body.path().display());
    let posted = output("curl", &[&common[..], &["--data-binary", &data, &url("/small")]].concat()).await;
    assert_eq!(posted, "small");
    assert_eq!(pod.requests().last().unwrap().body, upload.as_bytes());
    let mut process = Process::spawn(Command::new("curl").args(common).arg(url("/events")));
    wait_for("curl printing the event", async || process.stdout().contains(&"data: first".to_owned())).await;
    let _first = pod.next_stream().await;
    assert_eq!(process.exit_code(), None, "the stream goes on");
}

#[tokio::test]
async fn nghttp2_speaks_to_the_proxy() {
    let pod = pod().await;
    let (proxy, _authority) = secured(&pod).await;
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", proxy.address.port());
    let quiet = ["--no-verify-peer", "--null-out", "--stat"];
    let both = output("nghttp", &[&quiet[..], &[&url("/small"), &url("/large")]].concat()).await;
    assert_eq!(both.matches(" 200 ").count(), 2, "{both}");
    let load = output("h2load", &["-n", "500", "-c", "5", "-m", "20", &url("/small")]).await;
    assert!(load.contains("500 total, 500 started, 500 done, 500 succeeded, 0 failed"), "{load}");
    assert!(load.contains("500 2xx"), "{load}");
}

#[tokio::test]
async fn chromium_receives_events_and_uploads_over_http2() {
    let pod = pod().await;
    let page = "<!doctype html><title>h2</title>";
    pod.answer("/", Reply::new(200).header("Content-Type", "text/html").body(page));
    pod.answer("/events", StreamAnswer::new());
    let (proxy, _authority) = secured(&pod).await;
    let browser = Browser::with(&["--ignore-certificate-errors"]).await;
    browser.open(&format!("https://localhost:{}/", proxy.address.port())).await;
    let listen = "(() => { window.seen = []; window.source = new EventSource('/events');
        source.onmessage = event => seen.push(event.data); return true; })()";
    browser.read(listen).await;
    let mut stream = pod.next_stream().await;
    for data in ["one", "two"] {
        stream.event(data).await;
    }
    wait_for("the page seeing both", async || browser.read("seen.length").await == 2).await;
    let post = "(() => { window.posted = null; fetch('/small', {method: 'POST', body: 'z'.repeat(200000)})
        .then(answer => answer.text()).then(text => window.posted = text); return true; })()";
    browser.read(post).await;
    wait_for("the answer to an upload", async || browser.read("window.posted").await == "small").await;
    let upload = pod.requests().into_iter().find(|request| request.method == "POST").unwrap();
    assert_eq!(upload.body.len(), 200_000);
    let protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol";
    assert_eq!(browser.read(protocol).await, "h2");
}
