//! The `h2` crate as client: another reading of the RFCs on the other end of a pipe.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use podpin_h2::{Config, Connection, End, ErrorCode, Event, Field, Millis, StreamId, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// The rest that a server has to send on a stream.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    ends: bool,
    trailers: bool,
}

/// A server by path: `/echo`, `/large`, `/interim`, `/trailers`, `/reset`.
struct Server {
    connection: Connection,
    out: Vec<u8>,
    pending: HashMap<StreamId, Pending>,
}

const NOW: Millis = Millis(0);

impl Server {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Request { stream, head, ends } => self.request(stream, head.path().unwrap(), ends),
            Event::Data { stream, bytes, ends } => {
                let pending = self.pending.entry(stream).or_default();
                pending.bytes.extend_from_slice(bytes);
                pending.ends = ends;
                if let Some(mut stream) = self.connection.stream(stream, NOW, &mut self.out) {
                    stream.consumed(bytes.len());
                }
                self.send(stream);
            }
            Event::Trailers { stream, trailers } => {
                assert_eq!(trailers.lines(), b"x-sum: 42\r\n");
                let pending = self.pending.entry(stream).or_default();
                (pending.ends, pending.trailers) = (true, true);
                self.send(stream);
            }
            Event::Refused { stream, refusal } => {
                let mut stream = self.connection.stream(stream, NOW, &mut self.out).unwrap();
                stream.head(refusal.status(), [], End::Yes).unwrap();
            }
            Event::Reset { stream, .. } => drop(self.pending.remove(&stream)),
            Event::Closed(closed) => panic!("{closed:?}"),
        }
    }

    fn request(&mut self, id: StreamId, path: &[u8], ends: bool) {
        let mut stream = self.connection.stream(id, NOW, &mut self.out).unwrap();
        match path {
            b"/interim" => {
                stream.interim(103, [Field::new("link", "</style.css>")]).unwrap();
                stream.head(200, [Field::new("x-long", &"v".repeat(40_000))], End::Yes).unwrap();
            }
            b"/reset" => {
                stream.head(200, [], End::No).unwrap();
                stream.data(b"half", End::No).unwrap();
                stream.reset(ErrorCode::INTERNAL_ERROR);
            }
            b"/large" => {
                stream.head(200, [Field::new("content-length", "3000000")], End::No).unwrap();
                let bytes = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
                self.pending.insert(id, Pending { bytes, ends: true, trailers: false });
            }
            _ => {
                stream.head(200, [], End::No).unwrap();
                self.pending.insert(id, Pending { ends, ..Pending::default() });
            }
        }
        self.send(id);
    }

    fn send(&mut self, id: StreamId) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let Some(mut stream) = self.connection.stream(id, NOW, &mut self.out) else { return };
        let end = if pending.ends && !pending.trailers { End::Yes } else { End::No };
        while !pending.bytes.is_empty() {
            let sent = stream.data(&pending.bytes, end).unwrap();
            pending.bytes.drain(..sent);
            if sent == 0 {
                return;
            }
        }
        if pending.trailers {
            stream.trailers([Field::new("x-sum", "42")]).unwrap();
        } else if pending.ends && self.connection.stream(id, NOW, &mut self.out).is_some() {
            // Nothing when the last piece has ended it.
            let _ended = self.connection.stream(id, NOW, &mut self.out).unwrap().data(b"", End::Yes);
        }
        if self.pending[&id].ends {
            self.pending.remove(&id);
        }
    }

    async fn serve(mut self, mut socket: DuplexStream) {
        let mut scratch = vec![0; 16 * 1024];
        loop {
            while let Some(id) = self.connection.next_writer(self.out.len()) {
                self.send(id);
            }
            let (mut reader, mut writer) = tokio::io::split(&mut socket);
            tokio::select! {
                read = reader.read(&mut scratch), if self.connection.wants_input(self.out.len()) => {
                    let count = read.unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    let mut input = &scratch[..count];
                    while let Some(event) = self.connection.receive(NOW, &mut input, &mut self.out) {
                        self.event(event);
                    }
                }
                written = writer.write(&self.out), if !self.out.is_empty() => {
                    let Ok(count) = written else { return };
                    self.out.drain(..count);
                }
            }
        }
    }
}

type Client = h2::client::SendRequest<Bytes>;

