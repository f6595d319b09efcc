//! HTTP/2: without TLS and with prior knowledge (RFC 9113 section 3.3), or over any stream.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::client::{EventStream, Request, Response};
use crate::wire::{Ending, Head};
use crate::{in_time, wait_for};

/// An HTTP/2 connection; its streams are opened with [`Request`]s.
#[derive(Debug)]
pub struct H2Connection {
    sender: h2::client::SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl H2Connection {
    /// Connects and exchanges settings.
    ///
    /// # Panics
    /// When the server does not speak HTTP/2.
    pub async fn open(address: SocketAddr) -> H2Connection {
        H2Connection::over(in_time("connecting", TcpStream::connect(address)).await.expect("connect")).await
    }

    /// Exchanges settings over a stream.
    ///
    /// # Panics
    /// When the server does not speak HTTP/2.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> H2Connection {
        let handshake = in_time("the HTTP/2 handshake", h2::client::handshake(stream)).await;
        let (sender, connection) = handshake.expect("HTTP/2");
        let driver = tokio::spawn(async move {
            // Its streams report the failure to those who read them.
            let _reported = connection.await;
        });
        H2Connection { sender, driver }
    }

    /// Opens a stream and reads the head of the response.
    ///
    /// # Panics
    /// When the server resets the stream or sends no response.
    pub async fn open_stream(&mut self, request: &Request) -> (u16, EventStream) {
        let ready = in_time("room for one more HTTP/2 stream", self.sender.clone().ready()).await;
        let (response, _) = ready.expect("a stream").send_request(to_http(request), true).expect("sent");
        let response = in_time("an HTTP/2 response head", response).await.expect("a response");
        let status = response.status().as_u16();
        let fields = response.headers().iter();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = fields.map(|(name, value)| (name.to_string(), text(value))).collect();
        let head = Head { raw: Vec::new(), start_line: format!("HTTP/2 {status}"), headers };
        (status, EventStream::http2(head, response.into_body()))
    }

    /// Sends a request and reads the whole response.
    pub async fn send(&mut self, request: &Request) -> Response {
        let (status, mut stream) = self.open_stream(request).await;
        let (_, ending) = stream.rest().await;
        Response { status, head: stream.head.clone(), body: stream.received().to_vec(), ending }
    }

    /// Opens an event stream.
    ///
    /// # Panics
    /// When the answer is not 200.
    pub async fn events(&mut self, request: &Request) -> EventStream {
        let (status, stream) = self.open_stream(request).await;
        assert_eq!(status, 200, "not an event stream: {:?}", stream.head.headers);
        stream
    }

    /// Waits until the server closes the connection, which the client would keep.
    pub async fn closed_by_server(&mut self) {
        let ended = in_time("the server closing an HTTP/2 connection", &mut self.driver).await;
        ended.expect("the connection's task");
    }

    /// Waits until the server takes no more streams of the connection (GOAWAY).
    pub async fn refuses_streams(&mut self) {
        wait_for("the server to take no more streams", async || self.sender.clone().ready().await.is_err())
            .await;
    }

    /// How the connection ends, awaited.
    pub async fn ending(self) -> Ending {
        let mut driver = self.driver;
        drop(self.sender);
        match in_time("the end of an HTTP/2 connection", &mut driver).await {
            Ok(()) => Ending::Clean,
            Err(_) => Ending::Reset,
        }
    }
}

fn to_http(request: &Request) -> http::Request<()> {
    let host = request.host_name().unwrap_or("localhost");
    let mut builder = http::Request::builder()
        .method(request.method())
        .uri(format!("http://{host}{}", request.target()))
        .version(http::Version::HTTP_2);
    for (name, value) in request.headers() {
        builder = builder.header(name.to_ascii_lowercase(), value);
    }
    builder.body(()).expect("a request that HTTP/2 can carry")
}
