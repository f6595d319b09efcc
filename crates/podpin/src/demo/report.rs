//! The table at the end of a demo that ran without a person, and the verdict that becomes the exit code.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::herd::Curve;
use super::latency::Latency;
use super::upheaval::Changes;

/// The observations of all clients together.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) run_time: Duration,
    pub(super) clients: usize,
    pub(super) clients_never_served: usize,
    pub(super) streams_per_pod: BTreeMap<String, usize>,
    pub(super) pins_kept: u64,
    pub(super) pins_moved: u64,
    pub(super) pins_lost: u64,
    /// Streams that ended without their client's wish.
    pub(super) cuts: u64,
    /// Times that an open stream went on at another pod.
    pub(super) moves: u64,
    /// The longest time that a client was without an event.
    pub(super) pause: Duration,
    /// The longest of them in which its stream moved.
    pub(super) pause_at_move: Duration,
    /// The time between two events that was asked for.
    pub(super) tick: Duration,
    /// Changes that were made to the pods on purpose.
    pub(super) changes: Option<Changes>,
    /// Arrivals of the clients after they had lost their streams at one moment; `None` if they did not.
    pub(super) curve: Option<Curve>,
    pub(super) events: u64,
    pub(super) gaps: u64,
    pub(super) duplicates: u64,
    pub(super) latency_p50: Option<Latency>,
    pub(super) latency_p99: Option<Latency>,
    pub(super) failure: Option<String>,
}

impl Report {
    /// Whether no pin was lost, no event missing or repeated, no client left out, and there was something to judge by. With
    /// changes to the pods, clients have to stay connected, too.
    pub(super) fn is_flawless(&self) -> bool {
        self.changes.is_none_or(|changes| changes.are_complete() && self.cuts == 0)
            && self.pins_lost == 0
            && self.gaps == 0
            && self.duplicates == 0
            && self.clients_never_served == 0
            && self.events > 0
    }

    fn rows(&self) -> Vec<(String, String)> {
        let comebacks = self.pins_kept + self.pins_moved + self.pins_lost;
        let mut rows: Vec<(String, String)> = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("clients", thousands(self.clients as u64));
        for (pod, streams) in &self.streams_per_pod {
            row(&format!("streams on {pod}"), thousands(*streams as u64));
        }
        if let Some(changes) = self.changes {
            row(changes.kind.done(), format!("{}/{}", changes.pods, changes.kind.pods()));
            row("streams moved", thousands(self.moves));
            row("disconnects", thousands(self.cuts));
        } else {
            row("pin kept on reconnect", format!("{}/{}", thousands(self.pins_kept), thousands(comebacks)));
        }
        row("events received", thousands(self.events));
        row("gaps", thousands(self.gaps));
        row("duplicates", thousands(self.duplicates));
        if self.changes.is_some() {
            let name = format!("slowest pause (tick {:?})", self.tick);
            row(&name, Latency::of(self.pause).to_string());
            row("slowest pause at a move", Latency::of(self.pause_at_move).to_string());
        }
        row("latency p50", shown(self.latency_p50));
        row("latency p99", shown(self.latency_p99));
        let is_said = self.changes.is_some();
        let only_when_it_happened = [
            ("pins moved by the proxy", self.pins_moved),
            ("streams cut", if is_said { 0 } else { self.cuts }),
            ("clients never served", self.clients_never_served as u64),
        ];
        for (name, count) in only_when_it_happened.into_iter().filter(|(_, count)| *count > 0) {
            row(name, thousands(count));
        }
        rows
    }

    fn verdict(&self) -> &'static str {
        if self.is_flawless() {
            match self.changes {
                None => "No pin lost, no event missing, none twice.",
                Some(_) => "No client disconnected, no event missing, none twice.",
            }
        } else if self.events == 0 {
            "FAILED: no client received an event."
        } else if self.clients_never_served > 0 {
            "FAILED: there were clients that never got a stream."
        } else if self.changes.is_some_and(|changes| !changes.are_complete()) {
            "FAILED: the pods were not changed as planned."
        } else if self.changes.is_some() && self.cuts > 0 {
            "FAILED: there were clients that were disconnected."
        } else if self.pins_lost > 0 {
            "FAILED: there were clients that lost their pod."
        } else {
            "FAILED: there were events missing or delivered twice."
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let width = |column: fn(&(String, String)) -> &str| {
            rows.iter().map(|row| column(row).chars().count()).max().unwrap_or_default()
        };
        let (names, values) = (width(|row| &row.0), width(|row| &row.1));
        let what = self.changes.map_or("", |changes| changes.kind.title());
        writeln!(formatter, "podpin demo, {:.1} s{what}", self.run_time.as_secs_f64())?;
        for (name, value) in &rows {
            writeln!(formatter, "  {name:<names$}  {value:>values$}")?;
        }
        if let Some(curve) = &self.curve {
            let shown = |counts: &[u64]| counts.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            writeln!(formatter, "clients in each second after all had lost their streams")?;
            writeln!(formatter, "  served  {}", shown(&curve.served))?;
            writeln!(formatter, "  told to come later  {}", shown(&curve.told))?;
        }
        if let Some(failure) = &self.failure {
            writeln!(formatter, "  last failure of a client: {failure}")?;
        }
        writeln!(formatter, "{}", self.verdict())
    }
}

