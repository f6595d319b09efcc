//! Credentials as people write them, and as the kubelet rotates them.

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
