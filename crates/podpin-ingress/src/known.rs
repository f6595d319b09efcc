//! Tables of settings that are known: annotations of an Ingress and keys of the controller's ConfigMap.
//!
//! docs/migration.md shows the same tables, and a test compares them. A row with one class needs no code: its note is the
//! report. Where a row has several, the code that translates it decides by the value, and the last of them is taken if it
//! does not.

mod annotations;
mod controller;

pub use annotations::ANNOTATIONS;
pub use controller::CONTROLLER_KEYS;

use crate::class::{Class, Protection};

/// A setting that is known.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The name, without a prefix. A star at its end stands for any rest.
    pub name: &'static str,
    /// The keys of podpin that it becomes, or a dash.
    pub target: &'static str,
    /// Classes that it may have, by its value.
    pub classes: &'static [Class],
    /// The difference, or the way around.
    pub note: &'static str,
    /// What is lost with it, if it protects.
    pub protection: Option<Protection>,
}

impl Known {
    /// Returns the class of a setting that no translation has judged: the worst that it may have.
    #[must_use]
    pub fn worst(&self) -> Class {
        self.classes.iter().copied().max().unwrap_or(Class::NotSupported)
    }
}

/// Returns whether `name` is that of something that may be lost: a protection, or a setting that protects.
#[must_use]
pub fn is_loss(name: &str) -> bool {
    let protects = |table| lookup(table, name).is_some_and(|known| known.protection.is_some());
    Protection::ALL.iter().any(|one| one.name() == name) || protects(ANNOTATIONS) || protects(CONTROLLER_KEYS)
}

/// Returns the row for `name` in `table`; `None` if it is unknown.
#[must_use]
pub fn lookup<'a>(table: &'a [Known], name: &str) -> Option<&'a Known> {
    let stem = |known: &&Known| known.name.strip_suffix('*').is_some_and(|stem| name.starts_with(stem));
    table.iter().find(|known| known.name == name).or_else(|| table.iter().find(stem))
}

const A: &[Class] = &[Class::Approximate];
const D: &[Class] = &[Class::NotNeeded];
const R: &[Class] = &[Class::NotSupported];
const S: &[Class] = &[Class::Protecting];
const E_A: &[Class] = &[Class::Exact, Class::Approximate];
const E_R: &[Class] = &[Class::Exact, Class::NotSupported];
const E_A_R: &[Class] = &[Class::Exact, Class::Approximate, Class::NotSupported];
const A_R: &[Class] = &[Class::Approximate, Class::NotSupported];
const A_S: &[Class] = &[Class::NotNeeded, Class::Approximate, Class::Protecting];
const D_A: &[Class] = &[Class::NotNeeded, Class::Approximate];
const D_R: &[Class] = &[Class::NotNeeded, Class::NotSupported];
const D_S: &[Class] = &[Class::NotNeeded, Class::Protecting];

/// A setting that becomes a key, or is not needed.
const fn row(
    name: &'static str,
    target: &'static str,
    classes: &'static [Class],
    note: &'static str,
) -> Known {
    Known { name, target, classes, note, protection: None }
}

/// A setting without a counterpart.
const fn none(name: &'static str, classes: &'static [Class], note: &'static str) -> Known {
    Known { name, target: "-", classes, note, protection: None }
}

/// A setting that protects.
const fn guard(
    name: &'static str,
    classes: &'static [Class],
    protection: Protection,
    note: &'static str,
) -> Known {
    Known { name, target: "-", classes, note, protection: Some(protection) }
}
