//! Event streams over HTTP/2, many on one connection; in plaintext with prior knowledge (RFC 9113 section 3.3).

use std::rc::Rc;

use anyhow::{Context, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::task::JoinSet;

use super::request::{Prepared, Request};
use super::stamps::Stamps;
use super::tally::{Tally, Wanted};
use super::target::Target;

/// Adds the tasks that hold the streams to `tasks`.
///
/// # Errors
/// If the request is none for HTTP/2.
pub(super) fn open(
    tasks: &mut JoinSet<()>,
    wanted: &Wanted,
    request: &Request,
    tally: &Rc<Tally>,
) -> anyhow::Result<()> {
    let Prepared::Http2(head, _) = request.prepare(wanted.target.protocol)? else {
        bail!("streams that share a connection are HTTP/2's");
    };
    let (target, head) = (Rc::new(wanted.target.clone()), Rc::from(head));
    let mut left = wanted.count;
    while left > 0 {
        let count = left.min(wanted.on_a_connection);
        left -= count;
        let (target, head, tally) = (Rc::clone(&target), Rc::clone(&head), Rc::clone(tally));
        tasks.spawn_local(async move {
            if let Err(error) = hold_connection(&target, &head, count, &tally).await {
                tally.count_end(&error);
            }
        });
    }
    Ok(())
}

/// Holds one connection and its streams; returns only with an error.
async fn hold_connection(
    target: &Target,
    head: &Rc<http::Request<()>>,
    count: u32,
    tally: &Rc<Tally>,
) -> anyhow::Result<()> {
    let socket = target.connect().await?;
    let (requests, connection) = h2::client::handshake(socket).await.context("no HTTP/2")?;
    let mut streams = JoinSet::new();
    for _ in 0..count {
        let (requests, head, tally) = (requests.clone(), Rc::clone(head), Rc::clone(tally));
        streams.spawn_local(async move {
            if let Err(error) = hold_stream(requests, &head, &tally).await {
                tally.count_end(&error);
            }
        });
    }
    drop(requests);
    connection.await.context("the connection failed")?;
    bail!("the proxy ended the connection")
}

async fn hold_stream(
    requests: SendRequest<Bytes>,
    head: &http::Request<()>,
    tally: &Tally,
) -> anyhow::Result<()> {
    let permit = tally.opening.acquire().await?;
    let mut requests = requests.ready().await?;
    let (response, _) = requests.send_request(head.clone(), true)?;
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
