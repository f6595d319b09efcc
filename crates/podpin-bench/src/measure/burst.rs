//! CPU for each MB of events on one stream whose pod never waits: what reading, framing and writing cost by themselves.

use std::time::Instant;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Scene, each, progress};
use crate::cli::BurstArgs;
use crate::client::body::Body;
use crate::client::request::{Accept, Request};
use crate::client::socket::connect;
use crate::client::stamps::Stamps;
use crate::peer::Peer;
use crate::pod::burst_events;
use crate::report::{Measure, Report};

const READ_BYTES: usize = 256 * 1024;

/// Measures all `peers`, round by round.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    peers: &[Peer],
    arguments: &BurstArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let cpu = Measure::new("burst on one stream: CPU for each MB", "ms", 2);
    let speed = Measure::new("burst on one stream", "MB/s", 0);
    let mb = arguments.mb.unwrap_or(scene.plan.burst_mb);
    for round in 1..=scene.plan.rounds {
        for peer in peers {
            progress(&format!("burst, round {round}"), peer.kind.name());
            let began = Instant::now();
            let cpu_ns =
                read(peer, mb).await.with_context(|| format!("burst through {}", peer.kind.name()))?;
            report.add(&cpu, peer.kind, each(cpu_ns, u64::from(mb), 1e6));
            report.add(&speed, peer.kind, f64::from(mb) / began.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

async fn read(peer: &Peer, mb: u32) -> anyhow::Result<u64> {
    let mut stream = connect(peer.http).await?;
    let cpu_ns = peer.cpu_ns()?;
    let request = Request::event_stream(&format!("/burst?mb={mb}"), Accept::EventStream);
    stream.write_all(request.http1_head().as_bytes()).await?;
    let mut buffer = vec![0; READ_BYTES];
    let mut body = Body::new();
    let mut stamps = Stamps::default();
    let mut events = 0;
    while !body.is_over() {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            bail!("the stream broke after {events} events");
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        body.feed(bytes, |payload| stamps.feed(payload, |_| events += 1))?;
    }
    if events != burst_events(mb) {
        bail!("{events} events came instead of {}", burst_events(mb));
    }
    Ok(peer.cpu_ns()? - cpu_ns)
}
