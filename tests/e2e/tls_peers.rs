//! TLS as others speak it: hellos by hand, old clients, OpenSSL on both sides, Go.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use podpin_testkit::{Authority, Connection, Pod, Process, Proxy, Request, Setup, free_port, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::tls_files::self_signed;

/// The alert `protocol_version` in a record.
const PROTOCOL_VERSION: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

async fn secured(more: &str) -> (Authority, Pod, Proxy) {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let pod = Pod::start("pod-a").await;
    let tls = format!("{{certificates: [{}]{more}}}", authority.entry("one"));
    let proxy = Setup::chat(&[&pod]).tls(&tls).start().await;
    (authority, pod, proxy)
}

async fn is_served(authority: &Authority, proxy: &Proxy) {
    let mut connection: Connection = authority.client(&[]).connect(proxy.address, "localhost").await;
    assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
}

/// Sends bytes, and returns all that comes back.
async fn answer(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // What was sent in vain may end it by a reset.
    let _ended = tcp.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn a_client_that_speaks_nothing_newer_than_tls_1_1_is_told_that_it_is_the_version() {
    let (authority, _pod, proxy) = secured("").await;
    for version in [0, 1, 2] {
        // As such clients write it: without the extensions that came with TLS 1.2.
        let mut hello = vec![3, version];
        hello.extend([7; 32]);
        hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
        let body = [&[1, 0, 0, u8::try_from(hello.len()).unwrap()], &*hello].concat();
        let record = [&[22, 3, 1, 0, u8::try_from(body.len()).unwrap()], &*body].concat();
        assert_eq!(answer(&proxy, &record).await, PROTOCOL_VERSION, "3.{version}");
    }
    let labels = [("listener", "http"), ("reason", "version")];
    proxy.wait_metric("podpin_tls_failures_total", &labels, 3.0).await;
    is_served(&authority, &proxy).await;
}

#[tokio::test]
async fn a_handshake_that_stops_anywhere_or_ends_in_an_alert_keeps_nobody_waiting() {
    let (authority, _pod, proxy) = secured("").await;
    let hello = authority.client(&[]).hello("localhost");
    let mut open = Vec::new();
    for end in 0..hello.len() {
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(&hello[..end]).await.unwrap();
        open.push(tcp);
    }
    is_served(&authority, &proxy).await;
    drop(open);
    let fatal = [21, 3, 3, 0, 2, 2, 40];
    assert!(answer(&proxy, &fatal).await.is_empty(), "an alert before anything");
    let hello_and_alert = answer(&proxy, &[&*hello, &fatal].concat()).await;
    assert!(!hello_and_alert.is_empty(), "the server's hello, and no more");
    for nonsense in [
        &[22, 3, 1, 0xff, 0xff, 1][..],
        &[23, 3, 3, 0, 1, 0],
        &[20, 3, 3, 0, 1, 9],
        &[24, 3, 3, 0, 3, 1, 0x40, 0],
    ] {
        answer(&proxy, nonsense).await;
    }
    is_served(&authority, &proxy).await;
}

#[tokio::test]
async fn a_name_of_ten_kilobytes_is_refused_and_does_not_fill_the_log() {
    let (authority, _pod, proxy) = secured("").await;
    let hello = authority.client(&[]).hello("localhost");
    // The name with what is around it: type and length of the extension, of its list, of the name.
    let at = hello.windows(9).position(|window| window == b"localhost").unwrap();
    let name = vec![b'a'; 10_240];
    let more = name.len() - 9;
    let mut long = [&hello[..at], &name, &hello[at + 9..]].concat();
    let grow = |bytes: &mut [u8], place: usize| {
        let length = usize::from(bytes[place]) << 8 | usize::from(bytes[place + 1]);
        let [high, low] = u16::try_from(length + more).unwrap().to_be_bytes();
        (bytes[place], bytes[place + 1]) = (high, low);
    };
    for place in [at - 2, at - 5, at - 7, 3, 7] {
        grow(&mut long, place);
    }
    // Behind the random and the session id, and the cipher suites and compression methods: the length of all extensions.
    let session = 44 + usize::from(hello[43]);
    let ciphers = session + 2 + (usize::from(hello[session]) << 8 | usize::from(hello[session + 1]));
    grow(&mut long, ciphers + 1 + usize::from(hello[ciphers]));
    let refused = answer(&proxy, &long).await;
    assert_eq!(refused.first(), Some(&21), "an alert: {refused:?}");
    let labels = [("listener", "http")];
    proxy.wait_metric_at_least("podpin_tls_failures_total", &labels, 1.0).await;
    is_served(&authority, &proxy).await;
    let longest = proxy.process.stderr().iter().map(String::len).max();
    assert!(longest < Some(2_000), "{longest:?}");
}

#[tokio::test]
async fn openssl_is_told_at_once_that_there_is_no_renegotiation() {
    let (authority, _pod, proxy) = secured("").await;
    let address = proxy.address.to_string();
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", "localhost", "-tls1_2", "-CAfile"])
        .arg(authority.file("ca.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(client.stdin.as_mut().unwrap(), b"R\n").unwrap();
    let output = tokio::task::spawn_blocking(move || {
        // Its input stays open, so that it ends for nothing but the alert.
        let input = client.stdin.take();
        let output = client.wait_with_output();
        drop(input);
        output
    });
    let stderr = String::from_utf8(output.await.unwrap().unwrap().stderr).unwrap();
    assert!(stderr.contains("no renegotiation"), "{stderr}");
    is_served(&authority, &proxy).await;
}

/// A pod that is `openssl s_server`.
struct OpensslPod {
    _process: Process,
    address: SocketAddr,
}

impl OpensslPod {
    async fn start(directory: &Path, name: &str, more: &[&str]) -> OpensslPod {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let files = ["-cert", &format!("{name}.crt"), "-key", &format!("{name}.key")].map(ToOwned::to_owned);
        let mut command = Command::new("openssl");
        command.current_dir(directory).args(["s_server", "-www", "-accept", &address.to_string()]);
        let process = Process::spawn(command.args(files).args(["-cipher", "ALL:@SECLEVEL=0"]).args(more));
        wait_for("s_server", async || TcpStream::connect(address).await.is_ok()).await;
        OpensslPod { _process: process, address }
    }
}

/// A proxy whose only pod speaks TLS at this address.
async fn before(address: SocketAddr, tls: &str) -> Proxy {
    let setup = Setup::new().service_at("chat", &[("pod-a", address)]);
    setup
        .with(&format!("tls: {{{tls}}}"))
        .with("sse: {unavailable: status}")
        .route("{name: one, service: chat}")
        .start()
        .await
}

#[tokio::test]
async fn without_verification_pods_may_have_keys_that_nobody_can_verify() {
    let directory = tempfile::tempdir().unwrap();
    let table: [(&str, &[&str]); 3] = [
        ("short", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]),
        ("pss", &["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ("ed448", &["-algorithm", "ED448"]),
    ];
    for (name, key) in table {
        self_signed(directory.path(), name, key, &[]);
        let pod = OpensslPod::start(directory.path(), name, &[]).await;
        let proxy = before(pod.address, "verify: false").await;
        for request in [Request::get("/"), Request::events("/")] {
            assert_eq!(request.send(proxy.address).await.status, 200, "{name}");
        }
    }
}

#[tokio::test]
async fn a_pod_that_misses_our_certificate_is_named_as_one_also_where_it_says_so_after_the_handshake() {
    let directory = tempfile::tempdir().unwrap();
    self_signed(
        directory.path(),
        "pod",
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["-addext", "subjectAltName=DNS:pod.test"],
    );
    for version in ["-tls1_3", "-tls1_2"] {
        let pod = OpensslPod::start(directory.path(), "pod", &["-Verify", "1", version]).await;
        let proxy = before(pod.address, "verify: false").await;
        for request in [Request::get("/"), Request::events("/")] {
            assert_eq!(request.send(proxy.address).await.status, 502, "{version}");
        }
        let line = proxy.access_log_line(|line| line["status"] == 502).await;
        assert!(
            line["attempts"][0]["error"]
                .as_str()
                .unwrap()
                .starts_with("no TLS handshake: received fatal alert"),
            "{line}"
        );
        let reason = if version == "-tls1_3" { "certificate_missing" } else { "parameters" };
        let labels = [("service", "chat"), ("reason", reason)];
        proxy.wait_metric("podpin_tls_failures_total", &labels, 2.0).await;
    }
}

#[tokio::test]
async fn a_clients_certificate_that_stands_among_the_authorities_is_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let p256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    self_signed(directory.path(), "known", &p256, &[]);
    self_signed(directory.path(), "other", &p256, &[]);
    let file = directory.path().join("known.crt");
    let (authority, pod, proxy) = secured(&format!(", clientAuth: {{caFile: \"{}\"}}", file.display())).await;
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    let known = authority.client_with_pair(&read("known.crt"), &read("known.key"));
    let mut connection = known.connect(proxy.address, "localhost").await;
    assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
    assert_eq!(pod.next_request().await.header("x-podpin-client-subject"), Some("CN=localhost"));
    let other = authority.client_with_pair(&read("other.crt"), &read("other.key"));
    if let Ok(mut stream) = other.try_connect(proxy.address, "localhost").await {
        assert!(stream.read(&mut [0; 8]).await.is_err());
    }
    let labels = [("listener", "http"), ("reason", "certificate_invalid")];
    proxy.wait_metric_at_least("podpin_tls_failures_total", &labels, 1.0).await;
}

const GO_CLIENT: &str = r#"package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	pem, _ := os.ReadFile(os.Args[2])
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, h2 := range []bool{false, true} {
			config := &tls.Config{RootCAs: pool, MinVersion: version, MaxVersion: version, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(2)}
			transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: h2}
			for visit := 0; visit < 2; visit++ {
				response, err := (&http.Client{Transport: transport}).Get("https://" + os.Args[1] + "/who")
				if err != nil {
					fmt.Println(err)
					return
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				fmt.Printf("%x %s %d %t\n", version, response.Proto, response.StatusCode, response.TLS.DidResume)
				transport.CloseIdleConnections()
			}
		}
	}
	for _, config := range []*tls.Config{{RootCAs: pool, MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11, ServerName: "localhost"}, {RootCAs: pool, ServerName: "localhost", NextProtos: []string{"spdy/1"}}} {
		_, err := tls.Dial("tcp", os.Args[1], config)
		fmt.Println(err)
	}
}
"#;

#[tokio::test]
async fn go_resumes_over_both_versions_and_protocols_and_reads_our_alerts() {
    if Command::new("go").arg("version").output().is_err() {
        eprintln!("skipped: no Go here (Debian: golang-go)");
        return;
    }
    let (authority, _pod, proxy) = secured("").await;
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("client.go");
    fs::write(&program, GO_CLIENT).unwrap();
    let mut go = Command::new("go");
    go.env("GOCACHE", directory.path().join("cache")).env("GO111MODULE", "off").env("HOME", directory.path());
    let mut client = Process::spawn(
        go.arg("run").arg(&program).arg(proxy.address.to_string()).arg(authority.file("ca.pem")),
    );
    client.wait_exit().await;
    let mut expected = Vec::new();
    for version in ["303", "304"] {
        for protocol in ["HTTP/1.1", "HTTP/2.0"] {
            expected.extend(["false", "true"].map(|resumed| format!("{version} {protocol} 200 {resumed}")));
        }
    }
    let said = client.stdout();
    assert_eq!(said[..8.min(said.len())], expected, "{:?}", client.stderr());
    assert!(said[8].contains("protocol version not supported"), "{said:?}");
    assert!(said[9].contains("no application protocol"), "{said:?}");
}
