//! Who may use a route from pages of other origins.

use podpin_config::rule;

use super::Translation;
use crate::class::Class;
use crate::settings::Settings;
use crate::tree::{Map, Tree};
use crate::words;

/// nginx's own lists, which podpin's differ from.
const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";
const MAX_AGE: u64 = 1_728_000;
const MAX_AGE_MAX: u64 = 86_400;

const NAMES: [&str; 6] = [
    "cors-allow-origin",
    "cors-allow-methods",
    "cors-allow-headers",
    "cors-allow-credentials",
    "cors-max-age",
    "cors-expose-headers",
];

pub(super) fn translate(settings: &mut Settings<'_>, to: &mut Translation) {
    if settings.flag("enable-cors") != Some(true) {
        if settings.text("enable-cors").and_then(words::flag) == Some(false) {
            settings.judge("enable-cors", Class::NotNeeded, "off");
        }
        for name in NAMES {
            settings.judge(name, Class::NotNeeded, "of no effect without `enable-cors`");
        }
        return;
    }
    let (origins, dropped) = origins(settings.text("cors-allow-origin").unwrap_or("*"));
    if !dropped.is_empty() {
        let note = format!("podpin compares origins byte by byte; left out: {}", dropped.join(", "));
        let class = if origins.is_empty() { Class::NotSupported } else { Class::Approximate };
        settings.judge("cors-allow-origin", class, &note);
    }
    if origins.is_empty() {
        settings.judge("enable-cors", Class::NotSupported, "no origin is left: the pods' own answers decide");
        NAMES
            .iter()
            .for_each(|name| settings.judge(name, Class::Approximate, "of no effect: no origin is left"));
        return;
    }
    settings.exact("cors-allow-origin");
    settings.judge_by_row("enable-cors", Class::Approximate);
    let mut cors = Map::of([("origins", Tree::texts(origins.iter().map(String::as_str)))]);
    let credentials = settings.flag("cors-allow-credentials");
    let is_any = origins.iter().any(|origin| origin == "*");
    if credentials != Some(false) && is_any {
        let note = "not with `*`: every page could act as its visitor; name the origins";
        settings.judge("cors-allow-credentials", Class::Approximate, note);
    } else {
        cors.set(&["credentials"], Tree::word(credentials != Some(false)));
        settings.exact("cors-allow-credentials");
    }
    for (name, key, default) in
        [("cors-allow-methods", "methods", METHODS), ("cors-allow-headers", "headers", HEADERS)]
    {
        let text = settings.text(name).unwrap_or(default);
        let (good, bad): (Vec<&str>, Vec<&str>) =
            words::list(text).partition(|word| rule::is_token(word) && *word != "*");
        if !bad.is_empty() {
            settings.judge(name, Class::Approximate, &format!("left out: {}", bad.join(", ")));
        }
        settings.exact(name);
        cors.set(&[key], Tree::texts(good));
    }
    let age = settings.seconds("cors-max-age").unwrap_or(MAX_AGE);
    if age > MAX_AGE_MAX {
        settings.approximate("cors-max-age");
    }
    settings.exact("cors-max-age");
    cors.set(&["maxAge"], Tree::word(words::duration(age.min(MAX_AGE_MAX))));
    to.route.set(&["cors"], Tree::Map(cors));
    expose(settings, to);
}

fn expose(settings: &mut Settings<'_>, to: &mut Translation) {
    const NAME: &str = "cors-expose-headers";
    let Some(text) = settings.text(NAME) else { return };
    if rule::is_field_value(text) {
        let path = ["headers", "response", "set", "Access-Control-Expose-Headers"];
        to.route.set_from(&path, Tree::text(text), NAME);
        settings.approximate(NAME);
    } else {
        settings.judge(NAME, Class::Approximate, "not the value of a header: left out");
    }
}

/// Returns the origins that podpin can compare, without repetitions, and the others. `*` stands alone.
fn origins(text: &str) -> (Vec<String>, Vec<&str>) {
    let (mut good, mut dropped) = (Vec::new(), Vec::new());
    for origin in words::list(text) {
        if origin == "*" {
            return (vec!["*".to_owned()], Vec::new());
        }
        match normal_origin(origin) {
            Some(normal) if good.contains(&normal) => {}
            Some(normal) => good.push(normal),
            None => dropped.push(origin),
        }
    }
    (good, dropped)
}

/// Returns an origin as browsers write it.
fn normal_origin(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (scheme, authority) = lower.split_once("://")?;
    let is_scheme = scheme.bytes().all(|b| b.is_ascii_lowercase());
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
        None => (authority, None),
    };
    if scheme.is_empty() || !is_scheme || rule::refuse_dns_name(host).is_some() {
        return None;
    }
    match (scheme, port) {
        (_, None) | ("https", Some(443)) | ("http", Some(80)) => Some(format!("{scheme}://{host}")),
        (_, Some(port)) => Some(format!("{scheme}://{host}:{port}")),
    }
}
