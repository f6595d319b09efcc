//! Files of certificates and keys that are none, or of a kind that cannot be served: named with what is wrong, and never in force.

use std::fs;
use std::path::Path;
use std::process::Command;

use podpin_testkit::{Authority, Pod, Proxy, Request, Setup};

/// Runs OpenSSL in a directory.
pub(crate) fn openssl(directory: &Path, arguments: &[&str]) {
    let made = Command::new("openssl").current_dir(directory).args(arguments).output().unwrap();
    assert!(made.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
}

/// Makes a certificate that signs itself, `{name}.crt` with `{name}.key`.
pub(crate) fn self_signed(directory: &Path, name: &str, key: &[&str], more: &[&str]) {
    let (key_file, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    openssl(directory, &[&["genpkey", "-out", &key_file], key].concat());
    let new = ["req", "-x509", "-new", "-key", &key_file, "-subj", "/CN=localhost", "-out", &certificate];
    openssl(directory, &[&new[..], more].concat());
}

/// Writes a configuration with this pair of files; returns its path.
fn configuration(authority: &Authority, pod: &Pod, pair: (&str, &str)) -> String {
    let file = |name: &str| authority.file(name).display().to_string();
    let entry = format!("{{certFile: \"{}\", keyFile: \"{}\"}}", file(pair.0), file(pair.1));
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Setup::chat(&[pod]).tls(&format!("{{certificates: [{entry}]}}")).write(
        authority.directory(),
        local,
        local,
    )
}

const ELLIPTIC: [&str; 3] = ["-algorithm", "EC", "-pkeyopt"];

#[tokio::test]
async fn what_is_no_file_or_of_a_kind_that_cannot_be_served_is_named() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let directory = authority.directory();
    let pod = Pod::start("pod-a").await;
    let curve = |name: &'static str| [&ELLIPTIC[..], &[name]].concat();
    self_signed(directory, "secp256k1", &curve("ec_paramgen_curve:secp256k1"), &[]);
    self_signed(directory, "ed448", &["-algorithm", "ED448"], &[]);
    self_signed(directory, "short", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], &[]);
    self_signed(directory, "old", &curve("ec_paramgen_curve:P-256"), &[]);
    openssl(directory, &["req", "-new", "-key", "old.key", "-subj", "/CN=localhost", "-out", "old.csr"]);
    openssl(directory, &["x509", "-req", "-in", "old.csr", "-signkey", "old.key", "-out", "old.crt"]);
    openssl(directory, &["x509", "-in", "one.crt", "-outform", "DER", "-out", "one.der"]);
    fs::create_dir(authority.file("directory")).unwrap();
    fs::write(authority.file("large"), vec![b'x'; 10_000_000]).unwrap();
    fs::write(authority.file("empty"), "").unwrap();
    assert!(Command::new("mkfifo").arg(authority.file("fifo")).status().unwrap().success());
    let many = fs::read_to_string(authority.file("one.crt")).unwrap().repeat(300);
    fs::write(authority.file("many.crt"), many).unwrap();
    let table = [
        (("secp256k1.crt", "secp256k1.key"), "keyFile", "ECDSA on the curve secp256k1"),
        (("ed448.crt", "ed448.key"), "keyFile", "is not supported; ECDSA on P-256"),
        (("short.crt", "short.key"), "keyFile", "RSA of 1024 bits is not supported"),
        (("old.crt", "old.key"), "certFile", "X.509 version 1"),
        (("directory", "one.key"), "certFile", "a directory, not a file"),
        (("one.crt", "directory"), "keyFile", "a directory, not a file"),
        (("large", "one.key"), "certFile", "larger than 4 MiB"),
        (("empty", "one.key"), "certFile", "no certificate in it"),
        (("fifo", "one.key"), "certFile", "not a regular file"),
        (("one.crt", "fifo"), "keyFile", "not a regular file"),
        (("one.der", "one.key"), "certFile", "has to be turned into PEM"),
        (("many.crt", "one.key"), "certFile", "300 certificates of"),
    ];
    for (pair, at, words) in table {
        let path = configuration(&authority, &pod, pair);
        for command in ["check", "run"] {
            let (code, _, stderr) = crate::command_line::run(&[command, "-c", &path]).await;
            let is_whole = stderr.contains("podpin.yaml:2:") && stderr.contains(at) && stderr.contains(words);
            assert!(code == 1 && is_whole, "{command} {pair:?}: {code} {stderr}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_a_warning_of_check_and_is_served() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign_for_years(&["localhost"], (2019, 2020));
    fs::write(authority.file("one.crt"), certificate).unwrap();
    fs::write(authority.file("one.key"), key).unwrap();
    let pod = Pod::start("pod-a").await;
    let path = configuration(&authority, &pod, ("one.crt", "one.key"));
    let (code, _, stderr) = crate::command_line::run(&["check", "-c", &path]).await;
    assert_eq!(code, 0, "{stderr}");
    for words in ["certificates[0].certFile is not valid now", "until 2020-01-01", "for localhost"] {
        assert!(stderr.contains(words), "{words} is not in {stderr}");
    }
    let certificates = format!("{{certificates: [{}]}}", authority.entry("one"));
    let proxy = Setup::chat(&[&pod]).tls(&certificates).start().await;
    proxy.log_line(&["is not valid now"]).await;
    let refused = authority.client(&[]).try_connect(proxy.address, "localhost").await.unwrap_err();
    assert!(refused.to_string().contains("xpired"), "it was shown: {refused}");
}

async fn is_served(authority: &Authority, proxy: &Proxy) {
    let mut connection = authority.client(&[]).connect(proxy.address, "localhost").await;
    assert_eq!(connection.ask(&Request::get("/who")).await.status, 200);
}

#[tokio::test]
async fn whatever_a_file_turns_into_the_certificate_before_stays_in_use() {
    let authority = Authority::new();
    authority.issue("one", &["localhost"]);
    let pod = Pod::start("pod-a").await;
    let certificates = format!("{{certificates: [{}]}}", authority.entry("one"));
    let proxy = Setup::chat(&[&pod]).tls(&certificates).start().await;
    let (file, aside) = (authority.file("one.crt"), authority.file("aside"));
    let good = fs::read(&file).unwrap();
    let failed = [("result", "failure")];
    let mut count = proxy.metric("podpin_tls_reloads_total", &failed).await;
    let troubles: [&dyn Fn(); 4] = [
        &|| fs::write(&aside, "").unwrap(),
        &|| fs::write(&aside, vec![b'x'; 10_000_000]).unwrap(),
        &|| fs::write(&aside, &good[..good.len() / 2]).unwrap(),
        &|| assert!(Command::new("mkfifo").arg(&aside).status().unwrap().success()),
    ];
    for make in troubles {
        make();
        fs::rename(&aside, &file).unwrap();
        count += 1.0;
        proxy.wait_metric_at_least("podpin_tls_reloads_total", &failed, count).await;
        is_served(&authority, &proxy).await;
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    proxy.log_line(&["certificates cannot be used", "a directory, not a file"]).await;
    is_served(&authority, &proxy).await;
    // A new pair in two steps: what lies between them does no harm.
    fs::remove_dir(&file).unwrap();
    let good_ones = proxy.metric("podpin_tls_reloads_total", &[("result", "success")]).await;
    authority.issue("one", &["localhost", "new.test"]);
    proxy.wait_metric_at_least("podpin_tls_reloads_total", &[("result", "success")], good_ones + 1.0).await;
    assert!(authority.client(&[]).try_connect(proxy.address, "new.test").await.is_ok());
}
