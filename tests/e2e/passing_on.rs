//! A service that moves: the same client across two proxies, one of which has yet to hear of a change.

use podpin_testkit::{EndpointsFile, Pod, Setup};

#[tokio::test]
async fn a_client_that_meets_a_proxy_with_an_older_list_does_not_lose_its_session() {
    let pods = Pod::start_three().await;
    let newer = EndpointsFile::with(&[
        ("pod-a", pods[0].address(), "draining"),
        ("pod-b", pods[1].address(), "ready"),
    ]);
    let older = EndpointsFile::with(&[("pod-a", pods[0].address(), "ready")]);
    let ahead = Setup::new().service_in("chat", &newer).start().await;
    let behind = Setup::new().service_in("chat", &older).start().await;
    let mut visitor = behind.visitor();
    assert_eq!(visitor.get("/who").await.text(), "pod-a");
    let session = pods[0].next_request().await.header("x-podpin-session").map(str::to_owned);
    let mut visitor = visitor.at(ahead.address);
    assert_eq!(visitor.get("/who").await.text(), "pod-b");
    let seen = pods[1].next_request().await;
    assert_eq!(seen.header("x-podpin-session").map(str::to_owned), session);
    // The proxy behind has never heard of pod-b: gone, for all it knows, but the session is the same.
    let mut visitor = visitor.at(behind.address);
    assert_eq!(visitor.get("/who").await.text(), "pod-a");
    assert_eq!(pods[0].next_request().await.header("x-podpin-session").map(str::to_owned), session);
}
