//! A connection of a scripted pod: requests in, scripted answers out.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::answer::{Answer, Framing, Reply, StreamAnswer, chunk};
use super::stream::{Command, PodStream};
use super::{PodRequest, Shared};
use crate::wire::{Body, Ending, Head, Wire};

/// The accept value for the key `dGhlIHNhbXBsZSBub25jZQ==`, RFC 6455 section 1.3: the only key the test client uses.
const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// State of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    NextRequest,
    Over,
}

/// Serves one connection until it ends.
pub(super) async fn serve(mut wire: Wire, number: usize, shared: Arc<Shared>) {
    while let Ok(head) = wire.head().await {
        let at = Instant::now();
        let answer = shared.answer_to(&head);
        if matches!(answer, Answer::Continue(_)) && wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err()
        {
            return;
        }
        let (body, body_ending) = Body::of_request(&head).all(&mut wire).await;
        let (method, target) = (head.word(0).to_owned(), head.word(1).to_owned());
        let request = PodRequest {
            head,
            method,
            target,
            body,
            trailers: std::mem::take(&mut wire.trailers),
            body_ending,
            connection: number,
            at,
        };
        shared.record(request.clone());
        if give(answer, request, &mut wire, &shared).await == Then::Over {
            return;
        }
    }
}

async fn give(answer: Answer, request: PodRequest, wire: &mut Wire, shared: &Shared) -> Then {
    match answer {
        Answer::Stream(stream) => open_stream(&stream, request, wire, shared).await,
        Answer::Reply(reply) | Answer::Continue(reply) => give_reply(&reply, &request, wire).await,
        Answer::ByHand => by_hand(request, Framing::Chunked, wire, shared).await,
        Answer::EndlessHead => endless_head(wire).await,
        Answer::WebSocketEcho => echo(&request.head, wire).await,
        Answer::Close => Then::Over,
        Answer::Reset => {
            wire.reset_on_close();
            Then::Over
        }
    }
}

async fn give_reply(reply: &Reply, request: &PodRequest, wire: &mut Wire) -> Then {
    let sent = wire.send(&reply.bytes(&request.method)).await.is_ok();
    let asked_to_close = request.header("connection").is_some_and(|value| value.contains("close"));
    if sent && !reply.closes() && !asked_to_close { Then::NextRequest } else { Then::Over }
}

async fn open_stream(stream: &StreamAnswer, request: PodRequest, wire: &mut Wire, shared: &Shared) -> Then {
    let mut bytes = stream.head();
    if !stream.opening.is_empty() {
        match stream.framing {
            Framing::Chunked => bytes.extend(chunk(&stream.opening)),
            Framing::UntilClose | Framing::Http10 => bytes.extend_from_slice(&stream.opening),
        }
    }
    if wire.send(&bytes).await.is_err() {
        return Then::Over;
    }
    by_hand(request, stream.framing, wire, shared).await
}

/// Does what the test says through a `PodStream`, and notices when the other side leaves.
async fn by_hand(request: PodRequest, framing: Framing, wire: &mut Wire, shared: &Shared) -> Then {
    let (commands, mut receiver) = mpsc::unbounded_channel();
    let (gone, gone_receiver) = watch::channel(None);
    // The test has dropped the pod if this fails.
    let _unheard = shared.streams.send(PodStream { request, framing, commands, gone: gone_receiver });
    let mut silent = false;
    loop {
        tokio::select! {
            biased;
            command = receiver.recv(), if !silent => match command {
                None => silent = true,
                Some(Command::Write(bytes, done)) => {
                    // The test may not wait for the outcome.
                    let _unheard = done.send(wire.send(&bytes).await.is_ok());
                }
                Some(Command::NextRequest) => return Then::NextRequest,
                Some(Command::Close) => return close(wire).await,
                Some(Command::Reset) => {
                    wire.reset_on_close();
                    return Then::Over;
                }
            },
            read = wire.fill() => if let Err(ending) = read {
                gone.send_replace(Some(ending));
                return Then::Over;
            },
        }
    }
}

/// A FIN that is not turned into a RST by bytes that were left unread.
async fn close(wire: &mut Wire) -> Then {
    wire.finish_sending().await;
    wire.until_closed().await;
    Then::Over
}

async fn endless_head(wire: &mut Wire) -> Then {
    let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
    let mut number = 0_u64;
    while wire.send(&bytes).await.is_ok() {
        number += 1;
        bytes = format!("X-Field-{number}: {}\r\n", "x".repeat(1000)).into_bytes();
    }
    Then::Over
}

async fn echo(head: &Head, wire: &mut Wire) -> Then {
    if head.header("sec-websocket-key").is_none() {
        return give_refusal(wire).await;
    }
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {WEBSOCKET_ACCEPT}\r\n\r\n"
    );
    if wire.send(response.as_bytes()).await.is_err() {
        return Then::Over;
    }
    let mut everything = Body::UntilClose;
    loop {
        match everything.next(wire).await {
            Ok(data) if wire.send(&data).await.is_ok() => {}
            Ok(_) | Err(Ending::Clean | Ending::Cut | Ending::Reset | Ending::Malformed(_)) => {
                return Then::Over;
            }
        }
    }
}

async fn give_refusal(wire: &mut Wire) -> Then {
    let refusal = Reply::new(400).body("not an upgrade").bytes("GET");
    if wire.send(&refusal).await.is_ok() { Then::NextRequest } else { Then::Over }
}
