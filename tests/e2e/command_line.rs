//! The command line: check, keygen, version, usage, and its exit codes 0, 1 and 2.

use std::os::unix::fs::PermissionsExt as _;

use podpin_testkit::{Process, Setup, free_port};

/// Runs the binary to its end: the exit code and both outputs.
pub(crate) async fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut process = Process::start(arguments);
    let code = process.wait_exit().await;
    (code, process.stdout().join("\n"), process.stderr().join("\n"))
}

/// `podpin check` on this text.
async fn check(text: &str) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("podpin.yaml");
    std::fs::write(&path, text).unwrap();
    std::fs::write(directory.path().join("k1"), "0".repeat(43)).unwrap();
    run(&["check", "--config", path.to_str().unwrap()]).await
}

const GOOD: &str = "listeners:
  - {name: http, address: 127.0.0.1:8080}
affinityKeys:
  - {id: k1, file: k1}
routes:
  - {name: stream, service: chat}
services:
  chat:
    discovery:
      static: [{name: pod-a, address: 127.0.0.1:9001}]
    timeouts: {connect: 2s, responseHeader: 7s}
";

#[tokio::test]
async fn a_good_configuration_is_shown_route_by_route_with_its_timeouts() {
    let (code, stdout, stderr) = check(GOOD).await;
    assert_eq!(code, 0, "{stderr}");
    for word in ["stream", "chat", "2s", "7s"] {
        assert!(stdout.contains(word), "{word} is not in\n{stdout}");
    }
}

#[tokio::test]
async fn how_streams_leave_and_how_pods_are_spoken_to_is_shown() {
    let (_, stdout, _) = check(GOOD).await;
    for words in ["spread 20s, timeout 30s, handover none", "tls       off"] {
        assert!(stdout.contains(words), "{words} is not in\n{stdout}");
    }
    let more = "    tls: {serverName: pod.test, verify: false}\n    drain: {handover: lastEventId}\n";
    let (code, stdout, stderr) = check(&format!("{GOOD}{more}")).await;
    assert_eq!(code, 0, "{stderr}");
    for words in ["handover lastEventId", "to pods: serverName pod.test, trusting any certificate"] {
        assert!(stdout.contains(words), "{words} is not in\n{stdout}");
    }
}

#[tokio::test]
async fn backends_are_shown_with_their_weights_and_matches_with_their_headers() {
    let text = GOOD.replace(
        "service: chat}",
        "backends: [{service: chat, weight: 3}, {service: next}], matches: [{path: {value: /a}, headers: [{name: X-A, value: b}]}]}",
    );
    let text = format!("{text}  next: {{discovery: {{static: []}}}}\n");
    let (code, stdout, stderr) = check(&text).await;
    assert_eq!(code, 0, "{stderr}");
    for words in
        ["/a/* with x-a: b", "chat (static, 1 endpoints, leastStreams, weight 3 of 4)", "weight 1 of 4)"]
    {
        assert!(stdout.contains(words), "{words} is not in\n{stdout}");
    }
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_line_column_and_what_was_meant() {
    let cases = [
        (GOOD.replace("    timeouts: {connect", "    timeouts: {conect"), "podpin.yaml:11:16", "connect"),
        (
            GOOD.replace("services:\n  chat:\n", "services:\n  chat:\n    sse: {keepAlve: 1s}\n"),
            "podpin.yaml:9:11",
            "keepAlive",
        ),
        (GOOD.replace("service: chat}", "service: chta}"), "podpin.yaml:6:29", "chat"),
        (GOOD.replace("connect: 2s", "connect: 2 parsecs"), "podpin.yaml:11:25", "connect"),
        (
            GOOD.replace("service: chat}", "backends: [{service: chat}, {service: chta}]}"),
            "podpin.yaml:6:58",
            "did you mean `chat`?",
        ),
        (
            GOOD.replace("service: chat}", "service: chat, backends: [{service: chat}]}"),
            "podpin.yaml:6:35",
            "exactly one",
        ),
        (
            GOOD.replace(
                "service: chat}",
                "service: chat, matches: [{headers: [{name: X-A, type: RegularExpression, value: '('}]}]}",
            ),
            "podpin.yaml:6:100",
            "unclosed group",
        ),
        (GOOD.replace("routes:", "rotes:"), "podpin.yaml:5:1", "routes"),
    ];
    for (text, place, meant) in cases {
        let (code, stdout, stderr) = check(&text).await;
        assert_eq!(code, 1, "{text}\n{stdout}{stderr}");
        assert!(stderr.contains(place) && stderr.contains(meant), "{place} and {meant} are not in\n{stderr}");
    }
}

#[tokio::test]
async fn run_applies_the_same_rules_as_check() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("podpin.yaml");
    std::fs::write(&path, GOOD.replace("service: chat}", "service: chta}")).unwrap();
    std::fs::write(directory.path().join("k1"), "0".repeat(43)).unwrap();
    let (code, _, stderr) = run(&["run", "-c", path.to_str().unwrap()]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("podpin.yaml:6:29"), "{stderr}");
}

