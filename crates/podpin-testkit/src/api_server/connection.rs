//! A connection of the API server: requests in, answers and faults out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use super::fault::{Cut, Fault, On};
use super::query::Query;
use super::socket::{Pace, Socket};
use super::store::{Refusal, list_of};
use super::{ApiRequest, BOOKMARK_EVERY, Push, Shared};
use crate::wire::Head;

/// How long a list for a version of the future waits for it, as the real one does.
const TOO_LARGE_VERSION_WAIT: Duration = Duration::from_secs(3);

/// A watch without `timeoutSeconds` lasts between 30 and 60 minutes.
const WATCH_SECONDS_DEFAULT: u64 = 45 * 60;

/// State of the connection after an answer.
enum Then {
    NextRequest(Socket),
    Over,
}

/// A request with what it asks for.
struct Call {
    request: ApiRequest,
    query: Query,
}

/// Serves one connection until it ends.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let (number, fault) = {
        let mut state = shared.state();
        state.connections += 1;
        (state.connections - 1, state.script.next(On::Connect))
    };
    match fault {
        None => {}
        Some(Fault::HangBeforeHeaders | Fault::HangAfterHeaders) => return shared.healed().await,
        Some(_) => return stream.set_zero_linger().expect("SO_LINGER"),
    }
    // A client that does not trust us is gone again: nothing to serve.
    let Ok(mut socket) = shared.acceptor.accept(stream).await else { return };
    while let Some(head) = socket.head().await {
        match answer(socket, &head, number, &shared).await {
            Then::NextRequest(same) => socket = same,
            Then::Over => return,
        }
    }
}

async fn answer(mut socket: Socket, head: &Head, connection: usize, shared: &Shared) -> Then {
    let target = head.word(1).to_owned();
    let query = match Query::parse(&target, head.header("accept").unwrap_or_default()) {
        Ok(query) => query,
        Err(why) => return refuse(socket, &Refusal::new(400, &why)).await,
    };
    let request = ApiRequest {
        on: query.kind,
        method: head.word(0).to_owned(),
        target,
        accept: head.header("accept").map(str::to_owned),
        authorization: head.header("authorization").map(str::to_owned),
        connection,
        at: Instant::now(),
    };
    let call = Call { request, query };
    let (fault, admitted) = {
        let mut state = shared.state();
        state.requests.push(call.request.clone());
        let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
        let admitted = wanted.is_none() || wanted == call.request.authorization;
        (state.script.next(call.query.kind), admitted)
    };
    match fault {
        Some(Fault::SlowDrip { bytes, every }) => socket.drip(Pace { bytes, every }),
        Some(fault) => return misbehave(socket, fault, &call, shared).await,
        None => {}
    }
    if !admitted {
        return refuse(socket, &Refusal::new(401, "Unauthorized")).await;
    }
    match call.query.kind {
        On::List | On::ListPods => list(socket, &call, shared).await,
        On::Watch | On::WatchPods => watch(socket, &call, shared).await,
        On::Other => {
            let service = shared.state().services.get(&call.request.target).map(Value::to_string);
            match service {
                Some(body) => reply(socket, 200, &body).await,
                None => refuse(socket, &Refusal::new(404, "the server could not find it")).await,
            }
        }
        On::Connect => refuse(socket, &Refusal::new(404, "the server could not find it")).await,
    }
}

async fn list(socket: Socket, call: &Call, shared: &Shared) -> Then {
    let listed = shared.state().store.list(&call.query);
    match listed {
        Ok(list) => reply(socket, 200, &list.to_string()).await,
        Err(refusal) => {
            if refusal.code == 504 {
                sleep(TOO_LARGE_VERSION_WAIT).await;
            }
            refuse(socket, &refusal).await
        }
    }
}

async fn refuse(socket: Socket, refusal: &Refusal) -> Then {
    reply(socket, refusal.code, &refusal.status().to_string()).await
}

async fn reply(socket: Socket, code: u16, body: &str) -> Then {
    let retry = if code == 429 { "Retry-After: 1\r\n" } else { "" };
    reply_with(socket, code, retry, body).await
}

async fn reply_with(mut socket: Socket, code: u16, retry: &str, body: &str) -> Then {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code} Scripted\r\nContent-Type: application/json\r\n{retry}Content-Length: {length}\r\n\r\n"
    );
    let sent = socket.send(head.as_bytes()).await && socket.send(body.as_bytes()).await;
    if sent { Then::NextRequest(socket) } else { Then::Over }
}

