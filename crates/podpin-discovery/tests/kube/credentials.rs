//! Credentials as people write them, and as the kubelet rotates them.

use std::path::PathBuf;

use podpin_discovery::{TokenError, check};

use super::*;

/// A server that wants the token `secret`, with settings that lead to it.
async fn server() -> (ApiServer, Kubeconfig, KubeSettings) {
    let server = server_with(&["a", "b"]).await;
    server.require_token("secret");
    let kubeconfig = server.kubeconfig();
    let settings = KubeSettings { kubeconfig: Some(kubeconfig.path()), ..KubeSettings::default() };
    (server, kubeconfig, settings)
}

#[tokio::test]
async fn white_space_around_a_token_is_no_part_of_it() {
    for token in ["secret\n", "secret\r\n", " secret \n\n"] {
        let (server, kubeconfig, settings) = server().await;
        kubeconfig.write_token(token);
        check(&settings).await.unwrap();
        let followed = Followed::with(kubeconfig, settings);
        followed.expect(0, &["a ready", "b ready"]).await;
        let shown = server.requests().into_iter().filter_map(|one| one.authorization);
        assert!(shown.into_iter().all(|value| value == "Bearer secret"));
    }
}

#[tokio::test]
async fn a_token_that_is_written_out_may_end_with_a_newline_too() {
    let (server, kubeconfig, settings) = server().await;
    let text = std::fs::read_to_string(kubeconfig.path()).unwrap();
    let file = format!("tokenFile: {}", kubeconfig.token_path().display());
    std::fs::write(kubeconfig.path(), text.replace(&file, "token: \"secret\\n\"")).unwrap();
    let followed = Followed::with(kubeconfig, settings);
    followed.expect(0, &["a ready", "b ready"]).await;
    drop(server);
}

