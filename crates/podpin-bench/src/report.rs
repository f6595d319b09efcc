//! The figures of a run: every round's, their medians, podpin's ratios to its peers; as a table and as JSON.

mod goal;

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use self::goal::Figures;
pub(crate) use self::goal::Goal;
use crate::peer_kind::PeerKind;

/// The name and unit of a figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measure {
    /// Name of the line in the table.
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Digits after the point.
    pub(crate) digits: usize,
    /// The bound for podpin, where there is one.
    goal: Option<Goal>,
}

impl Measure {
    /// A figure of that name.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, digits: usize) -> Self {
        Self { name: name.into(), unit, digits, goal: None }
    }

    /// The same, with a goal beside it.
    pub(crate) fn with_goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Row {
    measure: Measure,
    /// In the order of the rounds.
    figures: Vec<(PeerKind, f64)>,
    /// Peers that refuse what is measured.
    refused: Vec<PeerKind>,
}

/// A row among the others, for its goal.
struct InReport<'a> {
    row: &'a Row,
    report: &'a Report,
}

impl Figures for InReport<'_> {
    fn of_peer(&self, peer: PeerKind) -> Option<f64> {
        self.row.median(peer)
    }

    fn of_row(&self, name: &str) -> Option<f64> {
        let row = self.report.rows.iter().find(|row| row.measure.name == name)?;
        row.median(PeerKind::Podpin)
    }
}

impl Row {
    fn new(measure: &Measure) -> Self {
        Self { measure: measure.clone(), figures: Vec::new(), refused: Vec::new() }
    }

    /// The cell of `peer` in the table.
    fn shown(&self, peer: PeerKind) -> String {
        match self.median(peer) {
            None if self.refused.contains(&peer) => "refused".to_owned(),
            median => shown(median, self.measure.digits),
        }
    }

    fn rounds(&self, peer: PeerKind) -> Vec<f64> {
        self.figures.iter().filter(|(of, _)| *of == peer).map(|(_, figure)| *figure).collect()
    }

    fn median(&self, peer: PeerKind) -> Option<f64> {
        median(self.rounds(peer))
    }

    /// podpin's median by that of `peer`.
    fn ratio(&self, peer: PeerKind) -> Option<f64> {
        let (ours, theirs) = (self.median(PeerKind::Podpin)?, self.median(peer)?);
        (theirs > 0.0 && peer != PeerKind::Podpin).then(|| ours / theirs)
    }
}

impl Report {
    /// Adds one round's figure.
    pub(crate) fn add(&mut self, measure: &Measure, peer: PeerKind, figure: f64) {
        self.row(measure).figures.push((peer, figure));
    }

    /// Says that `peer` refuses what is measured.
    pub(crate) fn add_refusal(&mut self, measure: &Measure, peer: PeerKind) {
        self.row(measure).refused.push(peer);
    }

    fn row(&mut self, measure: &Measure) -> &mut Row {
        let known = self.rows.iter().position(|row| row.measure == *measure);
        let place = known.unwrap_or_else(|| {
            self.rows.push(Row::new(measure));
            self.rows.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "the place was found or made just above")]
        &mut self.rows[place]
    }

    /// Adds a line below the table.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The medians of all `peers` and podpin's ratios to them.
    pub(crate) fn table(&self, peers: &[PeerKind]) -> String {
        let others: Vec<PeerKind> = if peers.contains(&PeerKind::Podpin) {
            peers.iter().copied().filter(|peer| *peer != PeerKind::Podpin).collect()
        } else {
            Vec::new()
        };
        let width = self
            .rows
            .iter()
            .map(|row| row.measure.name.len() + row.measure.unit.len() + 2)
            .max()
            .unwrap_or(0);
        let mut text = format!("{:width$}", "");
        for peer in peers {
            let _ = write!(text, " {:>10}", peer.name());
        }
        for peer in &others {
            let _ = write!(text, " {:>10}", format!("÷ {}", peer.name()));
        }
        if self.rows.iter().any(|row| row.measure.goal.is_some()) {
            text.push_str("  goal");
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "{:width$}", format!("{}, {}", row.measure.name, row.measure.unit));
            for peer in peers {
                let _ = write!(text, " {:>10}", row.shown(*peer));
            }
            for peer in &others {
                let _ = write!(text, " {:>10}", shown(row.ratio(*peer), 2));
            }
            if let Some(goal) = self.goal_of(row) {
                let _ = write!(text, "  {goal}");
            }
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }

    /// The goal of a row as the table shows it.
    fn goal_of(&self, row: &Row) -> Option<String> {
        let goal = row.measure.goal.as_ref()?;
        Some(goal.shown(row.measure.digits, &InReport { row, report: self }))
    }

    /// Writes all rounds, medians and ratios to `path`; `run` says what was measured and where.
    pub(crate) fn write_json(&self, path: &Path, peers: &[PeerKind], run: Value) -> anyhow::Result<()> {
        let rows: Vec<Value> = self.rows.iter().map(|row| self.row_as_json(row, peers)).collect();
        let document = json!({ "run": run, "rows": rows, "notes": self.notes });
        let text = serde_json::to_string_pretty(&document)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    fn row_as_json(&self, row: &Row, peers: &[PeerKind]) -> Value {
        let of_each = |figure: &dyn Fn(PeerKind) -> Value| -> Value {
            peers
                .iter()
                .map(|peer| (peer.name().to_owned(), figure(*peer)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let refused: Vec<&str> = row.refused.iter().map(|peer| peer.name()).collect();
        json!({
            "name": row.measure.name,
            "unit": row.measure.unit,
            "median": of_each(&|peer| json!(row.median(peer))),
            "rounds": of_each(&|peer| json!(row.rounds(peer))),
            "podpinRatioTo": of_each(&|peer| json!(row.ratio(peer))),
            "refusedBy": refused,
            "goal": self.goal_of(row),
        })
    }
}

fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.digits$}"))
}

/// The middle of `figures`; of an even number the mean of the two in the middle; of none, none.
pub(crate) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = figures.get(middle).copied()?;
    if figures.len() % 2 == 1 {
        return Some(upper);
    }
    figures.get(middle - 1).map(|lower| f64::midpoint(*lower, upper))
}

/// The value below which `share` (0 to 1) of the sorted `figures` lie (nearest rank).
pub(crate) fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank in a list that fits memory"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_not_the_mean() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&sorted, 0.5), Some(50));
        assert_eq!(percentile(&sorted, 0.99), Some(99));
        assert_eq!(percentile(&[7], 0.01), Some(7));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn the_table_has_the_medians_and_podpins_ratios() {
        let mut report = Report::default();
        let measure = Measure::new("event", "µs", 1);
        for figure in [10.0, 30.0, 20.0] {
            report.add(&measure, PeerKind::Relay, figure);
            report.add(&measure, PeerKind::Podpin, figure * 1.5);
        }
        let table = report.table(&[PeerKind::Relay, PeerKind::Nginx, PeerKind::Podpin]);
        let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["event,", "µs", "20.0", "–", "30.0", "1.50", "–"]);
        assert!(!table.contains("goal"), "{table}");
    }

    #[test]
    fn a_row_has_its_goal_and_says_who_refuses() {
        let mut report = Report::default();
        let plain = Measure::new("HTTP/1.1 event", "µs", 1);
        let goal = Goal::AtMostRow { name: plain.name.clone(), shown: "1.05 × HTTP/1.1", times: 1.05 };
        let measure = Measure::new("event", "µs", 1).with_goal(goal);
        let pinned = Measure::new("bomb", "KiB", 1).with_goal(Goal::Refused);
        report.add(&plain, PeerKind::Podpin, 10.0);
        report.add(&measure, PeerKind::Podpin, 11.0);
        report.add(&pinned, PeerKind::Nginx, 66.0);
        report.add_refusal(&pinned, PeerKind::Podpin);
        let table = report.table(&[PeerKind::Nginx, PeerKind::Podpin]);
        let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
        assert!(lines[0].ends_with("  goal"), "{table}");
        assert!(lines[1].ends_with("10.0          –"), "{table}");
        assert!(lines[2].ends_with("11.0          –  ≤ 1.05 × HTTP/1.1, missed"), "{table}");
        assert!(lines[3].ends_with("66.0    refused          –  refused"), "{table}");
    }
}