/// Runs a client against a server over a pipe that holds little.
fn with_client<F: Future<Output = ()>>(config: Config, test: impl FnOnce(Client) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(30_000);
        let mut out = Vec::new();
        let connection = Connection::accept(Arc::new(config), Trust::Client, NOW, &mut out);
        let server = Server { connection, out, pending: HashMap::new() }.serve(far);
        let (client, driver) = h2::client::handshake(near).await.unwrap();
        tokio::select! {
            () = server => panic!("the server ended"),
            driven = driver => panic!("the client ended: {driven:?}"),
            () = test(client) => {}
        }
    });
}

fn request(path: &str) -> Request<()> {
    Request::post(format!("http://app{path}")).body(()).unwrap()
}

async fn body(response: Response<h2::RecvStream>) -> (Vec<u8>, Option<HeaderMap>) {
    let mut stream = response.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    (bytes, stream.trailers().await.unwrap())
}

/// Sends all of a body, as windows allow.
async fn send_all(mut stream: h2::SendStream<Bytes>, bytes: Bytes, trailers: bool) {
    let mut rest = bytes;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let count = std::future::poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
        stream.send_data(rest.split_to(count.min(rest.len())), false).unwrap();
    }
    if trailers {
        let fields = HeaderMap::from_iter([("x-sum".parse().unwrap(), "42".parse().unwrap())]);
        stream.send_trailers(fields).unwrap();
    } else {
        stream.send_data(Bytes::new(), true).unwrap();
    }
}

#[test]
fn large_bodies_pass_both_ways_at_once_with_trailers() {
    for trailers in [true, false] {
        with_client(Config::default(), |client| async move {
            let mut client = client.ready().await.unwrap();
            let sent: Bytes = (0..2_000_000_u32).map(|number| number.to_be_bytes()[3]).collect();
            let (response, stream) = client.send_request(request("/echo"), false).unwrap();
            let upload = send_all(stream, sent.clone(), trailers);
            let ((), (bytes, came)) = tokio::join!(upload, async { body(response.await.unwrap()).await });
            assert!(bytes == sent, "{} bytes came back", bytes.len());
            assert_eq!(came.map(|fields| fields["x-sum"].clone()), trailers.then(|| "42".parse().unwrap()));
        });
    }
}

#[test]
fn many_downloads_share_a_connection() {
    with_client(Config::default(), |client| async move {
        let mut client = client.ready().await.unwrap();
        let responses: Vec<_> =
            (0..8).map(|_| client.send_request(request("/large"), true).unwrap().0).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for response in responses {
            tasks.spawn(async { body(response.await.unwrap()).await.0.len() });
        }
        while let Some(length) = tasks.join_next().await {
            assert_eq!(length.unwrap(), 3_000_000);
        }
    });
}

#[test]
fn interim_heads_long_heads_and_resets_are_understood() {
    with_client(Config::default(), |client| async move {
        let mut client = client.ready().await.unwrap();
        let (mut response, _) = client.send_request(request("/interim"), true).unwrap();
        let interim = std::future::poll_fn(|context| response.poll_informational(context)).await;
        assert_eq!(interim.unwrap().unwrap().status(), 103);
        let response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers()["x-long"].len()), (200, 40_000));
        let (response, _) = client.send_request(request("/reset"), true).unwrap();
        let mut stream = response.await.unwrap().into_body();
        assert_eq!(stream.data().await.unwrap().unwrap(), "half");
        assert_eq!(stream.data().await.unwrap().unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
        let (response, mut stream) = client.send_request(request("/echo"), false).unwrap();
        stream.send_reset(h2::Reason::CANCEL);
        assert!(response.await.is_err());
        let (response, _) = client.send_request(request("/echo"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_head_that_is_too_large_is_a_431_and_the_next_is_served() {
    with_client(Config { head_bytes_max: 8 * 1024, ..Config::default() }, |client| async move {
        let mut client = client.ready().await.unwrap();
        for (length, status) in [(9_000, 431), (100, 200), (40_000, 431), (100, 200)] {
            let mut large = request("/echo");
            large.headers_mut().insert("x-large", "x".repeat(length).parse().unwrap());
            let (response, _) = client.send_request(large, true).unwrap();
            assert_eq!(response.await.unwrap().status().as_u16(), status, "{length}");
        }
    });
}
