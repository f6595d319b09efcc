//! HTTP/2: without TLS and with prior knowledge (RFC 9113 section 3.3), or over any stream.

use std::future::poll_fn;
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
        let stream = in_time("connecting", TcpStream::connect(address)).await.expect("connect");
        // Frames in several writes would wait for acknowledgements otherwise.
        stream.set_nodelay(true).expect("TCP_NODELAY");
        H2Connection::over(stream).await
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

    /// Opens a stream, sends the body if there is one, and reads the head of the response.
    ///
    /// # Panics
    /// When the server resets the stream or sends no response.
    pub async fn open_stream(&mut self, request: &Request) -> (u16, EventStream) {
        let body = request.body_bytes().to_vec();
        let mut upload = self.start(request, body.is_empty()).await;
        if body.is_empty() {
            return upload.head().await;
        }
        // The response may come before the body was taken.
        let sending = async {
            if upload.body.send(&body).await {
                upload.body.finish();
            }
        };
        let (response, ()) = tokio::join!(head_of(&mut upload.response), sending);
        response
    }

    /// Opens a stream and sends the head of a request; its body is the caller's to send and to end.
    ///
    /// # Panics
    /// When there is no room for one more stream.
    pub async fn begin(&mut self, request: &Request) -> H2Upload {
        self.start(request, false).await
    }

    async fn start(&mut self, request: &Request, ends: bool) -> H2Upload {
        let ready = in_time("room for one more HTTP/2 stream", self.sender.clone().ready()).await;
        let (response, stream) = ready.expect("a stream").send_request(to_http(request), ends).expect("sent");
        H2Upload { response, body: H2Body { stream } }
    }

    /// Sends a request and reads the whole response.
    pub async fn send(&mut self, request: &Request) -> Response {
        let (status, mut stream) = self.open_stream(request).await;
        let ending = stream.drain().await;
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

/// A request whose body is still to be sent.
#[derive(Debug)]
pub struct H2Upload {
    response: h2::client::ResponseFuture,
    /// Response body.
    pub body: H2Body,
}

impl H2Upload {
    /// The head of the response; what follows of it.
    ///
    /// # Panics
    /// When the server resets the stream.
    pub async fn head(&mut self) -> (u16, EventStream) {
        head_of(&mut self.response).await
    }

    /// The whole response.
    ///
    /// # Panics
    /// When the server resets the stream.
    pub async fn response(&mut self) -> Response {
        let (status, mut stream) = self.head().await;
        let ending = stream.drain().await;
        Response { status, head: stream.head.clone(), body: stream.received().to_vec(), ending }
    }

    /// The fields behind the response body.
    ///
    /// # Panics
    /// When the server resets the stream.
    pub async fn trailers(self) -> Vec<(String, String)> {
        let response = in_time("an HTTP/2 response head", self.response).await.expect("a response");
        let mut body = response.into_body();
        while let Some(data) = in_time("a response body", body.data()).await {
            let data = data.expect("data");
            body.flow_control().release_capacity(data.len()).expect("a window");
        }
        let trailers = in_time("trailers", body.trailers()).await.expect("an end").unwrap_or_default();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        trailers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct H2Body {
    stream: h2::SendStream<Bytes>,
}

impl H2Body {
    /// Sends bytes as the server takes them; `false` when it resets the stream.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let mut rest = Bytes::copy_from_slice(bytes);
        while !rest.is_empty() {
            self.stream.reserve_capacity(rest.len());
            let room = poll_fn(|context| self.stream.poll_capacity(context));
            let Some(Ok(room)) = in_time("a window for a request's body", room).await else { return false };
            if self.stream.send_data(rest.split_to(room.min(rest.len())), false).is_err() {
                return false;
            }
        }
        true
    }

    /// END_STREAM.
    pub fn finish(&mut self) {
        // The server may have reset the stream meanwhile: then there is nothing to end.
        let _gone = self.stream.send_data(Bytes::new(), true);
    }

    /// Trailers, and END_STREAM with them.
    ///
    /// # Panics
    /// When they are not fields, or the stream was reset.
    pub fn finish_with_trailer(&mut self, name: &'static str, value: &'static str) {
        self.finish_with_trailers(&[(name, value)]);
    }

    /// Ends the body with fields behind it.
    pub fn finish_with_trailers(&mut self, fields: &[(&str, &str)]) {
        let field = |(name, value): &(&str, &str)| {
            (name.parse::<http::HeaderName>().expect("a name"), value.parse().expect("a value"))
        };
        self.stream.send_trailers(fields.iter().map(field).collect()).expect("trailers");
    }
}

async fn head_of(response: &mut h2::client::ResponseFuture) -> (u16, EventStream) {
    let response = in_time("an HTTP/2 response head", response).await.expect("a response");
    let status = response.status().as_u16();
    let fields = response.headers().iter();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = fields.map(|(name, value)| (name.to_string(), text(value))).collect();
    let head = Head { raw: Vec::new(), start_line: format!("HTTP/2 {status}"), headers };
    (status, EventStream::http2(head, response.into_body()))
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
