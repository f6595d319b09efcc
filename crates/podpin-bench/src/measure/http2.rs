//! HTTP/2 over TLS beside HTTP/1.1 over TLS: the memory of what is open and the CPU of what moves, each with its goal.
//!
//! Memory is that of fresh processes, as in `memory.rs`, and CPU is read round by round on processes that all run. The
//! relay knows neither and is left out.

mod cpu;
mod fields;
mod held;
mod memory;

use super::Scene;
use crate::cli::{Http2Args, Http2Part};
use crate::client::request::{Accept, Request};
use crate::protocol::{Protocol, STREAMS_ON_A_CONNECTION};
use crate::report::{Goal, Measure, Report};

use self::held::{Kind, Load};

/// Goals for the KiB of an event stream by the number of those that share its connection.
const STREAM_KIB: [(u32, f64); 3] = [(1, 12.0), (2, 5.0), (20, 2.3)];
const IDLE_CONNECTION_KIB: f64 = 10.0;
/// The same within what one round of memory varies by.
const THE_SAME: f64 = 1.05;
/// A waiting request may cost so much beside twice its head.
const WAITING_KIB: f64 = 4.0;
/// The length of a bearer token with some claims in it, which makes a head large.
const TOKEN_BYTES: usize = 2_000;

/// Measures the wanted parts for all candidates.
pub(crate) async fn measure(
    scene: &Scene<'_>,
    arguments: &Http2Args,
    report: &mut Report,
) -> anyhow::Result<()> {
    let count = arguments.count.unwrap_or(scene.plan.http2_count);
    for case in memory_cases(arguments) {
        memory::measure(scene, &case, count, report).await?;
    }
    if arguments.includes(Http2Part::Fields) {
        fields::measure(scene, report).await?;
    }
    cpu::measure(scene, arguments, count, report).await
}

/// A load and the row that its memory belongs to.
struct MemoryCase {
    load: Load,
    measure: Measure,
}

/// Returns the loads whose memory the wanted parts compare; one that two parts have is there once.
fn memory_cases(arguments: &Http2Args) -> Vec<MemoryCase> {
    let mut cases = Vec::new();
    if arguments.includes(Http2Part::Idle) {
        cases.extend([Protocol::Http1Tls, Protocol::H2Tls].map(idle));
    }
    let mut streams = Vec::new();
    if arguments.includes(Http2Part::Streams) {
        streams.push((Protocol::Http1Tls, 1, Accept::EventStream));
        streams.extend(STREAM_KIB.map(|(on_each, _)| (Protocol::H2Tls, on_each, Accept::EventStream)));
    }
    if arguments.includes(Http2Part::Unannounced) {
        for protocol in [Protocol::Http1, Protocol::Http1Tls, Protocol::H2c, Protocol::H2Tls] {
            for accept in [Accept::EventStream, Accept::Anything] {
                let case = (protocol, 1, accept);
                if !streams.contains(&case) {
                    streams.push(case);
                }
            }
        }
    }
    cases.extend(streams.into_iter().map(|(protocol, on_each, accept)| stream(protocol, on_each, accept)));
    if arguments.includes(Http2Part::Waiting) {
        let small = Request::get(held::WAITING_PATH, None);
        let large = small.clone().with("Authorization", &format!("Bearer {}", "t".repeat(TOKEN_BYTES)));
        for head in [small, large] {
            cases.push(waiting(Protocol::Http1, 1, &head));
            cases.extend([1, STREAMS_ON_A_CONNECTION].map(|on_each| waiting(Protocol::H2c, on_each, &head)));
        }
    }
    cases
}

fn idle(protocol: Protocol) -> MemoryCase {
    let measure = Measure::new(format!("{}idle connection", protocol.prefix()), "KiB", 2);
    let measure =
        if protocol.is_h2() { measure.with_goal(Goal::AtMost(IDLE_CONNECTION_KIB)) } else { measure };
    MemoryCase { load: Load { protocol, on_each: 1, kind: Kind::Idle }, measure }
}

fn stream(protocol: Protocol, on_each: u32, accept: Accept) -> MemoryCase {
    let name = |accept| {
        let announced = if accept == Accept::Anything { ", not announced" } else { "" };
        format!("{}stream, {on_each} on a connection{announced}: each", protocol.prefix())
    };
    let measure = Measure::new(name(accept), "KiB", 2);
    let known = STREAM_KIB.iter().find(|(count, _)| *count == on_each);
    let goal = match (accept, known) {
        (Accept::Anything | Accept::WebSocket, _) => {
            let name = name(Accept::EventStream);
            Some(Goal::AtMostRow { name, shown: "announced", times: THE_SAME })
        }
        (Accept::EventStream, Some((_, kib))) if protocol == Protocol::H2Tls => Some(Goal::AtMost(*kib)),
        (Accept::EventStream, _) => None,
    };
    let measure = match goal {
        Some(goal) => measure.with_goal(goal),
        None => measure,
    };
    MemoryCase { load: Load { protocol, on_each, kind: Kind::Stream(accept) }, measure }
}

/// The goal counts the head as HTTP/1.1 has it, for both versions.
fn waiting(protocol: Protocol, on_each: u32, head: &Request) -> MemoryCase {
    let bytes = head.http1_head().len();
    let name = format!(
        "{}waiting request, {on_each} on a connection, head of {bytes} bytes: each",
        protocol.prefix()
    );
    let goal = Goal::AtMost(WAITING_KIB + 2.0 * bytes as f64 / 1024.0);
    let measure = Measure::new(name, "KiB", 2).with_goal(goal);
    MemoryCase { load: Load { protocol, on_each, kind: Kind::Waiting(head.clone()) }, measure }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parts: &[Http2Part]) -> Vec<String> {
        let arguments = Http2Args { parts: parts.to_vec(), count: None };
        memory_cases(&arguments).into_iter().map(|case| case.measure.name).collect()
    }

    #[test]
    fn no_load_is_measured_twice_for_two_parts() {
        let all = names(&[]);
        let mut once = all.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), all.len(), "{all:?}");
        assert_eq!(names(&[Http2Part::Streams]).len(), 4);
        assert_eq!(names(&[Http2Part::Unannounced]).len(), 8);
        assert_eq!(names(&[Http2Part::Streams, Http2Part::Unannounced]).len(), 10);
        assert_eq!(names(&[Http2Part::Requests, Http2Part::Fields]), [""; 0]);
    }

    #[test]
    fn each_unannounced_stream_stands_beside_an_announced_one() {
        let all = names(&[Http2Part::Unannounced]);
        for name in all.iter().filter(|name| name.contains("not announced")) {
            assert!(all.contains(&name.replace(", not announced", "")), "{name}");
        }
    }
}
