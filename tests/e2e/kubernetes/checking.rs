//! `podpin check` of services in a cluster: without one, on manifests, and with `--live`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use podpin_testkit::{Fault, On, podpin_binary};
use serde_json::json;

use super::Cluster;
use crate::command_line::run;

const CONFIG: &str = "listeners: [{name: http, address: 127.0.0.1:1}]
affinityKeys: [{id: k1, file: /nowhere/k1}]
routes: [{service: chat}]
services:
  chat:
    discovery: {kubernetes: {namespace: lab, service: SERVICE, port: PORT}}
";

fn config(service: &str, port: &str) -> String {
    CONFIG.replace("SERVICE", service).replace("PORT", port)
}

/// A ConfigMap behind another object, with the configuration indented by four.
fn manifest(text: &str) -> String {
    let block: String = text.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\n---\napiVersion: v1\nkind: ConfigMap\n\
         metadata:\n  name: podpin\ndata:\n  podpin.yaml: |\n{block}"
    )
}

/// `podpin check -` with this text on standard input, on a machine without a cluster.
fn check_stdin(text: &str, options: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(podpin_binary());
    command.arg("check").args(options).arg("-").env("HOME", "/nowhere").env_remove("KUBECONFIG");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("podpin");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_config_map_is_checked_without_a_cluster_and_without_its_files() {
    let (code, stdout, stderr) = check_stdin(&manifest(&config("chat", "http")), &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("stdin, ConfigMap podpin: ok") && stdout.contains("were not read"), "{stdout}");
    let wrong = manifest(&config("chat", "http").replace("    discovery", "    discovry"));
    let (code, _, stderr) = check_stdin(&wrong, &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("stdin:16:9: services.chat.discovry"), "{stderr}");
}

#[test]
fn a_configuration_on_standard_input_needs_its_files_unless_it_is_told_not_to() {
    let text = config("chat", "http");
    let (code, _, stderr) = check_stdin(&text, &[]);
    assert!(code == Some(1) && stderr.contains("stdin:2:31: affinityKeys: /nowhere/k1"), "{stderr}");
    let (code, _, stderr) = check_stdin(&text, &["--no-files"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, _, stderr) = check_stdin(&text.replace("affinityKeys", "# "), &["--no-files"]);
    assert!(code == Some(1) && stderr.contains("affinityKeys is missing"), "{stderr}");
}

/// `podpin check --live FILE` against a cluster.
async fn check_live(cluster: &Cluster, service: &str, port: &str) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("podpin.yaml");
    let text = format!("{}{}\n", config(service, port), cluster.kubeconfig.setting());
    std::fs::write(&path, text).unwrap();
    run(&["check", "--live", "--no-files", path.to_str().unwrap()]).await
}

#[tokio::test]
async fn a_live_check_asks_the_cluster_for_the_names() {
    let cluster = Cluster::ready(&["pod-a", "pod-b"]).await;
    cluster.api.put_service("chat", &[("http", 80, json!("web"))]);
    let (code, stdout, stderr) = check_live(&cluster, "chat", "http").await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("service chat: 2 endpoints, 2 ready"), "{stdout}");
    let (code, _, stderr) = check_live(&cluster, "chat", "80").await;
    assert_eq!(code, 1);
    for words in
        ["has a port 80", "80 is the Service's own port", "targetPort is `web`", "write `port: http`"]
    {
        assert!(stderr.contains(words), "{words} is not in {stderr}");
    }
    let (code, _, stderr) = check_live(&cluster, "chatt", "http").await;
    assert!(code == 1 && stderr.contains("does the Service exist?"), "{stderr}");
}

#[tokio::test]
async fn a_live_check_says_which_rights_are_missing() {
    let cluster = Cluster::ready(&["pod-a"]).await;
    cluster.api.fail(On::Watch, Fault::Status(403));
    let (code, _, stderr) = check_live(&cluster, "chat", "http").await;
    assert!(code == 1 && stderr.contains("watch with 403"), "{stderr}");
    cluster.api.fail(On::List, Fault::Status(403));
    let (code, _, stderr) = check_live(&cluster, "chat", "http").await;
    assert!(
        code == 1 && stderr.contains("list with 403") && stderr.contains("a Role in that namespace"),
        "{stderr}"
    );
}
