//! The processor time of a connection over TLS with one request, by key exchange, key of the certificate, and whether a session is resumed.
//!
//! Prints a table, and ends with 1 if the hybrid key exchange costs more than 1.4 times the classical one. The real binary serves; the
//! time is that of its threads as the kernel counts it. `make parts` runs it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that cannot go on says why")]

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use podpin_testkit::{Pod, Proxy, Request, Setup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

/// Connections of one measurement.
const CONNECTIONS: u32 = 200;
/// Measurements of each kind, of which the fastest counts.
const ROUNDS: usize = 5;
/// Cost that the hybrid key exchange may have, in classical ones.
const HYBRID_MAX: f64 = 1.4;

/// Makes a certificate that signs itself.
fn certificate(directory: &Path, name: &str, key: &[&str]) {
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl").current_dir(directory).args(arguments).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let (key_file, file) = (format!("{name}.key"), format!("{name}.crt"));
    openssl(&[&["genpkey", "-out", &key_file], key].concat());
    let names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    let constraints = ["-addext", "basicConstraints=critical,CA:FALSE", "-out", &file];
    openssl(&[&["req", "-x509", "-new", "-key", &key_file], &names[..], &constraints].concat());
}

fn client(file: &Path, group: &'static dyn SupportedKxGroup, resumes: bool) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
    let provider = CryptoProvider { kx_groups: vec![group], ..aws_lc_rs::default_provider() };
    let builder = ClientConfig::builder_with_provider(provider.into());
    let mut config = builder
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    TlsConnector::from(Arc::new(config))
}

/// The processor time of all threads, in nanoseconds.
fn processor_time(proxy: &Proxy) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", proxy.process.id())).unwrap();
    let times = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).ok());
    times.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// Connects and asks once, to the end.
async fn visit(proxy: &Proxy, client: Option<&TlsConnector>) {
    let request = Request::get("/who").header("Connection", "close").bytes();
    let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
    let mut answer = Vec::new();
    match client {
        None => {
            tcp.write_all(&request).await.unwrap();
            tcp.read_to_end(&mut answer).await.unwrap();
        }
        Some(client) => {
            let mut tls = client.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
            tls.write_all(&request).await.unwrap();
            tls.read_to_end(&mut answer).await.unwrap();
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// Returns the microseconds of one visit.
async fn cost(pod: &Pod, proxy: &Proxy, client: Option<&TlsConnector>) -> f64 {
    let mut best = f64::INFINITY;
    visit(proxy, client).await;
    for _ in 0..ROUNDS {
        let before = processor_time(proxy);
        for _ in 0..CONNECTIONS {
            visit(proxy, client).await;
        }
        best = best.min((processor_time(proxy) - before) as f64 / 1_000.0 / f64::from(CONNECTIONS));
        pod.forget().await;
    }
    best
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let directory = tempfile::tempdir().unwrap();
    certificate(directory.path(), "ecdsa", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    certificate(directory.path(), "rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let pod = Pod::start("pod-a").await;
    let plain = Setup::chat(&[&pod]).top("workers: 1").start().await;
    let bare = cost(&pod, &plain, None).await;
    println!("{:42} {bare:8.1} µs", "no TLS");
    let mut largest = 0_f64;
    for key in ["ecdsa", "rsa"] {
        let file = |end: &str| directory.path().join(format!("{key}.{end}"));
        let (certificate, private) = (file("crt"), file("key"));
        let entry =
            format!("{{certFile: \"{}\", keyFile: \"{}\"}}", certificate.display(), private.display());
        let setup = Setup::chat(&[&pod]).top("workers: 1").tls(&format!("{{certificates: [{entry}]}}"));
        let proxy = setup.start().await;
        let groups = [
            ("X25519", aws_lc_rs::kx_group::X25519),
            ("X25519MLKEM768", aws_lc_rs::kx_group::X25519MLKEM768),
        ];
        let mut handshakes = Vec::new();
        for (group, exchange) in groups {
            for (kind, resumes) in [("full", false), ("resumed", true)] {
                let client = client(&certificate, exchange, resumes);
                let visit = cost(&pod, &proxy, Some(&client)).await;
                println!(
                    "{:42} {visit:8.1} µs, {:8.1} of TLS",
                    format!("{key} {group} {kind}"),
                    visit - bare
                );
                handshakes.push(visit - bare);
            }
        }
        let (full, resumed) = (handshakes[2] / handshakes[0], handshakes[3] / handshakes[1]);
        println!("{key}: X25519MLKEM768 to X25519: full {full:.2}, resumed {resumed:.2}");
        println!("{key}: full to resumed: {:.2}", handshakes[0] / handshakes[1]);
        largest = largest.max(full);
    }
    println!("largest: {largest:.2} (at most {HYBRID_MAX})");
    ExitCode::from(u8::from(largest > HYBRID_MAX))
}