async fn misbehave(mut socket: Socket, fault: Fault, call: &Call, shared: &Shared) -> Then {
    let is_list = matches!(call.query.kind, On::List | On::ListPods);
    match fault {
        Fault::Status(code) => return refuse(socket, &Refusal::new(code, "scripted")).await,
        Fault::Throttled { code, seconds } => {
            let fields = format!(
                "Retry-After: {seconds}\r\nX-Kubernetes-PF-FlowSchema-UID: schema-1\r\n\
                 X-Kubernetes-PF-PriorityLevel-UID: level-1\r\n"
            );
            let status = Refusal::new(code, "too many requests").status().to_string();
            return reply_with(socket, code, &fields, &status).await;
        }
        Fault::EmptyList => {
            let version = shared.state().store.version().to_string();
            let empty = list_of(&call.query.scope, json!({"resourceVersion": version}), Vec::new());
            return reply(socket, 200, &empty.to_string()).await;
        }
        Fault::Garbage => return reply(socket, 200, "<html>it works</html>").await,
        Fault::WrongType => return reply(socket, 200, &wrong_type(call, is_list).to_string()).await,
        Fault::ExpiredEvent => {
            let line = Refusal::new(410, "too old resource version").event().to_string();
            return if head_and_line(&mut socket, &line).await { finish(socket).await } else { Then::Over };
        }
        Fault::EndAtOnce if socket.send(STREAM_HEAD).await => return finish(socket).await,
        Fault::HangAfterHeaders => {
            socket.send(STREAM_HEAD).await;
            hang(socket, shared).await;
        }
        Fault::HangBeforeHeaders => hang(socket, shared).await,
        Fault::Half => half(socket, call, shared).await,
        Fault::Reset => socket.reset(),
        Fault::Close | Fault::EndAtOnce | Fault::SlowDrip { .. } => socket.close().await,
    }
    Then::Over
}

/// Silence until it heals or the client leaves.
async fn hang(mut socket: Socket, shared: &Shared) {
    let healed = tokio::select! {
        () = shared.healed() => true,
        () = socket.client_gone() => false,
    };
    if healed {
        socket.reset();
    }
}

async fn half(mut socket: Socket, call: &Call, shared: &Shared) {
    let line = match call.query.kind {
        On::List | On::ListPods => {
            let listed = shared.state().store.list(&call.query);
            listed.map_or_else(|refusal| refusal.status().to_string(), |list| list.to_string())
        }
        On::Watch | On::WatchPods | On::Other | On::Connect => wrong_type(call, false).to_string(),
    };
    let (half, _) = line.split_at(line.len() / 2);
    if socket.send(STREAM_HEAD).await && socket.send(&chunk(half)).await {
        socket.close().await;
    }
}

/// JSON that is no list, or no event, of what was asked for.
fn wrong_type(call: &Call, is_list: bool) -> Value {
    let resource = call.query.scope.resource;
    let object = json!({
        "kind": resource.kind(), "apiVersion": resource.api_version(), "addressType": 4, "endpoints": "seven",
        "metadata": {"name": "wrong", "namespace": "lab", "resourceVersion": "7", "deletionTimestamp": 4},
    });
    match is_list {
        true => list_of(&call.query.scope, json!({"resourceVersion": 7}), vec![object]),
        false => json!({"type": "MODIFIED", "object": object}),
    }
}

const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

fn line_chunk(line: &str) -> Vec<u8> {
    chunk(&format!("{line}\n"))
}

async fn head_and_line(socket: &mut Socket, line: &str) -> bool {
    socket.send(STREAM_HEAD).await && socket.send(&line_chunk(line)).await
}

/// The last chunk.
async fn finish(mut socket: Socket) -> Then {
    if socket.send(b"0\r\n\r\n").await { Then::NextRequest(socket) } else { Then::Over }
}

async fn watch(mut socket: Socket, call: &Call, shared: &Shared) -> Then {
    let opened = shared.state().open_watch(&call.query, &call.request.target);
    let pushes = match opened {
        Ok(pushes) => pushes,
        // An expired version is said in the stream, everything else as a status.
        Err(refusal) if refusal.code == 410 => {
            let line = refusal.event().to_string();
            return if head_and_line(&mut socket, &line).await { finish(socket).await } else { Then::Over };
        }
        Err(refusal) => return refuse(socket, &refusal).await,
    };
    if !socket.send(STREAM_HEAD).await {
        return Then::Over;
    }
    follow(socket, pushes, call, shared).await
}

/// Sends what is pushed until the timeout, with a bookmark now and then and one before the end.
async fn follow(
    mut socket: Socket,
    mut pushes: mpsc::UnboundedReceiver<Push>,
    call: &Call,
    shared: &Shared,
) -> Then {
    let seconds = call.query.number("timeoutSeconds").unwrap_or(WATCH_SECONDS_DEFAULT);
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut bookmarks = tokio::time::interval(BOOKMARK_EVERY);
    bookmarks.reset();
    let bookmark = || shared.state().bookmark(|watch| watch.target == call.request.target);
    let mut is_ending = false;
    loop {
        let push = tokio::select! {
            biased;
            push = pushes.recv() => push,
            () = std::future::ready(()), if is_ending => Some(Push::End(Cut::Clean)),
            () = sleep_until(end), if !is_ending => {
                bookmark();
                is_ending = true;
                continue;
            }
            _tick = bookmarks.tick() => {
                bookmark();
                continue;
            }
            () = socket.client_gone() => return Then::Over,
        };
        let sent = match push {
            Some(Push::Line(line)) => socket.send(&line_chunk(&line)).await,
            Some(Push::End(cut)) => return end_watch(socket, call, cut).await,
            // The server has stopped.
            None => false,
        };
        if !sent {
            return Then::Over;
        }
    }
}

async fn end_watch(mut socket: Socket, call: &Call, cut: Cut) -> Then {
    match cut {
        Cut::Clean | Cut::Expired => return finish(socket).await,
        Cut::Fin => socket.close().await,
        Cut::HalfLine => {
            let line = wrong_type(call, false).to_string();
            let (half, _) = line.split_at(line.len() / 2);
            if socket.send(&chunk(half)).await {
                socket.close().await;
            }
        }
        Cut::Reset => socket.reset(),
    }
    Then::Over
}
