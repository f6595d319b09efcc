//! The settings of one object, each of which ends as a finding: what no translation has judged is judged by its row.

use std::collections::{BTreeMap, BTreeSet};

use crate::class::{Class, Protection};
use crate::known::{Known, lookup};
use crate::report::Finding;
use crate::words;

/// Longest value that a report repeats, in characters.
const VALUE_CHARS_MAX: usize = 80;

/// Settings by their names without a prefix, and the findings about them so far.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    object: String,
    table: &'static [Known],
    values: BTreeMap<&'a str, &'a str>,
    judged: BTreeMap<&'a str, Judgement>,
    /// Findings about parts of the object that are no settings by name.
    others: Vec<Finding>,
}

#[derive(Clone, Debug)]
struct Judgement {
    class: Class,
    notes: Vec<String>,
    protection: Option<Protection>,
}

impl<'a> Settings<'a> {
    /// `object` is its name in the report.
    pub(crate) fn new(
        object: String,
        table: &'static [Known],
        values: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let values = values.into_iter().collect();
        Self { object, table, values, judged: BTreeMap::new(), others: Vec::new() }
    }

    /// Returns the value of `name` without space around it; `None` if it is not there or empty.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.values.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.values.keys().copied()
    }

    /// Returns a flag; one that is no flag is reported, and nginx ignores it.
    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        let flag = words::flag(self.text(name)?);
        if flag.is_none() {
            self.ignored(name, "not `true` or `false`");
        }
        flag
    }

    /// Returns a number of seconds; one that is none is reported, and nginx ignores it.
    pub(crate) fn seconds(&mut self, name: &str) -> Option<u64> {
        let seconds = words::seconds(self.text(name)?);
        if seconds.is_none() {
            self.ignored(name, "not a number of seconds");
        }
        seconds
    }

    /// Returns a number; one that is none is reported, and nginx ignores it.
    pub(crate) fn number(&mut self, name: &str) -> Option<u64> {
        let number = self.text(name)?.parse().ok();
        if number.is_none() {
            self.ignored(name, "not a number");
        }
        number
    }

    /// Reports a value that nginx ignores.
    pub(crate) fn ignored(&mut self, name: &str, fault: &str) {
        self.judge(name, Class::Approximate, &format!("{fault}: ignored, as the controller does"));
    }

    pub(crate) fn exact(&mut self, name: &str) {
        self.judge(name, Class::Exact, "");
    }

    /// Reports a setting that is taken over with the difference that its row has.
    pub(crate) fn approximate(&mut self, name: &str) {
        self.judge_by_row(name, Class::Approximate);
    }

    /// Reports a setting by `class`, with the note of its row.
    pub(crate) fn judge_by_row(&mut self, name: &str, class: Class) {
        let note = lookup(self.table, name).map_or("", |known| known.note);
        self.judge(name, class, note);
    }

    /// Reports a setting. Of several judgements the worst counts, with the notes of all.
    pub(crate) fn judge(&mut self, name: &str, class: Class, note: &str) {
        let Some((name, _)) = self.values.get_key_value(name) else { return };
        let protection = lookup(self.table, name).and_then(|known| known.protection);
        let judgement = self.judged.entry(name).or_insert(Judgement { class, notes: Vec::new(), protection });
        judgement.class = judgement.class.max(class);
        if !note.is_empty() && !judgement.notes.iter().any(|known| known == note) {
            judgement.notes.push(note.to_owned());
        }
    }

    /// Reports a part of the object that is no setting by name.
    pub(crate) fn note(&mut self, part: &str, value: &str, class: Class, note: &str) {
        let finding = Finding {
            object: self.object.clone(),
            setting: part.to_owned(),
            value: words::excerpt(value, VALUE_CHARS_MAX),
            class,
            note: note.to_owned(),
            protection: None,
            is_allowed: false,
        };
        if !self.others.contains(&finding) {
            self.others.push(finding);
        }
    }

    /// Judges the rest by the table; `unknown` has the class and the note for names that are in none of its rows.
    pub(crate) fn judge_rest(&mut self, unknown: &dyn Fn(&str) -> (Class, &'static str)) {
        let open = self.values.iter().filter(|(name, _)| !self.judged.contains_key(*name));
        for (name, value) in open.map(|(name, value)| (*name, *value)).collect::<Vec<_>>() {
            match lookup(self.table, name) {
                Some(known) if value.trim().is_empty() && known.protection.is_none() => {
                    self.judge(name, Class::NotNeeded, "empty");
                }
                Some(known) => self.judge(name, known.worst(), known.note),
                None => {
                    let (class, note) = unknown(name);
                    self.judge(name, class, note);
                }
            }
        }
    }

    /// Returns the names of settings that protect and are lost, but for those that `allowed` has by name or protection.
    pub(crate) fn lost(&self, allowed: &BTreeSet<String>) -> Vec<&'a str> {
        let is_lost = |judgement: &Judgement, name: &str| {
            judgement.class == Class::Protecting && !is_allowed(allowed, name, judgement.protection)
        };
        self.judged
            .iter()
            .filter(|(name, judgement)| is_lost(judgement, name))
            .map(|(name, _)| *name)
            .collect()
    }

    /// Returns all findings in the order of names, those about other parts last.
    pub(crate) fn into_findings(mut self, allowed: &BTreeSet<String>) -> Vec<Finding> {
        let object = &self.object;
        let values = &self.values;
        let finding = |(name, judgement): (&&str, &Judgement)| Finding {
            object: object.clone(),
            setting: (*name).to_owned(),
            value: words::excerpt(values.get(name).copied().unwrap_or_default(), VALUE_CHARS_MAX),
            class: judgement.class,
            note: judgement.notes.join("; "),
            protection: judgement.protection.filter(|_| judgement.class == Class::Protecting),
            is_allowed: judgement.class == Class::Protecting
                && is_allowed(allowed, name, judgement.protection),
        };
        let mut findings: Vec<Finding> = self.judged.iter().map(finding).collect();
        findings.append(&mut self.others);
        findings
    }
}

fn is_allowed(allowed: &BTreeSet<String>, name: &str, protection: Option<Protection>) -> bool {
    allowed.contains(name) || protection.is_some_and(|protection| allowed.contains(protection.name()))
}
