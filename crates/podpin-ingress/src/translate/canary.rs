//! A canary: whose requests go to it.

use podpin_config::rule;

use crate::class::Class;
use crate::settings::Settings;
use crate::tree::{Map, Tree};
use crate::words;

/// podpin's largest weight.
const WEIGHT_MAX: u64 = 1_000_000;

/// The rules of a canary, in the order in which nginx goes by them.
#[derive(Debug, Default)]
pub(crate) struct Canary {
    /// Header matches with whether requests that have them go to the canary.
    pub(crate) matches: Vec<(Map, bool)>,
    /// Weights of the canary and of the main service.
    pub(crate) weights: [u64; 2],
}

pub(super) fn translate(settings: &mut Settings<'_>) -> Option<Canary> {
    if settings.flag("canary") != Some(true) {
        if settings.text("canary").is_some_and(|text| words::flag(text) == Some(false)) {
            settings.judge("canary", Class::NotNeeded, "off");
        }
        for name in settings.names().filter(|name| name.starts_with("canary-")).collect::<Vec<_>>() {
            settings.judge(name, Class::Exact, "of no effect without `canary`");
        }
        return None;
    }
    settings.exact("canary");
    let mut canary = Canary::default();
    by_header(settings, &mut canary);
    by_cookie(settings, &mut canary);
    let total = settings.number("canary-weight-total").filter(|total| *total > 0).unwrap_or(100);
    let weight = settings.number("canary-weight").unwrap_or(0);
    let shown = weight.min(total);
    if weight > total {
        settings.judge("canary-weight", Class::Approximate, "more than the total: every client");
    }
    settings.exact("canary-weight");
    settings.exact("canary-weight-total");
    canary.weights = scaled([shown, total - shown], total);
    if total > WEIGHT_MAX {
        settings.judge("canary-weight-total", Class::Approximate, "weights are at most 1000000 in podpin");
    }
    Some(canary)
}

fn scaled(weights: [u64; 2], total: u64) -> [u64; 2] {
    if total <= WEIGHT_MAX {
        return weights;
    }
    let scale = |weight: u64| {
        let scaled = u128::from(weight) * u128::from(WEIGHT_MAX) / u128::from(total);
        u64::try_from(scaled).unwrap_or(WEIGHT_MAX)
    };
    weights.map(scale)
}

fn header(name: &str, kind: &str, value: &str) -> Map {
    let mut map = Map::of([("name", Tree::text(name))]);
    if kind != "Exact" {
        map.set(&["type"], Tree::text(kind));
    }
    map.set(&["value"], Tree::text(value));
    map
}

fn by_header(settings: &mut Settings<'_>, canary: &mut Canary) {
    const NAME: &str = "canary-by-header";
    let (value, pattern) = ("canary-by-header-value", "canary-by-header-pattern");
    let Some(name) = settings.text(NAME) else {
        for name in [value, pattern] {
            settings.judge(name, Class::NotSupported, "of no effect without `canary-by-header`");
        }
        return;
    };
    if !rule::is_token(name) || name.eq_ignore_ascii_case("host") {
        for one in [NAME, value, pattern] {
            settings.judge(one, Class::NotSupported, "not the name of a header that podpin can match");
        }
        return;
    }
    settings.exact(NAME);
    if let Some(text) = settings.text(value) {
        if rule::is_field_value(text) {
            canary.matches.push((header(name, "Exact", text), true));
            settings.exact(value);
        } else {
            settings.judge(value, Class::NotSupported, "not the value of a header");
        }
        settings.judge(pattern, Class::NotSupported, "`canary-by-header-value` goes before it");
    } else if let Some(text) = settings.text(pattern) {
        let anywhere = format!(".*(?:{text}).*");
        match rule::refuse_expression(text).or_else(|| rule::refuse_expression(&anywhere)) {
            None => {
                canary.matches.push((header(name, "RegularExpression", &anywhere), true));
                settings.approximate(pattern);
            }
            Some(fault) => settings.judge(pattern, Class::NotSupported, &fault),
        }
    } else {
        canary.matches.push((header(name, "Exact", "always"), true));
        canary.matches.push((header(name, "Exact", "never"), false));
    }
}

fn by_cookie(settings: &mut Settings<'_>, canary: &mut Canary) {
    const NAME: &str = "canary-by-cookie";
    let Some(name) = settings.text(NAME) else { return };
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        settings.judge(NAME, Class::NotSupported, "not the name of a cookie that podpin can match");
        return;
    }
    for (word, is_canary) in [("always", true), ("never", false)] {
        let value = format!("(?:.*; *)?{name}={word}(?:;.*)?");
        canary.matches.push((header("Cookie", "RegularExpression", &value), is_canary));
    }
    settings.exact(NAME);
}
