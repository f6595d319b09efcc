//! `X-Podpin-Session: renew` in a pod's response: the client gets a session that is new to all others, on every data path.

use podpin_testkit::{
    Answer, Connection, EndpointsFile, H2Connection, Pod, Proxy, Reply, Request, Setup, StreamAnswer,
};

const RENEW: (&str, &str) = ("X-Podpin-Session", "renew");

async fn pod() -> Pod {
    let pod = Pod::start("pod-a").await;
    pod.greet("/events");
    pod.answer("/login", Reply::new(200).header(RENEW.0, RENEW.1).body("in"));
    let stream = StreamAnswer::new().header(RENEW.0, RENEW.1).opening("id: 1\ndata: in\n\n");
    pod.answer("/live", stream);
    pod.answer("/ws", Answer::ByHand);
    pod
}

/// The cookie that a first visit is given, and the session that the pod was told.
async fn first_visit(proxy: &Proxy, pod: &Pod) -> (String, String) {
    let response = proxy.get("/plain").await;
    let session = pod.next_request().await.header("x-podpin-session").unwrap().to_owned();
    (set_cookie(response.header("set-cookie")).unwrap(), session)
}

/// Name and value of a cookie that is set.
fn set_cookie(set: Option<&str>) -> Option<String> {
    Some(set?.split(';').next()?.to_owned())
}

/// The session that the pod is told of a client with this cookie.
async fn session_of(proxy: &Proxy, pod: &Pod, cookie: &str) -> String {
    let response = Request::get("/plain").header("Cookie", cookie).send(proxy.address).await;
    assert_eq!(response.header("set-cookie"), None, "it is good as it is");
    pod.next_request().await.header("x-podpin-session").unwrap().to_owned()
}

/// Has a response of each kind renew the session of a client with `cookie`; returns what the client was told in `Set-Cookie`.
async fn renewed(proxy: &Proxy, pod: &Pod, kind: &str, cookie: &str) -> Option<String> {
    let with = |request: Request| request.header("Cookie", cookie);
    let mut connection: Connection = proxy.connect().await;
    let head = match kind {
        "request" => connection.ask(&with(Request::get("/login"))).await.head,
        "post" => connection.ask(&with(Request::new("POST", "/login").body("who"))).await.head,
        "stream" | "post stream" => {
            let request =
                if kind == "stream" { Request::events("/live") } else { Request::new("POST", "/live") };
            connection.send(with(request).bytes()).await;
            connection.head().await
        }
        "h2 request" => {
            H2Connection::open(proxy.address).await.send(&with(Request::get("/login"))).await.head
        }
        "h2 stream" => {
            let (_, stream) =
                H2Connection::open(proxy.address).await.open_stream(&with(Request::events("/live"))).await;
            pod.next_request().await;
            assert_eq!(stream.header("x-podpin-session"), None);
            return set_cookie(stream.header("set-cookie"));
        }
        _ => {
            drop(pod.waiting_streams().await);
            connection.send(with(Request::websocket("/ws")).bytes()).await;
            let line = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
            pod.next_stream().await.raw(&format!("{line}{}: {}\r\n\r\n", RENEW.0, RENEW.1)).await;
            connection.head().await
        }
    };
    pod.next_request().await;
    assert_eq!(head.header("x-podpin-session"), None, "{kind}: the word is for the proxy");
    assert_eq!(head.header("cache-control"), Some("private"), "{kind}");
    set_cookie(head.header("set-cookie"))
}

#[tokio::test]
async fn a_response_of_any_kind_renews_the_session_of_its_client() {
    let pod = pod().await;
    let proxy = Setup::chat(&[&pod]).h2c().start().await;
    for kind in ["request", "post", "stream", "post stream", "h2 request", "h2 stream", "upgrade"] {
        let (planted, before) = first_visit(&proxy, &pod).await;
        assert_eq!(session_of(&proxy, &pod, &planted).await, before);
        let fresh = renewed(&proxy, &pod, kind, &planted).await.expect(kind);
        let after = session_of(&proxy, &pod, &fresh).await;
        assert_ne!(after, before, "{kind}");
        assert_eq!(
            session_of(&proxy, &pod, &planted).await,
            before,
            "{kind}: who planted it keeps the old one"
        );
    }
}

#[tokio::test]
async fn a_stream_that_renewed_its_session_goes_on_elsewhere_under_the_new_one() {
    let pods = [pod().await, pod().await];
    let entry = |pod: &Pod, name, state| (name, pod.address(), state);
    let file = EndpointsFile::with(&[entry(&pods[0], "one", "ready")]);
    let setup = Setup::new().service_in("chat", &file).with("drain: {handover: lastEventId, spread: 0s}");
    let proxy = setup.start().await;
    let (planted, before) = first_visit(&proxy, &pods[0]).await;
    let mut stream = Request::events("/live").header("Cookie", &planted).open(proxy.address).await;
    let fresh = set_cookie(stream.header("set-cookie")).unwrap();
    assert_eq!(stream.next_data().await, "in");
    file.write(&[entry(&pods[0], "one", "draining"), entry(&pods[1], "two", "ready")]);
    let told = pods[1].next_request().await.header("x-podpin-session").unwrap().to_owned();
    assert_ne!(told, before);
    let request = Request::get("/plain").header("Cookie", &fresh);
    request.send(proxy.address).await;
    assert_eq!(pods[1].next_request().await.header("x-podpin-session"), Some(&*told));
}

#[tokio::test]
async fn a_client_that_names_itself_keeps_its_name() {
    let pod = pod().await;
    let proxy = Setup::chat(&[&pod]).with("affinity: {header: X-User}").start().await;
    let mut told = Vec::new();
    for target in ["/plain", "/login", "/plain"] {
        let response = Request::get(target).header("X-User", "ann").send(proxy.address).await;
        assert_eq!((response.status, response.header("set-cookie")), (200, None));
        told.push(pod.next_request().await.header("x-podpin-session").unwrap().to_owned());
    }
    assert!(told.iter().all(|session| *session == told[0]), "{told:?}");
}
