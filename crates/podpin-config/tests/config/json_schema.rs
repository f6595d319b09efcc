//! The JSON Schema that `podpin schema` prints: made of the table in docs/configuration.md, which has a row for every key that the
//! parser knows, and of no other (`schema.rs`). The file `schema.json` is what this makes; a test says when it has to be renewed.
//!
//! A schema knows less than the parser: names that have to resolve, keys that exclude each other. It is for editors.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "in a test a panic is the report")]

mod generate;
mod validate;

use std::fs;
use std::path::Path;

use podpin_config::{Config, JSON_SCHEMA};
use serde_json::Value;

use self::generate::generate;
use self::validate::validate;

fn repository() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn schema() -> Value {
    serde_json::from_str(JSON_SCHEMA).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn the_schema_is_made_of_the_documentation() {
    let page = fs::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let made = format!("{:#}\n", generate(&page, env!("CARGO_PKG_VERSION")));
    if made != JSON_SCHEMA {
        let path = repository().join("target/schema.json");
        fs::write(&path, made).unwrap();
        panic!("copy {} to crates/podpin-config/schema.json", path.display());
    }
}

#[test]
fn every_example_is_valid() {
    let schema = schema();
    let mut read = 0;
    for entry in fs::read_dir(repository().join("config")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".yaml") && !name.starts_with("endpoints") {
            let value = yaml(&fs::read_to_string(&path).unwrap());
            validate(&schema, &value).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            read += 1;
        }
    }
    assert!(read >= 4, "only {read} files");
}

const GOOD: &str = "
listeners: [{name: http, address: '127.0.0.1:8080', h2c: true, proxyProtocol: 'off'}]
trustedProxies: [10.0.0.0/8]
limits: {connections: 10, connectionsPerClientIP: 'off', requestHeaderBytes: 32KiB, keepAliveTimeout: 1m30s, http2Ping: null}
affinityKeys: [{id: k1, file: k1}]
accessLog: {path: '-'}
routes:
  - {name: all, service: chat, redirect: {statusCode: 308}, headers: {response: {set: {X-A: b}}}}
  - {name: more, hostnames: ['*.example.com'], matches: [{path: {type: Exact, value: /a}}], backends: [{service: chat, weight: 3}]}
services:
  chat:
    discovery: {static: [{name: a, address: '127.0.0.1:1'}]}
    protocol: http1
    balance: {strategy: roundRobin, slowStart: 'off'}
    affinity: {cookie: {maxAge: session, sameSite: Lax, secure: auto}, absoluteTimeout: 48h}
    drain: {budget: {perSecond: 5}}
    retries: {attempts: 2, statuses: [502]}
    health: {passive: {failures: 3}, active: {type: http, path: /}}
shutdown: {announce: 5s, spread: 10s, timeout: 30s}
";

/// Changes of [`GOOD`], each of which makes it a file that is refused.
const BAD: [(&str, &str); 32] = [
    ("listeners:", "listener:"),
    ("h2c: true", "h2c: maybe"),
    ("h2c: true", "h2: true"),
    ("proxyProtocol: 'off'", "proxyProtocol: sometimes"),
    ("{name: http, address", "{address"),
    ("name: http", "name: Http_1"),
    ("[10.0.0.0/8]", "10.0.0.0/8"),
    ("connections: 10", "connections: 0"),
    ("connections: 10", "connections: many"),
    ("connectionsPerClientIP: 'off'", "connectionsPerClientIP: none"),
    ("32KiB", "32KB of it"),
    ("1m30s", "90"),
    ("1m30s", "90 seconds"),
    ("http2Ping: null", "http2Pong: null"),
    ("affinityKeys: [{id: k1, file: k1}]", "affinityKeys: random"),
    ("{id: k1, file: k1}", "{id: k1}"),
    ("accessLog: {path: '-'}", "accessLog: stdout"),
    ("statusCode: 308", "statusCode: 200"),
    ("X-A: b", "X-A: [b]"),
    ("hostnames: ['*.example.com']", "host: example.com"),
    ("{type: Exact, value: /a}", "/a"),
    ("type: Exact", "type: Regex"),
    ("{static: [{name: a, address: '127.0.0.1:1'}]}", "{}"),
    ("{static: [{name: a, address: '127.0.0.1:1'}]}", "{static: [], file: {path: x}}"),
    ("protocol: http1", "protocol: http3"),
    ("roundRobin", "ip_hash"),
    ("maxAge: session", "maxAge: forever"),
    ("sameSite: Lax", "sameSite: lax"),
    ("secure: auto", "secure: sometimes"),
    ("attempts: 2", "attempts: 11"),
    ("[502]", "[404]"),
    ("timeout: 30s}", "timeout: 30s, wait: 1s}"),
];

#[test]
fn bad_files_are_refused_by_the_schema_as_by_the_parser() {
    let schema = schema();
    let parse = |text: &str| Config::parse(text, "podpin.yaml", Path::new("/etc/podpin"));
    parse(GOOD).unwrap_or_else(|error| panic!("{error}"));
    validate(&schema, &yaml(GOOD)).unwrap_or_else(|fault| panic!("{fault}"));
    for (from, to) in BAD {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        assert!(parse(&text).is_err(), "the parser takes {to}");
        assert!(validate(&schema, &yaml(&text)).is_err(), "the schema takes {to}");
    }
}