#[tokio::test]
async fn without_keys_it_refuses_to_run_and_says_what_to_write() {
    let text = GOOD.replace("affinityKeys:\n  - {id: k1, file: k1}\n", "");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("podpin.yaml");
    std::fs::write(&path, text).unwrap();
    for command in ["check", "run"] {
        let (code, _, stderr) = run(&[command, "--config", path.to_str().unwrap()]).await;
        assert_eq!(code, 1, "{command}");
        assert!(stderr.contains("affinityKeys") && stderr.contains("ephemeral"), "{stderr}");
    }
}

#[tokio::test]
async fn a_key_file_that_is_missing_or_too_short_is_refused() {
    for (material, said) in [(None, "k1"), (Some("short"), "32")] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("podpin.yaml");
        std::fs::write(&path, GOOD).unwrap();
        if let Some(material) = material {
            std::fs::write(directory.path().join("k1"), material).unwrap();
        }
        for command in ["check", "run"] {
            let (code, _, stderr) = run(&[command, "--config", path.to_str().unwrap()]).await;
            assert_eq!(code, 1, "{command} with {material:?}");
            assert!(stderr.contains(said) && stderr.contains("podpin.yaml:4:"), "{stderr}");
        }
    }
}

#[tokio::test]
async fn a_file_that_does_not_exist_is_named() {
    for command in ["check", "run"] {
        let (code, _, stderr) = run(&[command, "--config", "/nowhere/podpin.yaml"]).await;
        assert_eq!(code, 1);
        assert!(stderr.contains("/nowhere/podpin.yaml"), "{stderr}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_process_with_a_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::new().service_at("chat", &[("a", ([127, 0, 0, 1], 9).into())]);
    let free = ([127, 0, 0, 1], free_port()).into();
    for (address, admin) in [(taken.local_addr().unwrap(), free), (free, taken.local_addr().unwrap())] {
        let path = setup.write(directory.path(), address, admin);
        let (code, _, stderr) = run(&["run", "--config", &path]).await;
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(&taken.local_addr().unwrap().to_string()), "{stderr}");
    }
}

#[tokio::test]
async fn keygen_prints_a_key_that_differs_every_time() {
    let (code, first, _) = run(&["keygen"]).await;
    let (_, second, _) = run(&["keygen"]).await;
    assert_eq!((code, first.len()), (0, 43));
    assert!(
        first.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'),
        "{first}"
    );
    assert_ne!(first, second);
}

#[tokio::test]
async fn keygen_writes_a_private_file_and_never_overwrites_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("k1");
    let (code, stdout, stderr) = run(&["keygen", "--out", path.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{stderr}");
    let key = std::fs::read_to_string(&path).unwrap();
    assert_eq!(key.trim().len(), 43);
    assert!(!stdout.contains(key.trim()), "a key that is written to a file is not printed");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, _, stderr) = run(&["keygen", "--out", path.to_str().unwrap()]).await;
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), key);
}

#[tokio::test]
async fn version_and_usage() {
    let (code, stdout, _) = run(&["--version"]).await;
    assert_eq!(code, 0);
    let version =
        stdout.trim().strip_prefix(concat!("podpin ", env!("CARGO_PKG_VERSION"), " (")).unwrap_or_default();
    let built_from = version.strip_suffix(')').unwrap_or_default();
    // The commit and its date, or the word for a build that knows neither.
    let parts: Vec<_> = built_from.split(' ').map(str::len).collect();
    assert!(built_from == "unknown" || matches!(parts.as_slice(), [7..=12, 10]), "{stdout}");
    let (code, stdout, _) = run(&["--help"]).await;
    assert_eq!(code, 0);
    for command in ["run", "check", "keygen", "demo"] {
        assert!(stdout.contains(command), "{command} is not in\n{stdout}");
    }
    for wrong in [&["frobnicate"][..], &["run"], &["check", "--config"], &["run", "--confg", "x"], &[]] {
        let (code, _, stderr) = run(wrong).await;
        assert_eq!(code, 2, "{wrong:?}\n{stderr}");
    }
}

#[tokio::test]
async fn the_schema_is_printed_as_json() {
    let (code, stdout, stderr) = run(&["schema"]).await;
    assert_eq!(code, 0, "{stderr}");
    let schema: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(schema["properties"]["services"].is_object(), "{stdout}");
}
