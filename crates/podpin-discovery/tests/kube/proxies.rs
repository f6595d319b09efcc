//! The way to the API server through an HTTP proxy, as `proxy-url` of a kubeconfig says.

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A proxy that serves `CONNECT` and sends the heads of its requests here.
async fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let into = Arc::clone(&into);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                into.lock().unwrap().push(head);
                let mut server = TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                // Whichever side ends first ends it.
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, heads)
}

#[tokio::test]
async fn the_api_server_is_reached_through_the_proxy_of_a_kubeconfig() {
    for server in [ApiServer::start().await, ApiServer::start_tls().await] {
        server.put(&chat(&["a", "b"]));
        let (kubeconfig, (port, heads)) = (server.kubeconfig(), proxy().await);
        let text = std::fs::read_to_string(kubeconfig.path()).unwrap();
        let url = format!("cluster: {{proxy-url: \"http://user:p%40ss@127.0.0.1:{port}\", ");
        std::fs::write(kubeconfig.path(), text.replacen("cluster: {", &url, 1)).unwrap();
        let settings = KubeSettings { kubeconfig: Some(kubeconfig.path()), ..KubeSettings::default() };
        let followed = Followed::with(kubeconfig, settings);
        followed.expect(0, &["a ready", "b ready"]).await;
        let heads = heads.lock().unwrap().clone();
        assert!(heads[0].starts_with(&format!("CONNECT {} ", server.address())), "{heads:?}");
        // user:p@ss
        assert!(heads[0].to_lowercase().contains("proxy-authorization: basic dxnlcjpwqhnz"), "{heads:?}");
    }
}
