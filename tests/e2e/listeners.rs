//! Routes that some listeners serve and others do not.

use std::net::SocketAddr;

use podpin_testkit::{H2Connection, Pod, Request, Setup, free_port};

#[tokio::test]
async fn a_route_of_one_listener_is_not_served_by_another() {
    let pods = Pod::start_three().await;
    for (pod, path) in pods.iter().flat_map(|pod| ["/", "/admin", "/admin/open"].map(|path| (pod, path))) {
        pod.greet(path);
    }
    let inner = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let setup = Setup::new()
        .service("chat", &[&pods[0]])
        .service("inner", &[&pods[1]])
        .service("outer", &[&pods[2]])
        .listener("inside", inner)
        .h2c()
        .route("{name: all, service: chat}")
        .route("{name: guarded, service: inner, listeners: [inside], matches: [{path: {value: /admin}}]}")
        .route("{name: open, service: outer, listeners: [http], matches: [{path: {value: /admin/open}}]}");
    let proxy = setup.start().await;
    for (address, path, expected) in [
        (inner, "/", "pod-a"),
        (inner, "/admin", "pod-b"),
        (inner, "/admin/open", "pod-b"),
        (proxy.address, "/", "pod-a"),
        (proxy.address, "/admin", "pod-a"),
        (proxy.address, "/admin/open", "pod-c"),
    ] {
        assert_eq!(Request::get(path).send(address).await.text(), expected, "{address} {path}");
        let mut stream = Request::events(path).open(address).await;
        assert_eq!(stream.next_data().await, expected, "{address} {path}");
    }
    let mut h2 = H2Connection::open(proxy.address).await;
    assert_eq!(h2.send(&Request::get("/admin")).await.text(), "pod-a");
    // A reload moves a route from one listener to the other.
    let moved =
        setup.route("{name: more, service: outer, listeners: [inside], matches: [{path: {value: /more}}]}");
    proxy.reload(&moved).await;
    assert_eq!(Request::get("/more").send(inner).await.text(), "pod-c");
    assert_eq!(Request::get("/more").send(proxy.address).await.text(), "pod-a");
}
