//! One request of an event stream client, before its answer: who asked, over what, and how to answer.

use podpin_wire::http1::encode::{Framing, Persistence, h1_head};
use std::future::poll_fn;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use http::header::HeaderMap;
use http::{StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::protocols::http::v2::server::HttpSession as SessionV2;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use crate::connection::{Connection, StreamGuard};
use crate::downstream::body::Downstream;
use crate::http::reply::{Answer, Body, Failure};
use crate::net::transport::Transport;

/// How long a refused client may take to read the answer before its connection is closed under it.
const LINGER: Duration = Duration::from_secs(1);
/// What a refused client may still send meanwhile: a reset would destroy the answer before it is read.
const LINGER_BYTES: usize = 256 * 1024;

/// A client waiting for its answer.
pub(crate) enum Exchange {
    /// HTTP/1.0 or 1.1, with the connection that may go on afterwards.
    H1 { tcp: Transport, connection: Connection, keep_alive: bool },
    /// One stream of an HTTP/2 connection, counted there.
    H2(Box<SessionV2>, StreamGuard),
}

/// What a stream holds of its client's connection.
pub(crate) enum After {
    /// HTTP/1: the connection itself, which may carry another request.
    H1 { connection: Connection, goes_on: bool },
    /// HTTP/2: its place among the connection's streams.
    H2 { _guard: StreamGuard },
}

/// An answer that has begun.
pub(crate) struct Begun {
    pub downstream: Downstream,
    /// The head, still to be written (HTTP/1).
    pub head: Vec<u8>,
    /// What the stream keeps alive and counted as long as it runs.
    pub after: After,
}

impl Exchange {
    /// Resolves when the client leaves while it waits.
    pub(crate) async fn gone(&mut self) {
        match self {
            Exchange::H2(session, _) => {
                // Both outcomes mean the same: the stream was reset, or its connection is gone.
                session.idle().await.map_or_else(drop, drop);
            }
            Exchange::H1 { tcp, keep_alive, .. } => {
                poll_fn(|context| {
                    loop {
                        let mut bytes = [0; 512];
                        let mut buffer = ReadBuf::new(&mut bytes);
                        let read = ready!(Pin::new(&mut *tcp).poll_read(context, &mut buffer));
                        if read.is_err() || buffer.filled().is_empty() {
                            return Poll::Ready(());
                        }
                        // A pipelined request: dropped, so the connection cannot go on after this one.
                        *keep_alive = false;
                    }
                })
                .await
            }
        }
    }

    /// Begins the answer; `length` is the body's, when it is known. `None` when the client is gone.
    pub(crate) fn begin(
        self,
        status: StatusCode,
        lines: &HeaderMap,
        version: Version,
        length: Option<u64>,
    ) -> Option<Begun> {
        match self {
            Exchange::H1 { tcp, connection, keep_alive } => {
                let http10 = version == Version::HTTP_10;
                let framing = if length.is_some() || http10 { Framing::Plain } else { Framing::Chunked };
                let goes_on = keep_alive && (length.is_some() || !http10);
                let mut head = Vec::with_capacity(512);
                h1_head(&mut head, (status, lines), framing, Persistence::of(goes_on, http10));
                Some(Begun {
                    downstream: Downstream::h1(tcp, framing),
                    head,
                    after: After::H1 { connection, goes_on },
                })
            }
            Exchange::H2(session, guard) => begin_h2((*session, guard), status, lines),
        }
    }

    /// Answers with a failure of ours.
    pub(crate) async fn refuse(self, failure: Failure) {
        if let Some(answer) = failure.answer() {
            self.answer(answer).await;
        }
    }

    /// Gives an answer of ours.
    pub(crate) async fn answer(self, answer: Answer) {
        match self {
            Exchange::H1 { tcp, .. } => answer_h1(tcp, &answer).await,
            Exchange::H2(session, _guard) => answer_h2(*session, answer, Body::Whole).await,
        }
    }
}

/// A response head for HTTP/2.
pub(crate) fn h2_head(status: StatusCode, lines: &HeaderMap) -> pingora::Result<Box<ResponseHeader>> {
    let mut head = ResponseHeader::build(status, Some(lines.len()))?;
    for (name, value) in lines {
        head.append_header(name.clone(), value.clone())?;
    }
    Ok(Box::new(head))
}

fn begin_h2(
    (mut session, guard): (SessionV2, StreamGuard),
    status: StatusCode,
    lines: &HeaderMap,
) -> Option<Begun> {
    session.write_response_header(h2_head(status, lines).ok()?, false).ok()?;
    let stream = session.take_response_body_writer()?;
    Some(Begun { downstream: Downstream::h2(stream), head: Vec::new(), after: After::H2 { _guard: guard } })
}

/// Writes the answer to a request with or without a body and closes, so that the client can read it.
pub(crate) async fn answer_h1(tcp: Transport, answer: &Answer) {
    say_and_linger(tcp, &answer.h1(Persistence::Close, Body::Whole)).await;
}

/// Writes the last that is said on a connection and closes it, so that the client can read that.
pub(crate) async fn say_and_linger(mut tcp: Transport, words: &[u8]) {
    let said = async {
        tcp.write_all(words).await?;
        tcp.shutdown().await?;
        let mut left = LINGER_BYTES;
        let mut bytes = [0; 1024];
        loop {
            let count = tcp.read(&mut bytes).await?;
            left = left.saturating_sub(count);
            if count == 0 || left == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, Box::pin(said)).await {
        tracing::trace!(%error, "the client did not read its answer");
    }
    // Whatever is left unread is thrown away with the connection.
    if let Err(error) = socket2::SockRef::from(tcp.tcp()).shutdown(Shutdown::Both) {
        tracing::trace!(%error, "the client closed first");
    }
}

/// Gives an answer of ours over HTTP/2.
pub(crate) async fn answer_h2(mut session: SessionV2, answer: Answer, body: Body) {
    let answered = async {
        let mut lines = answer.own_lines();
        lines.extend(answer.lines);
        let ends = body == Body::Omitted || answer.body.is_empty();
        session.write_response_header(h2_head(answer.status, &lines)?, ends)?;
        if ends {
            return Ok(());
        }
        session.set_write_timeout(Some(LINGER));
        session.write_body(answer.body.into(), true).await
    };
    if let Err(error) = answered.await {
        tracing::debug!(%error, "the client left before its answer");
    }
}