#[tokio::test]
async fn a_file_without_a_token_is_refused_with_its_path() {
    let (_server, kubeconfig, settings) = server().await;
    let path = kubeconfig.token_path();
    let refused = async || check(&settings).await.unwrap_err();
    for (content, expected) in
        [(&b""[..], TokenError::Empty), (b"\n\n", TokenError::Empty), (b"sec\0ret", TokenError::Binary)]
    {
        kubeconfig.write_token(content);
        let error = refused().await;
        assert!(matches!(&error, KubeError::Token { error, .. } if *error == expected), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let ended = follow(settings.clone(), vec![service("chat")], |_| {}).await.unwrap_err();
        assert!(matches!(ended, KubeError::Token { .. }), "{ended}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = refused().await.to_string();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("cannot be read"), "{error}");
}

#[tokio::test]
async fn a_rotation_that_goes_wrong_keeps_the_token_in_use() {
    let (server, kubeconfig, settings) = server().await;
    let followed = Followed::with(kubeconfig, settings);
    followed.expect(0, &["a ready", "b ready"]).await;
    server.wait_watches(1).await;
    for (round, content) in [&b""[..], b"\xff\xfe"].into_iter().enumerate() {
        followed.kubeconfig.write_token(content);
        let name = ["c", "d"][round];
        server.put_unseen(&chat(&[name]));
        server.cut_watches(Cut::Expired);
        followed.expect(0, &[&format!("{name} ready")]).await;
        server.wait_watches(1).await;
    }
    followed.kubeconfig.write_token("next");
    server.require_token("next");
    server.put_unseen(&chat(&["e"]));
    server.cut_watches(Cut::Expired);
    followed.expect(0, &["e ready"]).await;
}

#[tokio::test]
async fn over_tls_with_a_token_that_is_rotated() {
    let server = ApiServer::start_tls().await;
    server.require_token("first");
    server.put(&chat(&["a", "b"]));
    let kubeconfig = server.kubeconfig();
    let settings = KubeSettings { kubeconfig: Some(kubeconfig.path()), ..KubeSettings::default() };
    let followed = Followed::with(kubeconfig, settings);
    followed.expect(0, &["a ready", "b ready"]).await;
    server.wait_watches(1).await;
    server.require_token("second");
    server.put_unseen(&chat(&["c"]));
    server.cut_watches(Cut::Expired);
    followed.until("refused", |seen| seen.connected.get(&0) == Some(&false)).await;
    assert_eq!(followed.seen().endpoints[&0], ["a ready", "b ready"]);
    followed.kubeconfig.write_token("second");
    followed.expect(0, &["c ready"]).await;
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    let settings = |context: Option<&str>| KubeSettings {
        kubeconfig: Some(path.clone()),
        context: context.map(str::to_owned),
        ..KubeSettings::default()
    };
    let error = async |context| follow(settings(context), vec![service("chat")], |_| {}).await.unwrap_err();
    let missing = error(None).await;
    assert!(matches!(missing, KubeError::Kubeconfig { .. }), "{missing}");
    assert!(missing.to_string().contains(path.to_str().unwrap()), "{missing}");
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(error(None).await, KubeError::Kubeconfig { .. }));
    let server = ApiServer::start().await;
    std::fs::copy(server.kubeconfig().path(), &path).unwrap();
    let no_context = error(Some("nowhere")).await;
    assert!(no_context.to_string().contains("nowhere"), "{no_context}");
}

/// The output of a credential plugin.
fn credential(status: &str) -> String {
    format!(
        r#"{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {{{status}}}}}"#
    )
}

/// Replaces the credentials of the kubeconfig by a plugin that prints the file `credential` beside it. Returns that file.
fn use_plugin(kubeconfig: &Kubeconfig) -> PathBuf {
    let printed = kubeconfig.path().with_file_name("credential");
    let command = format!("command: cat, args: [\"{}\"]", printed.display());
    use_command(kubeconfig, &command);
    printed
}

/// Replaces the credentials of the kubeconfig by a plugin that runs a script of the shell.
fn use_script(kubeconfig: &Kubeconfig, script: &str) {
    let path = kubeconfig.path().with_file_name("plugin.sh");
    std::fs::write(&path, script).unwrap();
    use_command(kubeconfig, &format!("command: sh, args: [\"{}\"]", path.display()));
}

fn use_command(kubeconfig: &Kubeconfig, command: &str) {
    let version = "client.authentication.k8s.io/v1";
    let exec = format!("exec: {{apiVersion: {version}, interactiveMode: Never, {command}}}");
    let text = std::fs::read_to_string(kubeconfig.path()).unwrap();
    let file = format!("tokenFile: {}", kubeconfig.token_path().display());
    std::fs::write(kubeconfig.path(), text.replace(&file, &exec)).unwrap();
}

#[tokio::test]
async fn the_token_of_a_credential_plugin_is_renewed_before_it_expires() {
    let (server, kubeconfig, settings) = server().await;
    let printed = use_plugin(&kubeconfig);
    let past = r#""expirationTimestamp": "2026-01-01T00:00:00Z""#;
    std::fs::write(&printed, credential(&format!(r#""token": "secret", {past}"#))).unwrap();
    let followed = Followed::with(kubeconfig, settings);
    followed.expect(0, &["a ready", "b ready"]).await;
    server.wait_watches(1).await;
    std::fs::write(&printed, credential(&format!(r#""token": "next", {past}"#))).unwrap();
    server.require_token("next");
    server.put_unseen(&chat(&["c"]));
    server.cut_watches(Cut::Expired);
    followed.expect(0, &["c ready"]).await;
    server.wait_watches(1).await;
    std::fs::write(&printed, "a secret that is no JSON").unwrap();
    server.require_token("another");
    server.cut_watches(Cut::Expired);
    let failed = |seen: &Seen| seen.failures.iter().any(|reason| reason.contains("no ExecCredential"));
    followed.until("the plugin's failure", failed).await;
    assert!(followed.seen().failures.iter().all(|reason| !reason.contains("secret")));
    // What fails is tried again by itself.
    std::fs::write(&printed, credential(r#""token": "another""#)).unwrap();
    server.put_unseen(&chat(&["d"]));
    followed.expect(0, &["d ready"]).await;
}

#[tokio::test]
async fn a_plugin_is_run_again_when_its_token_is_refused() {
    let (server, kubeconfig, settings) = server().await;
    let printed = use_plugin(&kubeconfig);
    // When it expires is not said.
    std::fs::write(&printed, credential(r#""token": "secret""#)).unwrap();
    let followed = Followed::with(kubeconfig, settings);
    followed.expect(0, &["a ready", "b ready"]).await;
    server.wait_watches(1).await;
    std::fs::write(&printed, credential(r#""token": "next""#)).unwrap();
    server.require_token("next");
    server.put_unseen(&chat(&["c"]));
    server.cut_watches(Cut::Expired);
    followed.expect(0, &["c ready"]).await;
}

#[tokio::test]
async fn a_plugin_that_gives_no_credentials_is_refused_with_its_words() {
    let (_server, kubeconfig, settings) = server().await;
    let printed = use_plugin(&kubeconfig);
    let refused = async || check(&settings).await.unwrap_err().to_string();
    let missing = refused().await;
    assert!(missing.contains("No such file"), "{missing}");
    assert!(missing.contains("credential plugin"), "{missing}");
    let empty = credential(r#""token": """#);
    let contents = ["no JSON, but a secret", "", r#"{"kind": "ExecCredential"}"#, &credential(""), &empty];
    for content in contents {
        std::fs::write(&printed, content).unwrap();
        let error = refused().await;
        assert!(error.to_lowercase().contains("exec"), "{content:?}: {error}");
        assert!(!error.contains("secret"), "{content:?}: {error}");
    }
    let text = std::fs::read_to_string(kubeconfig.path()).unwrap();
    std::fs::write(kubeconfig.path(), text.replace("command: cat", "command: no-such-plugin")).unwrap();
    let error = refused().await;
    assert!(error.contains("exec") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn credentials_of_a_kind_that_is_not_supported_are_refused() {
    let (_server, kubeconfig, settings) = server().await;
    let text = std::fs::read_to_string(kubeconfig.path()).unwrap();
    let file = format!("tokenFile: {}", kubeconfig.token_path().display());
    for (provider, words) in
        [("oidc", "oidc"), ("gcp", "gcp"), ("azure", "azure"), ("openstack", "openstack")]
    {
        let user = format!("auth-provider: {{name: {provider}, config: {{x: y}}}}");
        std::fs::write(kubeconfig.path(), text.replace(&file, &user)).unwrap();
        let error = check(&settings).await.unwrap_err().to_string();
        assert!(error.contains("auth error") && error.contains(words), "{provider}: {error}");
    }
}

/// Settings that give a plugin so little time that a test can wait for its end.
fn impatient(settings: KubeSettings) -> KubeSettings {
    KubeSettings { plugin_timeout: Duration::from_secs(1), ..settings }
}

#[tokio::test]
async fn a_plugin_that_hangs_is_an_error_that_names_it() {
    let (server, kubeconfig, settings) = server().await;
    use_script(&kubeconfig, "echo log in at example.com >&2; exec sleep 1000");
    let error = check(&impatient(settings)).await.unwrap_err().to_string();
    for part in ["credential plugin sh", "not answered within 1s", "killed", "log in at example.com"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_plugin_that_hangs_later_ends_nothing() {
    let (server, kubeconfig, settings) = server().await;
    let [hangs, printed] = ["hangs", "credential"].map(|name| kubeconfig.path().with_file_name(name));
    std::fs::write(&printed, credential(r#""token": "secret""#)).unwrap();
    let script =
        format!("if [ -e {0} ]; then exec sleep 1000; fi; exec cat {1}", hangs.display(), printed.display());
    use_script(&kubeconfig, &script);
    let followed = Followed::with(kubeconfig, impatient(settings));
    followed.expect(0, &["a ready", "b ready"]).await;
    server.wait_watches(1).await;
    std::fs::write(&hangs, "").unwrap();
    server.require_token("next");
    server.put_unseen(&chat(&["c"]));
    server.cut_watches(Cut::Expired);
    let named = |seen: &Seen| seen.failures.iter().any(|reason| reason.contains("credential plugin sh"));
    followed.until("the plugin's failure", named).await;
    // The server may take the old one back: nothing waits for the plugin.
    server.require_token("secret");
    followed.expect(0, &["c ready"]).await;
    server.require_token("next");
    server.put_unseen(&chat(&["d"]));
    server.cut_watches(Cut::Expired);
    std::fs::remove_file(&hangs).unwrap();
    std::fs::write(&printed, credential(r#""token": "next""#)).unwrap();
    followed.expect(0, &["d ready"]).await;
}

#[tokio::test]
async fn a_plugin_is_run_once_for_all_that_use_it() {
    let (server, kubeconfig, settings) = server().await;
    let runs = kubeconfig.path().with_file_name("runs");
    let script = format!("echo run >> {}; echo '{}'", runs.display(), credential(r#""token": "secret""#));
    use_script(&kubeconfig, &script);
    check(&settings).await.unwrap();
    let elsewhere = KubeService { namespace: Some("elsewhere".to_owned()), ..service("chat") };
    let services = vec![service("chat"), elsewhere];
    let following = tokio::spawn(follow(settings, services, |_| {}));
    server.wait_watches(2).await;
    following.abort();
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
}
