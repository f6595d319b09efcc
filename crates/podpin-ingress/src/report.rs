//! The report: one finding for every setting that was read, and what they come to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::class::{Class, Protection};

/// A setting, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object that has it, such as `Ingress prod/chat`.
    pub object: String,
    /// Where the object has it: an annotation's name without its prefix, a field, a key.
    pub setting: String,
    /// The beginning of its value.
    pub value: String,
    /// What becomes of it.
    pub class: Class,
    /// The difference, or the way around. May be empty.
    pub note: String,
    /// What is lost, where the class is [`Class::Protecting`].
    pub protection: Option<Protection>,
    /// Whether the loss was allowed.
    pub is_allowed: bool,
}

/// What an import comes to, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All settings are exact or not needed.
    Exact,
    /// Some are approximations, or not supported.
    Approximate,
    /// A protection would be lost that is not allowed to be; its routes are withheld.
    Lost,
}

/// Everything that an import found, in the order of the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Findings, those of the controller first.
    pub findings: Vec<Finding>,
    /// Objects that were passed over, each with the reason.
    pub skipped: Vec<String>,
    /// Routes that answer 503 until their findings are settled: hosts and path, each with the reason.
    pub withheld: Vec<String>,
    /// Steps that a person has to take, such as copying a Secret.
    pub steps: Vec<String>,
    /// Ingresses that became routes.
    pub ingresses: usize,
    /// Routes that were written.
    pub routes: usize,
    /// Services that were written.
    pub services: usize,
}

impl Report {
    /// Returns what the import comes to.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let outcome = |finding: &Finding| match finding.class {
            Class::Exact | Class::NotNeeded => Outcome::Exact,
            Class::Approximate | Class::NotSupported => Outcome::Approximate,
            Class::Protecting if finding.is_allowed => Outcome::Approximate,
            Class::Protecting => Outcome::Lost,
        };
        self.findings.iter().map(outcome).max().unwrap_or(Outcome::Exact)
    }

    /// Returns how many findings each class has.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Class, usize> {
        let mut counts: BTreeMap<Class, usize> = Class::ALL.into_iter().map(|class| (class, 0)).collect();
        for finding in &self.findings {
            *counts.entry(finding.class).or_default() += 1;
        }
        counts
    }

    fn summary(&self) -> String {
        let counts = self.counts();
        let counted: Vec<String> =
            counts.iter().rev().map(|(class, number)| format!("{number} {class}")).collect();
        format!(
            "{} Ingresses, {} routes, {} services; settings: {}",
            self.ingresses,
            self.routes,
            self.services,
            counted.join(", ")
        )
    }

    fn verdict(&self) -> String {
        let lost: BTreeSet<&str> = self
            .findings
            .iter()
            .filter(|finding| finding.class == Class::Protecting && !finding.is_allowed)
            .filter_map(|finding| finding.protection.map(Protection::name))
            .collect();
        match self.outcome() {
            Outcome::Exact => "Everything is taken over as it is.".to_owned(),
            Outcome::Approximate => {
                "Read the approximations and what is not supported before you move.".to_owned()
            }
            Outcome::Lost => {
                let lost: Vec<&str> = lost.into_iter().collect();
                format!(
                    "Protection would be lost: {}. The routes concerned answer 503. Leave these hosts on the \
                     ingress, or allow the loss with --allow-loss NAME.",
                    lost.join(", ")
                )
            }
        }
    }

    /// Returns the findings that a person has to look at, the worst first.
    fn notable(&self) -> Vec<&Finding> {
        let mut notable: Vec<&Finding> =
            self.findings.iter().filter(|finding| finding.class > Class::Exact).collect();
        notable.sort_by_key(|finding| std::cmp::Reverse(finding.class));
        notable
    }

    /// Returns the report for a terminal: every finding that a person has to look at, the worst first.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.summary());
        for finding in self.notable() {
            let allowed = if finding.is_allowed { " (allowed)" } else { "" };
            line(
                &mut out,
                &format!("{}{allowed}: {}: {}", finding.class, finding.object, finding.sentence()),
            );
        }
        for (heading, lines) in self.lists() {
            for text in lines {
                line(&mut out, &format!("{}: {text}", heading.to_lowercase()));
            }
        }
        line(&mut out, &self.verdict());
        out
    }

    fn lists(&self) -> [(&'static str, &Vec<String>); 3] {
        [("Withheld", &self.withheld), ("Skipped", &self.skipped), ("To do", &self.steps)]
    }

    /// Returns the report as Markdown, with every finding.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = format!("# From ingress-nginx to podpin\n\n{}\n\n{}\n", self.summary(), self.verdict());
        for (heading, lines) in self.lists() {
            if !lines.is_empty() {
                line(&mut out, &format!("\n## {heading}\n"));
                lines.iter().for_each(|text| line(&mut out, &format!("- {text}")));
            }
        }
        line(&mut out, "\n## Settings\n\n| object | setting | value | class | |\n|---|---|---|---|---|");
        for finding in &self.findings {
            let allowed = if finding.is_allowed { ", allowed" } else { "" };
            let cells = [&finding.object, &finding.setting, &finding.value].map(|text| cell(text));
            let [object, setting, value] = cells;
            let (class, note) = (finding.class, cell(&finding.note));
            line(&mut out, &format!("| {object} | `{setting}` | {value} | {class}{allowed} | {note} |"));
        }
        out
    }

    /// Returns the report as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let finding = |finding: &Finding| {
            serde_json::json!({
                "object": finding.object,
                "setting": finding.setting,
                "value": finding.value,
                "class": finding.class.words(),
                "note": finding.note,
                "protection": finding.protection.map(Protection::name),
                "allowed": finding.is_allowed,
            })
        };
        let whole = serde_json::json!({
            "ingresses": self.ingresses,
            "routes": self.routes,
            "services": self.services,
            "verdict": self.verdict(),
            "counts": self.counts().iter().map(|(class, number)| (class.words().to_owned(), (*number).into()))
                .collect::<serde_json::Map<_, _>>(),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "withheld": self.withheld,
            "skipped": self.skipped,
            "steps": self.steps,
        });
        format!("{whole:#}\n")
    }
}

impl Finding {
    fn sentence(&self) -> String {
        let mut text = self.setting.clone();
        if !self.value.is_empty() {
            // Writing to a string cannot fail.
            let _infallible = write!(text, " = {:?}", self.value);
        }
        if !self.note.is_empty() {
            text.push_str(": ");
            text.push_str(&self.note);
        }
        text
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Returns `text` as a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}
