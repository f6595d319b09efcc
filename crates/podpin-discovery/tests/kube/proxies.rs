//! The way to the API server through an HTTP or SOCKS5 proxy, as `proxy-url` of a kubeconfig says.

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use podpin_discovery::check;

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

/// A SOCKS5 proxy (RFC 1928) that wants this user and password (RFC 1929) if any, and sends the targets here.
async fn socks_proxy(login: Option<&'static str>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let targets = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&targets);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let into = Arc::clone(&into);
            tokio::spawn(async move {
                let [_version, count] = read::<2>(&mut client).await;
                let mut methods = vec![0; usize::from(count)];
                client.read_exact(&mut methods).await.unwrap();
                let wanted = if login.is_some() { 2 } else { 0 };
                if !methods.contains(&wanted) {
                    client.write_all(&[5, 0xff]).await.unwrap();
                    return;
                }
                client.write_all(&[5, wanted]).await.unwrap();
                if let Some(login) = login {
                    let [_version, length] = read::<2>(&mut client).await;
                    let mut user = vec![0; usize::from(length)];
                    client.read_exact(&mut user).await.unwrap();
                    let mut password = vec![0; usize::from(client.read_u8().await.unwrap())];
                    client.read_exact(&mut password).await.unwrap();
                    let shown = [user, password].map(|text| String::from_utf8(text).unwrap()).join(":");
                    client.write_all(&[1, u8::from(shown != login)]).await.unwrap();
                }
                // An address of IPv4, which is what the tests ask for.
                let [_version, _connect, _reserved, 1] = read::<4>(&mut client).await else { return };
                let ip = IpAddr::from(read::<4>(&mut client).await);
                let target = format!("{ip}:{}", client.read_u16().await.unwrap());
                let mut server = TcpStream::connect(&target).await.unwrap();
                into.lock().unwrap().push(target);
                client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, targets)
}

async fn read<const N: usize>(from: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// A kubeconfig that names this proxy.
fn through(server: &ApiServer, proxy: &str) -> (Kubeconfig, KubeSettings) {
    let kubeconfig = server.kubeconfig();
    let text = std::fs::read_to_string(kubeconfig.path()).unwrap();
    let cluster = format!("cluster: {{proxy-url: \"{proxy}\", ");
    std::fs::write(kubeconfig.path(), text.replacen("cluster: {", &cluster, 1)).unwrap();
    let settings = KubeSettings { kubeconfig: Some(kubeconfig.path()), ..KubeSettings::default() };
    (kubeconfig, settings)
}

#[tokio::test]
async fn the_api_server_is_reached_through_a_socks_proxy_with_and_without_a_login() {
    for (login, shown) in [(None, ""), (Some("user:p@ss"), "user:p%40ss@")] {
        for server in [ApiServer::start().await, ApiServer::start_tls().await] {
            server.put(&chat(&["a", "b"]));
            let (port, targets) = socks_proxy(login).await;
            let (kubeconfig, settings) = through(&server, &format!("socks5://{shown}127.0.0.1:{port}"));
            let followed = Followed::with(kubeconfig, settings);
            followed.expect(0, &["a ready", "b ready"]).await;
            assert_eq!(targets.lock().unwrap()[0], server.address().to_string());
        }
    }
}

#[tokio::test]
async fn a_proxy_of_another_kind_is_refused_by_its_url() {
    let server = ApiServer::start().await;
    for url in ["socks4://127.0.0.1:1080", "ftp://127.0.0.1:21"] {
        let (_kubeconfig, settings) = through(&server, url);
        let error = check(&settings).await.unwrap_err().to_string();
        assert!(error.contains(url) && error.contains("proxy"), "{error}");
    }
}

#[tokio::test]
async fn the_api_server_is_reached_through_the_proxy_of_a_kubeconfig() {
    for server in [ApiServer::start().await, ApiServer::start_tls().await] {
        server.put(&chat(&["a", "b"]));
        let (port, heads) = proxy().await;
        let (kubeconfig, settings) = through(&server, &format!("http://user:p%40ss@127.0.0.1:{port}"));
        let followed = Followed::with(kubeconfig, settings);
        followed.expect(0, &["a ready", "b ready"]).await;
        let heads = heads.lock().unwrap().clone();
        assert!(heads[0].starts_with(&format!("CONNECT {} ", server.address())), "{heads:?}");
        // user:p@ss
        assert!(heads[0].to_lowercase().contains("proxy-authorization: basic dxnlcjpwqhnz"), "{heads:?}");
    }
}
