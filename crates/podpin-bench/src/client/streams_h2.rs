//! Event streams over HTTP/2, many on one connection; in plaintext with prior knowledge (RFC 9113 section 3.3).

use std::rc::Rc;

use anyhow::{Context, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::task::JoinSet;

use super::stamps::Stamps;
use super::tally::{Tally, Wanted};
use super::target::Target;
use crate::certificate::HOST;
use crate::protocol::STREAMS_ON_A_CONNECTION;

/// Adds the tasks that hold the streams to `tasks`.
pub(super) fn open(tasks: &mut JoinSet<()>, wanted: &Wanted, path: &str, tally: &Rc<Tally>) {
    let scheme = if wanted.target.protocol.is_tls() { "https" } else { "http" };
    let uri: Rc<str> = format!("{scheme}://{HOST}{path}").into();
    let target = Rc::new(wanted.target.clone());
    let mut left = wanted.count;
    while left > 0 {
        let count = left.min(STREAMS_ON_A_CONNECTION);
        left -= count;
        let (target, uri, tally) = (Rc::clone(&target), Rc::clone(&uri), Rc::clone(tally));
        tasks.spawn_local(async move {
            if let Err(error) = hold_connection(&target, &uri, count, &tally).await {
                tally.count_end(&error);
            }
        });
    }
}

/// Holds one connection and its streams; returns only with an error.
async fn hold_connection(
    target: &Target,
    uri: &Rc<str>,
    count: u32,
    tally: &Rc<Tally>,
) -> anyhow::Result<()> {
    let socket = target.connect().await?;
    let (requests, connection) = h2::client::handshake(socket).await.context("no HTTP/2")?;
    let mut streams = JoinSet::new();
    for _ in 0..count {
        let (requests, uri, tally) = (requests.clone(), Rc::clone(uri), Rc::clone(tally));
        streams.spawn_local(async move {
            if let Err(error) = hold_stream(requests, &uri, &tally).await {
                tally.count_end(&error);
            }
        });
    }
    drop(requests);
    connection.await.context("the connection failed")?;
    bail!("the proxy ended the connection")
}

async fn hold_stream(requests: SendRequest<Bytes>, uri: &str, tally: &Tally) -> anyhow::Result<()> {
    let permit = tally.opening.acquire().await?;
    let mut requests = requests.ready().await?;
    let request = Request::get(uri)
        .header("accept", "text/event-stream")
        .header("cache-control", "no-cache")
        .body(())?;
    let (response, _) = requests.send_request(request, true)?;
    drop(requests);
    let response = response.await?;
    if response.status() != 200 {
        bail!("refused: {}", response.status());
    }
    let mut body = response.into_body();
    let mut stamps = Stamps::default();
    let mut opening = Some(permit);
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if tally.count_events(&mut stamps, &data) && opening.take().is_some() {
            tally.count_opened();
        }
    }
    bail!("the proxy ended the stream")
}
