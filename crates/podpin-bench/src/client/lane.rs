//! A lane carries one request at a time: a whole HTTP/1.1 connection, or a share of an HTTP/2 connection.

use std::rc::Rc;

use anyhow::{Context, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::http::Connection;
use super::request::Prepared;
use super::tally::OPENING_AT_ONCE;
use super::target::{Target, Wire};

/// The windows of a browser (Chromium), so that they never are what a download waits for.
const STREAM_WINDOW: u32 = 6 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 15 * 1024 * 1024;

/// A place for one request at a time.
pub(crate) enum Lane {
    /// A connection of its own.
    Http1(Connection),
    /// A connection that other lanes share.
    Http2 { requests: SendRequest<Bytes>, _frames: Rc<Frames> },
}

/// The task that carries the frames of an HTTP/2 connection, for as long as a lane needs it.
pub(crate) struct Frames {
    _task: JoinSet<()>,
}

/// How many connections to open, each with how many lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    pub(crate) connections: u32,
    /// Over HTTP/2; an HTTP/1.1 connection is one lane.
    pub(crate) on_each: u32,
}

impl Lane {
    /// Sends `request` and reads the whole answer, which must be a 200. Returns its cookie as `name=value`, if any.
    ///
    /// # Errors
    /// If there is no such answer.
    pub(crate) async fn exchange(&mut self, request: &Prepared) -> anyhow::Result<Option<String>> {
        match (self, request) {
            (Self::Http1(connection), Prepared::Http1(bytes)) => Ok(connection.exchange(bytes).await?.cookie),
            (Self::Http2 { requests, .. }, Prepared::Http2(head, body)) => {
                exchange_h2(requests, http::Request::clone(head), body.clone()).await
            }
            _ => bail!("a request of another version of HTTP"),
        }
    }
}

async fn exchange_h2(
    requests: &mut SendRequest<Bytes>,
    head: http::Request<()>,
    body: Bytes,
) -> anyhow::Result<Option<String>> {
    let mut ready = requests.clone().ready().await?;
    let (response, mut upload) = ready.send_request(head, body.is_empty())?;
    // Fewer handles wake fewer tasks.
    drop(ready);
    if !body.is_empty() {
        // Held by the library until the windows take it.
        upload.send_data(body, true)?;
    }
    let response = response.await?;
    if response.status() != 200 {
        bail!("status {} instead of 200", response.status());
    }
    let cookie = response.headers().get("set-cookie").and_then(|value| value.to_str().ok());
    let cookie = cookie.and_then(|value| value.split(';').next()).map(|pair| pair.trim().to_owned());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    Ok(cookie)
}

/// Opens the lanes of one connection.
///
/// # Errors
/// If the connection fails.
async fn open_one(target: &Target, on_each: u32) -> anyhow::Result<Vec<Lane>> {
    let wire = target.connect().await?;
    if !target.protocol.is_h2() {
        return Ok(vec![Lane::Http1(Connection::new(wire))]);
    }
    let (requests, frames) = handshake(wire).await?;
    let frames = Rc::new(frames);
    let lane = |_| Lane::Http2 { requests: requests.clone(), _frames: Rc::clone(&frames) };
    Ok((0..on_each).map(lane).collect())
}

/// Begins HTTP/2 on a connection that has agreed on it.
async fn handshake(wire: Box<dyn Wire>) -> anyhow::Result<(SendRequest<Bytes>, Frames)> {
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false)
        .handshake(wire)
        .await
        .context("no HTTP/2")?;
    let mut task = JoinSet::new();
    // A connection that breaks fails the requests on it, which say so.
    task.spawn_local(async move { drop(connection.await) });
    Ok((requests, Frames { _task: task }))
}

/// Opens all `lanes`, some connections at a time.
///
/// # Errors
/// If one of the connections fails.
pub(crate) async fn open(target: &Target, lanes: Lanes) -> anyhow::Result<Vec<Lane>> {
    let opening = Rc::new(Semaphore::new(OPENING_AT_ONCE));
    let mut tasks = JoinSet::new();
    for _ in 0..lanes.connections {
        let (target, opening) = (target.clone(), Rc::clone(&opening));
        tasks.spawn_local(async move {
            let _permit = opening.acquire().await?;
            open_one(&target, lanes.on_each).await
        });
    }
    let mut opened = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        opened.extend(ended??);
    }
    Ok(opened)
}
