//! CPU for each new client: a new connection, a request without a cookie, an answer that brings one.
//!
//! The relay gives no sessions and is left out.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use tokio_rustls::rustls::HandshakeKind;

use super::{CpuReading, Scene, each, progress};
use crate::certificate::Visit;
use crate::cli::SessionsArgs;
use crate::client::http::Connection;
use crate::client::request::Request;
use crate::client::target::Target;
use crate::peer::Peer;
use crate::protocol::Protocol;
use crate::report::{Measure, Report};

pub(super) const AT_ONCE: u32 = 16;
/// After the last answer, for the closing of its connection.
const CLOSING: Duration = Duration::from_millis(50);

/// Measures all `peers` that give sessions, round by round.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    peers: &[Peer],
    arguments: &SessionsArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let protocol = arguments.security.http1();
    let visit = if arguments.resume { Visit::Return } else { Visit::First };
    let cpu = Measure::new(name(protocol, visit), "µs", 1);
    let count = arguments.count.unwrap_or(scene.plan.sessions);
    for round in 1..=scene.plan.rounds {
        for peer in peers.iter().filter(|peer| peer.kind.knows_http()) {
            progress(&format!("{}sessions, round {round}", protocol.prefix()), peer.kind.name());
            // Each client has tickets of its own: of one's for all, some would find none.
            let clients = (0..AT_ONCE).map(|_| scene.target(peer, protocol, visit));
            let clients: Vec<Target> = clients.collect::<anyhow::Result<_>>()?;
            let cpu_ns = read(peer, &clients, visit, count, Peer::cpu_ns).await;
            let cpu_ns = cpu_ns.with_context(|| format!("sessions of {}", peer.kind.name()))?;
            report.add(&cpu, peer.kind, each(cpu_ns, u64::from(count), 1e3));
        }
    }
    Ok(())
}

fn name(protocol: Protocol, visit: Visit) -> &'static str {
    match (protocol.is_tls(), visit) {
        (false, _) => "new connection and session: CPU",
        (true, Visit::First) => "TLS full handshake and session: CPU",
        (true, Visit::Return) => "TLS resumed handshake and session: CPU",
    }
}

pub(super) async fn read(
    peer: &Peer,
    clients: &[Target],
    visit: Visit,
    count: u32,
    cpu: CpuReading,
) -> anyhow::Result<u64> {
    // Tables grown, upstream connections opened and a ticket given to each client before the count begins.
    open_sessions(clients, AT_ONCE * 4).await?;
    let cpu_ns = cpu(peer)?;
    let resumed = open_sessions(clients, count).await?;
    let expected = if visit == Visit::Return { count } else { 0 };
    if resumed != expected {
        bail!("{resumed} of {count} handshakes were resumed instead of {expected}");
    }
    tokio::time::sleep(CLOSING).await;
    Ok(cpu(peer)? - cpu_ns)
}

/// Opens `count` sessions, each client one at a time; gives how many began with a resumed handshake.
async fn open_sessions(clients: &[Target], count: u32) -> anyhow::Result<u32> {
    let (left, resumed) = (Rc::new(Cell::new(count)), Rc::new(Cell::new(0)));
    let mut tasks = JoinSet::new();
    for target in clients {
        let (target, left, resumed) = (target.clone(), Rc::clone(&left), Rc::clone(&resumed));
        tasks.spawn_local(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                if open_session(&target).await? == Some(HandshakeKind::Resumed) {
                    resumed.set(resumed.get() + 1);
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(resumed.get())
}

async fn open_session(target: &Target) -> anyhow::Result<Option<HandshakeKind>> {
    let (wire, handshake) = target.connect_and_tell().await?;
    let request = Request::get("/", None).http1_head();
    let answer = Connection::new(wire).exchange(request.as_bytes()).await?;
    if answer.cookie.is_none() {
        bail!("no cookie for a new client");
    }
    Ok(handshake)
}
