//! Clients far away, at a round trip of 100 ms: made by the kernel in a network of the test's own (tc-netem(8)), and by a line that holds
//! every byte back.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use podpin_testkit::{Connection, H2Frame, Line, Network, Pod, Proxy, Setup, Uploaded};

use crate::h2_front::{POST, with_path};

/// Half a round trip.
const ONE_WAY: Duration = Duration::from_millis(50);
/// Bytes of an upload.
const UPLOAD_BYTES: usize = 3_000_000;
/// Windows that run dry until they are as large as they become: 64 KiB, doubled up to 1 MiB; and some for late updates. With 64 KiB for
/// good there would be 45.
const STALLS_MAX: usize = 10;

fn say(words: &str) {
    // Not `eprintln!`, which a test that passes keeps to itself.
    writeln!(std::io::stderr(), "{words}").expect("standard error");
}

async fn far_from(pod: &Pod, address: std::net::Ipv4Addr) -> Proxy {
    Setup::chat(&[pod]).host(address).h2c().start().await
}

/// Uploads to the proxy; the time is said and not judged.
async fn is_given_windows(mut connection: Connection, pod: &Pod, way: &str) {
    connection.begin_h2(&H2Frame::settings()).await;
    let head = H2Frame::head(1, &with_path(&POST, "/upload"));
    let Uploaded { stalls, took } = connection.upload_h2(&head, UPLOAD_BYTES).await;
    assert_eq!(pod.next_request().await.body.len(), UPLOAD_BYTES);
    say(&format!("{UPLOAD_BYTES} bytes at 100 ms {way}: {took:?}, {stalls} times without a window"));
    assert!(stalls <= STALLS_MAX, "{stalls} round trips for windows alone");
}

#[test]
fn an_upload_through_a_network_with_a_delay_is_given_windows_that_let_it_flow() {
    Network::with(async |network| {
        if let Err(error) = network.delay(ONE_WAY) {
            return say(&format!("SKIPPED: this kernel has no netem ({})", error.trim()));
        }
        let pod = Pod::start("pod-a").await;
        let proxy = far_from(&pod, Network::NEAR).await;
        is_given_windows(network.connect(proxy.address), &pod, "of netem").await;
    });
}

#[tokio::test]
async fn an_upload_over_a_line_with_a_delay_is_given_windows_that_let_it_flow() {
    let pod = Pod::start("pod-a").await;
    let proxy = far_from(&pod, std::net::Ipv4Addr::LOCALHOST).await;
    let line = Line::delayed(SocketAddr::from(([127, 0, 0, 1], proxy.address.port())), ONE_WAY).await;
    is_given_windows(Connection::open(line.address()).await, &pod, "of a line").await;
}
