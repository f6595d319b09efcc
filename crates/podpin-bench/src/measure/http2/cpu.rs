//! CPU of requests, bodies and events over HTTP/2, with HTTP/1.1 over TLS beside each.

use anyhow::Context;

use super::super::{Scene, each, events, progress, requests};
use super::THE_SAME;
use crate::cli::{Http2Args, Http2Part};
use crate::client::lane::Lanes;
use crate::client::request::Accept;
use crate::peer::Peer;
use crate::peer_kind::PeerKind;
use crate::protocol::Protocol;
use crate::report::{Goal, Measure, Report};

const KIB_16: usize = 16 * 1024;
const MIB: usize = 1024 * 1024;
/// The goal for a small request, in µs.
const REQUEST_US: f64 = 11.0;
/// Event streams that share a connection.
const TOGETHER: u32 = 20;

/// A load of requests and its row.
struct RequestCase {
    load: requests::Load,
    measure: Measure,
}

/// A load of events and its row.
struct EventCase {
    load: events::Load,
    cpu: Measure,
    delivered: Measure,
}

/// Measures the wanted parts on processes that all run, round by round.
pub(super) async fn measure(
    scene: &Scene<'_>,
    arguments: &Http2Args,
    streams: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    let requests = request_cases(arguments);
    let events = event_cases(arguments, streams);
    if requests.is_empty() && events.is_empty() {
        return Ok(());
    }
    let peers = scene.start_all().await?;
    for round in 1..=scene.plan.rounds {
        for case in &requests {
            for peer in &peers {
                progress(&format!("{}, round {round}", case.measure.name), peer.kind.name());
                read_requests(scene, peer, case, report).await?;
            }
        }
        for case in &events {
            for peer in &peers {
                progress(&format!("{}, round {round}", case.cpu.name), peer.kind.name());
                read_events(scene, peer, case, report).await?;
            }
        }
    }
    Ok(())
}

async fn read_requests(
    scene: &Scene<'_>,
    peer: &Peer,
    case: &RequestCase,
    report: &mut Report,
) -> anyhow::Result<()> {
    let window = requests::read(scene, peer, case.load, Peer::cpu_ns).await;
    let (cpu_ns, count) = window.with_context(|| format!("{}: {}", case.measure.name, peer.kind.name()))?;
    report.add(&case.measure, peer.kind, each(cpu_ns, count, 1e3));
    Ok(())
}

async fn read_events(
    scene: &Scene<'_>,
    peer: &Peer,
    case: &EventCase,
    report: &mut Report,
) -> anyhow::Result<()> {
    let window = events::read(scene, peer, case.load).await;
    let (cpu_ns, count, share) =
        window.with_context(|| format!("{}: {}", case.cpu.name, peer.kind.name()))?;
    report.add(&case.cpu, peer.kind, each(cpu_ns, count, 1e3));
    report.add(&case.delivered, peer.kind, share * 100.0);
    Ok(())
}

fn request_cases(arguments: &Http2Args) -> Vec<RequestCase> {
    let mut kinds = Vec::new();
    if arguments.includes(Http2Part::Requests) {
        kinds.push(("request", requests::Kind::Small, Goal::AtMost(REQUEST_US)));
    }
    if arguments.includes(Http2Part::Bodies) {
        let download = requests::Kind::Download;
        kinds.push(("16 KiB response", download(KIB_16), Goal::AtMostPeer(PeerKind::Haproxy)));
        kinds.push(("1 MiB response", download(MIB), Goal::AtMostPeer(PeerKind::Envoy)));
        kinds.push(("1 MiB upload", requests::Kind::Upload(MIB), Goal::AtMostPeer(PeerKind::Envoy)));
    }
    let both = [Protocol::Http1Tls, Protocol::H2Tls];
    let cases = kinds.into_iter().flat_map(|(name, kind, goal)| {
        both.map(|protocol| {
            let measure = Measure::new(format!("{}{name}: CPU", protocol.prefix()), "µs", 1);
            let measure = if protocol.is_h2() { measure.with_goal(goal.clone()) } else { measure };
            RequestCase { load: requests::Load { protocol, lanes: lanes(protocol, kind), kind }, measure }
        })
    });
    cases.collect()
}

/// Sixteen connections of HTTP/1.1; over HTTP/2 four, each with as many requests in flight as a page in a browser has.
fn lanes(protocol: Protocol, kind: requests::Kind) -> Lanes {
    if !protocol.is_h2() {
        return Lanes { connections: 16, on_each: 1 };
    }
    let is_large = matches!(kind, requests::Kind::Download(MIB) | requests::Kind::Upload(_));
    Lanes { connections: 4, on_each: if is_large { 4 } else { 10 } }
}

fn event_cases(arguments: &Http2Args, streams: u32) -> Vec<EventCase> {
    if !arguments.includes(Http2Part::Events) {
        return Vec::new();
    }
    let name = |protocol: Protocol, on_each: u32| {
        format!("{}event, {streams} streams x 1/s, {on_each} on a connection", protocol.prefix())
    };
    let http1 = format!("{}: CPU", name(Protocol::Http1Tls, 1));
    let cases = [(Protocol::Http1Tls, 1), (Protocol::H2Tls, 1), (Protocol::H2Tls, TOGETHER)];
    let cases = cases.map(|(protocol, on_each)| {
        let accept = Accept::EventStream;
        let load = events::Load { protocol, streams, rate: 1, on_a_connection: on_each, accept };
        let cpu = Measure::new(format!("{}: CPU", name(protocol, on_each)), "µs", 1);
        let goal =
            Goal::AtMostRow { name: http1.clone(), shown: "1.05 × HTTP/1.1 with TLS", times: THE_SAME };
        let cpu = if protocol.is_h2() { cpu.with_goal(goal) } else { cpu };
        let delivered = Measure::new(format!("{}: delivered", name(protocol, on_each)), "%", 0);
        EventCase { load, cpu, delivered }
    });
    cases.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_of_http2_are_compared_with_a_row_that_is_there() {
        let cases = event_cases(&Http2Args { parts: vec![Http2Part::Events], count: None }, 500);
        let rows: Vec<&str> = cases.iter().map(|case| case.cpu.name.as_str()).collect();
        assert_eq!(rows[0], "TLS event, 500 streams x 1/s, 1 on a connection: CPU");
        assert_eq!(rows[2], "TLS h2 event, 500 streams x 1/s, 20 on a connection: CPU");
        let goal =
            Goal::AtMostRow { name: rows[0].to_owned(), shown: "1.05 × HTTP/1.1 with TLS", times: THE_SAME };
        let expected = Measure::new(rows[1], "µs", 1).with_goal(goal);
        assert_eq!(cases[1].cpu, expected);
    }
}
