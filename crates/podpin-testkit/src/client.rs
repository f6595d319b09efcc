//! A client that sends exactly what it is told and reports exactly what came back.

mod request;
mod stream;
mod visitor;

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::in_time;
use crate::wire::{Body, Duplex, Ending, Head, Wire};
pub use request::Request;
pub use stream::EventStream;
pub use visitor::Visitor;

/// A complete response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Response head.
    pub head: Head,
    /// Response body, decoded.
    pub body: Vec<u8>,
    /// How its body ended.
    pub ending: Ending,
}

impl Response {
    /// The value of the first field of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    pub fn json(&self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }
}

/// A TCP connection to a server.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// If no server listens at `address`.
    pub async fn open(address: SocketAddr) -> Connection {
        let stream = in_time("connecting", TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        Connection { wire: Wire::new(stream) }
    }

    /// A socket that is connected already.
    pub fn over(stream: TcpStream) -> Connection {
        Connection { wire: Wire::new(stream) }
    }

    /// TLS after its handshake.
    pub fn over_tls(stream: tokio_rustls::client::TlsStream<TcpStream>) -> Connection {
        Connection { wire: Wire::over_tls(stream) }
    }

    /// Connects with a receive buffer of at most `bytes`: for a client that stops reading.
    ///
    /// # Panics
    /// If no server listens at `address`.
    pub async fn open_with_receive_buffer(address: SocketAddr, bytes: u32) -> Connection {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        let stream = in_time("connecting", socket.connect(address)).await;
        Connection { wire: Wire::new(stream.unwrap_or_else(|error| panic!("cannot connect: {error}"))) }
    }

    /// Connects from an address of this machine.
    ///
    /// # Panics
    /// If no server listens at `address`, or `source` is not of this machine.
    pub async fn open_from(source: std::net::IpAddr, address: SocketAddr) -> Connection {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(source, 0)).expect("an address of this machine");
        let stream = in_time("connecting", socket.connect(address)).await;
        Connection { wire: Wire::new(stream.unwrap_or_else(|error| panic!("cannot connect: {error}"))) }
    }

    /// The address of this end.
    pub fn local_address(&self) -> SocketAddr {
        self.wire.stream().local_addr().expect("a connected socket")
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// When the server has closed the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes).await, "the server has closed the connection");
    }

    /// Sends bytes as they are; `false` when the server has closed the connection.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        in_time("sending", self.wire.send(bytes.as_ref())).await.is_ok()
    }

    /// Reads the next response head.
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn head(&mut self) -> Head {
        self.try_head().await.unwrap_or_else(|ending| panic!("no response head: {ending:?}"))
    }

    /// Reads the next response head.
    ///
    /// # Errors
    /// How the connection ended when it ended before the head.
    pub async fn try_head(&mut self) -> Result<Head, Ending> {
        in_time("a response head", self.wire.head()).await
    }

    /// Reads a whole response to `method`, past any `1xx`.
    ///
    /// # Panics
    /// When the connection ends before its head.
    pub async fn response(&mut self, method: &str) -> Response {
        self.try_response(method).await.unwrap_or_else(|ending| panic!("no response: {ending:?}"))
    }

    /// Reads a whole response to `method`, past any `1xx` but 101.
    ///
    /// # Errors
    /// How the connection ended when it ended before the head.
    pub async fn try_response(&mut self, method: &str) -> Result<Response, Ending> {
        let mut head = self.try_head().await?;
        while status(&head) < 200 && status(&head) != 101 {
            head = self.try_head().await?;
        }
        let mut framing = Body::of_response(method, &head);
        let what = format!("the body of {}", head.start_line);
        let (body, ending) = in_time(&what, framing.all(&mut self.wire)).await;
        Ok(Response { status: status(&head), head, body, ending })
    }

    /// Sends `request` and reads its response.
    pub async fn ask(&mut self, request: &Request) -> Response {
        self.send(request.bytes()).await;
        self.response(request.method()).await
    }

    /// Reads exactly `count` bytes as they are (behind an upgrade).
    ///
    /// # Panics
    /// When the connection ends first.
    pub async fn raw(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.try_raw(count).await;
        bytes.unwrap_or_else(|ending| panic!("the connection ended ({ending:?}) before {count} bytes"))
    }

    /// Reads exactly `count` bytes as they are.
    ///
    /// # Errors
    /// How the connection ended when it ended first.
    pub async fn try_raw(&mut self, count: usize) -> Result<Vec<u8>, Ending> {
        let mut framing = Body::Length(count as u64);
        let (bytes, ending) = in_time("raw bytes", framing.all(&mut self.wire)).await;
        if ending == Ending::Clean { Ok(bytes) } else { Err(ending) }
    }

    /// Reads on until the server ends the connection, and says how: `Cut` is a FIN.
    pub async fn ending(&mut self) -> Ending {
        in_time("the server closing the connection", self.wire.until_closed()).await
    }

    /// Returns the bytes that were read beyond the last response.
    pub fn unread(&self) -> &[u8] {
        self.wire.unread()
    }

    /// Sends our FIN and keeps reading.
    pub async fn finish_sending(&mut self) {
        self.wire.finish_sending().await;
    }

    /// Ends the connection with a RST.
    pub fn reset(self) {
        self.wire.reset_on_close();
    }

    /// Returns the transport; bytes that were read and not used are lost.
    pub(crate) fn into_duplex(self) -> Box<dyn Duplex> {
        self.wire.into_duplex()
    }

    /// Takes what follows `head` as an event stream.
    pub fn into_events(self, head: Head) -> EventStream {
        let body = Body::of_response("GET", &head);
        EventStream::http1(head, self.wire, body)
    }
}

/// The status code in the first line of a response, 0 when there is none.
pub(crate) fn status(head: &Head) -> u16 {
    head.word(1).parse().unwrap_or(0)
}
