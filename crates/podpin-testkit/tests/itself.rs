//! The testkit against itself, without a proxy in between: what a client reports is what a pod did.

use podpin_testkit::{
    Answer, Connection, Ending, EndpointsFile, Framing, Item, Line, Pod, Reply, Request, StreamAnswer,
    Visitor,
};

#[tokio::test]
async fn a_client_receives_events_one_by_one_and_sees_how_the_stream_ended() {
    let pod = Pod::start("pod").await;
    for framing in [Framing::Chunked, Framing::UntilClose, Framing::Http10] {
        pod.answer("/events", StreamAnswer::new().framing(framing));
        let mut client = Request::events("/events").open(pod.address()).await;
        let mut stream = pod.next_stream().await;
        stream.event("one").await;
        assert_eq!(client.next_data().await, "one");
        stream.event_with_id("7", "two").await;
        assert_eq!(client.next_event().await.id, "7");
        stream.finish().await;
        assert_eq!(client.next().await, Err(Ending::Clean), "{framing:?}");
    }
}

#[tokio::test]
async fn an_unclean_end_is_told_from_a_clean_one() {
    let pod = Pod::start("pod").await;
    let open = async || {
        let client = Request::events("/events").open(pod.address()).await;
        (client, pod.next_stream().await)
    };
    let (mut client, stream) = open().await;
    stream.close();
    assert_eq!(client.next().await, Err(Ending::Cut));
    let (mut client, stream) = open().await;
    stream.reset();
    assert_eq!(client.next().await, Err(Ending::Reset));
    let (mut client, mut stream) = open().await;
    stream.raw("xyz\r\n").await;
    assert!(matches!(client.next().await, Err(Ending::Malformed(_))));
    let (mut client, mut stream) = open().await;
    stream.raw("11\r\n: half a comme").await;
    client.until_contains("half").await;
    assert!(client.is_inside_event());
}

#[tokio::test]
async fn a_pod_notices_that_its_client_is_gone() {
    let pod = Pod::start("pod").await;
    let client = Request::events("/events").open(pod.address()).await;
    let mut stream = pod.next_stream().await;
    assert!(!stream.is_client_gone());
    drop(client);
    assert_eq!(stream.client_gone().await, Ending::Cut);
    let client = Request::events("/events").open(pod.address()).await;
    let mut stream = pod.next_stream().await;
    client.reset();
    assert_eq!(stream.client_gone().await, Ending::Reset);
}

#[tokio::test]
async fn requests_are_recorded_with_their_bodies_and_answered_by_the_script() {
    let pod = Pod::start("pod").await;
    pod.answer_once("/x", Reply::new(404).header("X-A", "1").body("first").chunked());
    pod.answer("/x", Answer::Continue(Reply::new(201).body("then")));
    let mut connection = Connection::open(pod.address()).await;
    let first = connection.ask(&Request::new("POST", "/x?q=1").chunked(&["ab", "cde"])).await;
    assert_eq!((first.status, first.text().as_str(), first.header("x-a")), (404, "first", Some("1")));
    let second = connection.ask(&Request::new("PUT", "/x").body("abc")).await;
    assert_eq!((second.status, second.text().as_str()), (201, "then"));
    let seen = pod.next_request().await;
    assert_eq!((seen.target.as_str(), seen.body.as_slice(), seen.connection), ("/x?q=1", &b"abcde"[..], 0));
    assert_eq!(pod.targets(), ["/x?q=1", "/x"]);
    assert_eq!(pod.connections(), 1);
    let head = Request::new("HEAD", "/other").send(pod.address()).await;
    assert_eq!((head.body.len(), head.header("content-length")), (0, Some("3")));
}

#[tokio::test]
async fn a_websocket_echoes() {
    let pod = Pod::start("pod").await;
    pod.answer("/ws", Answer::WebSocketEcho);
    let mut connection = Connection::open(pod.address()).await;
    let accepted = connection.ask(&Request::websocket("/ws")).await;
    assert_eq!(accepted.status, 101);
    connection.send(b"\x81\x85abcdhello").await;
    assert_eq!(connection.raw(11).await, b"\x81\x85abcdhello");
}

#[tokio::test]
async fn a_visitor_returns_with_its_cookies() {
    let pod = Pod::start("pod").await;
    pod.answer_once("/x", Reply::new(200).header("Set-Cookie", "a=1; Path=/").header("Set-Cookie", "b=2"));
    let mut visitor = Visitor::new(pod.address());
    visitor.get("/x").await;
    visitor.get("/x").await;
    pod.next_request().await;
    assert_eq!(pod.next_request().await.header("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn a_stopped_pod_refuses_and_can_come_back() {
    let mut pod = Pod::start("pod").await;
    let mut client = Request::events("/events").open(pod.address()).await;
    pod.next_stream().await;
    let address = pod.address();
    pod.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let (items, ending) = client.rest().await;
    assert_eq!((items, ending == Ending::Clean), (Vec::<Item>::new(), false));
    let again = Pod::start_at("pod", address).await;
    assert_eq!(Request::get("/").send(again.address()).await.text(), "pod");
}

#[tokio::test]
async fn a_line_that_is_cut_ends_for_both_sides_and_carries_the_next_connection() {
    let pod = Pod::start("pod").await;
    let line = Line::to(pod.address()).await;
    let mut client = Request::events("/events").open(line.address()).await;
    let mut stream = pod.next_stream().await;
    stream.event("one").await;
    assert_eq!(client.next_data().await, "one");
    line.cut();
    stream.client_gone().await;
    assert!(matches!(client.next().await, Err(Ending::Cut | Ending::Reset)));
    assert_eq!(Request::get("/").send(line.address()).await.text(), "pod");
}

#[tokio::test]
async fn a_line_that_is_led_elsewhere_carries_open_connections_on_until_it_is_cut() {
    let [one, two, _] = Pod::start_three().await;
    let line = Line::to(one.address()).await;
    let mut client = Request::events("/events").open(line.address()).await;
    assert_eq!(client.next_data().await, "pod-a");
    let mut stream = one.next_stream().await;
    line.lead_to(two.address());
    assert_eq!(Request::get("/").send(line.address()).await.text(), "pod-b");
    stream.event("still here").await;
    assert_eq!(client.next_data().await, "still here");
    line.cut();
    stream.client_gone().await;
    assert_eq!(Request::get("/").send(line.address()).await.text(), "pod-b");
}

#[test]
fn an_endpoints_file_is_replaced_in_one_step_also_through_links() {
    let file = EndpointsFile::absent();
    let address = ([127, 0, 0, 1], 1).into();
    file.swap(&[("a", address, "ready")]);
    assert!(std::fs::read_to_string(file.path()).unwrap().contains("name: a"));
    file.swap(&[("b", address, "draining")]);
    assert!(std::fs::read_to_string(file.path()).unwrap().contains("name: b"));
    assert!(file.path().is_symlink());
}