/// 1234567 as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn shown(latency: Option<Latency>) -> String {
    latency.map_or_else(|| "-".to_owned(), |latency| latency.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::upheaval::Kind;
    use super::*;

    fn flawless() -> Report {
        Report {
            run_time: Duration::from_millis(10_040),
            clients: 200,
            clients_never_served: 0,
            streams_per_pod: BTreeMap::from([("pod-a".to_owned(), 101), ("pod-b".to_owned(), 99)]),
            pins_kept: 200,
            pins_moved: 0,
            pins_lost: 0,
            cuts: 0,
            moves: 0,
            pause: Duration::from_millis(131),
            pause_at_move: Duration::from_millis(117),
            tick: Duration::from_millis(100),
            changes: None,
            curve: None,
            events: 19_800,
            gaps: 0,
            duplicates: 0,
            latency_p50: None,
            latency_p99: None,
            failure: None,
        }
    }

    #[test]
    fn the_table_is_aligned_and_leaves_out_what_did_not_happen() {
        let expected = "podpin demo, 10.0 s\n\
            \x20 clients                    200\n\
            \x20 streams on pod-a           101\n\
            \x20 streams on pod-b            99\n\
            \x20 pin kept on reconnect  200/200\n\
            \x20 events received         19,800\n\
            \x20 gaps                         0\n\
            \x20 duplicates                   0\n\
            \x20 latency p50                  -\n\
            \x20 latency p99                  -\n\
            No pin lost, no event missing, none twice.\n";
        assert_eq!(flawless().to_string(), expected);
    }

    #[test]
    fn any_flaw_fails_the_run_and_is_named() {
        let table = [
            (Report { pins_lost: 1, ..flawless() }, "lost their pod"),
            (Report { gaps: 1, ..flawless() }, "missing or delivered twice"),
            (Report { duplicates: 1, ..flawless() }, "missing or delivered twice"),
            (Report { clients_never_served: 1, ..flawless() }, "never got a stream"),
            (Report { events: 0, ..flawless() }, "no client received"),
        ];
        for (report, reason) in table {
            assert!(!report.is_flawless());
            assert!(report.to_string().contains(reason), "{report}");
        }
        let moved = Report { pins_moved: 3, cuts: 3, ..flawless() };
        assert!(moved.is_flawless());
        assert!(moved.to_string().contains("200/203"), "{moved}");
    }

    fn rolled_out() -> Report {
        let changes = Some(Changes { kind: Kind::Rollout, pods: 3 });
        Report { changes, moves: 334, pins_kept: 0, ..flawless() }
    }

    #[test]
    fn the_table_of_a_rolling_update_says_what_clients_noticed() {
        let expected = "podpin demo, 10.0 s, rolling update\n\
            \x20 clients                          200\n\
            \x20 streams on pod-a                 101\n\
            \x20 streams on pod-b                  99\n\
            \x20 pods replaced                    3/3\n\
            \x20 streams moved                    334\n\
            \x20 disconnects                        0\n\
            \x20 events received               19,800\n\
            \x20 gaps                               0\n\
            \x20 duplicates                         0\n\
            \x20 slowest pause (tick 100ms)  131.0 ms\n\
            \x20 slowest pause at a move     117.0 ms\n\
            \x20 latency p50                        -\n\
            \x20 latency p99                        -\n\
            No client disconnected, no event missing, none twice.\n";
        assert_eq!(rolled_out().to_string(), expected);
        let killed = Changes { kind: Kind::Kill, pods: 1 };
        let killed = Report { changes: Some(killed), ..rolled_out() }.to_string();
        assert!(killed.contains("s, a pod dies\n") && killed.contains("pods killed"), "{killed}");
    }

    #[test]
    fn any_flaw_of_a_rolling_update_fails_the_run_and_is_named() {
        let unfinished = Some(Changes { kind: Kind::Rollout, pods: 2 });
        let table = [
            (Report { cuts: 1, ..rolled_out() }, "disconnected"),
            (Report { changes: unfinished, ..rolled_out() }, "not changed as planned"),
            (Report { gaps: 1, ..rolled_out() }, "missing or delivered twice"),
            (Report { duplicates: 1, ..rolled_out() }, "missing or delivered twice"),
            (Report { events: 0, ..rolled_out() }, "no client received"),
        ];
        for (report, reason) in table {
            assert!(!report.is_flawless());
            assert!(report.to_string().contains(reason), "{report}");
        }
    }

    #[test]
    fn digits_are_grouped_by_three() {
        let table = [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")];
        for (number, expected) in table {
            assert_eq!(thousands(number), expected);
        }
    }
}
