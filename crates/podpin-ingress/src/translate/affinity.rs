//! How a returning client is recognised: the cookie, or a hash.

use podpin_config::rule;

use super::Translation;
use crate::class::Class;
use crate::known::{ANNOTATIONS, lookup};
use crate::settings::Settings;
use crate::tree::{Map, Tree};
use crate::words;

/// podpin's longest `maxAge` and `absoluteTimeout`.
const AGE_SECONDS_MAX: u64 = 9_600 * 3_600;
const DAY_SECONDS: u64 = 86_400;

pub(super) fn translate(settings: &mut Settings<'_>, to: &mut Translation) {
    let is_cookie = match settings.text("affinity") {
        Some("cookie") => {
            settings.exact("affinity");
            true
        }
        Some(_) => {
            settings.judge("affinity", Class::NotSupported, "the controller knows `cookie` only");
            false
        }
        None => false,
    };
    match settings.text("affinity-mode") {
        Some("persistent") => settings.exact("affinity-mode"),
        Some(_) => settings.approximate("affinity-mode"),
        None => {}
    }
    canary_behaviour(settings);
    if is_cookie {
        cookie(settings, &mut to.service);
        if settings.text("upstream-hash-by").is_some() {
            settings.judge("upstream-hash-by", Class::Exact, "nginx uses the cookie where both are there");
        }
        return;
    }
    to.service.set_from(&["affinity", "cookie"], Tree::word("off"), "nginx pins nobody without `affinity`");
    hash(settings, &mut to.service);
    for name in settings.names().filter(|name| name.starts_with("session-cookie-")).collect::<Vec<_>>() {
        if lookup(ANNOTATIONS, name).is_some_and(|known| known.classes.contains(&Class::Exact)) {
            settings.judge(name, Class::Exact, "of no effect without `affinity: cookie`");
        }
    }
}

/// Judges what becomes of clients when a canary has been withdrawn.
pub(super) fn canary_behaviour(settings: &mut Settings<'_>) {
    const NAME: &str = "affinity-canary-behavior";
    match settings.text(NAME) {
        Some("legacy") => {
            settings.judge(NAME, Class::NotSupported, "a client always keeps the service that it has")
        }
        Some(_) => settings.exact(NAME),
        None => {}
    }
}

fn cookie(settings: &mut Settings<'_>, service: &mut Map) {
    settings.approximate("session-cookie-name");
    age(settings, service);
    path(settings, service);
    if let Some(domain) = settings.text("session-cookie-domain") {
        let bare = domain.trim_start_matches('.').to_ascii_lowercase();
        match rule::refuse_dns_name(&bare) {
            None => {
                service.set(&["affinity", "cookie", "domain"], Tree::text(bare));
                settings.exact("session-cookie-domain");
            }
            Some(fault) => settings.judge("session-cookie-domain", Class::NotSupported, &fault),
        }
    }
    let secure = settings.flag("session-cookie-secure");
    attributes(settings, service, secure);
    match settings.flag("session-cookie-change-on-failure") {
        Some(true) => settings.exact("session-cookie-change-on-failure"),
        Some(false) => settings.approximate("session-cookie-change-on-failure"),
        None => {}
    }
}

fn age(settings: &mut Settings<'_>, service: &mut Map) {
    let max_age = settings.seconds("session-cookie-max-age");
    let expires = settings.seconds("session-cookie-expires");
    if max_age.is_some() {
        settings.judge("session-cookie-expires", Class::Exact, "`session-cookie-max-age` goes before it");
    }
    let name = if max_age.is_some() { "session-cookie-max-age" } else { "session-cookie-expires" };
    let path = ["affinity", "cookie", "maxAge"];
    let Some(seconds) = max_age.or(expires).filter(|seconds| *seconds > 0) else {
        service.set_from(&path, Tree::text("session"), "nginx writes no Max-Age");
        settings.judge(name, Class::Exact, "0: until the browser closes");
        return;
    };
    if seconds > AGE_SECONDS_MAX {
        settings.judge(name, Class::Approximate, "at most 9600h");
    }
    settings.exact(name);
    let seconds = seconds.min(AGE_SECONDS_MAX);
    service.set_from(&path, Tree::word(words::duration(seconds)), name);
    if seconds > DAY_SECONDS {
        service.set_from(&["affinity", "absoluteTimeout"], Tree::word(words::duration(seconds)), name);
    }
}

fn path(settings: &mut Settings<'_>, service: &mut Map) {
    const NAME: &str = "session-cookie-path";
    let Some(text) = settings.text(NAME) else { return };
    let (path, rest) = text.split_once(';').map_or((text, ""), |(path, rest)| (path.trim(), rest.trim()));
    if !rest.is_empty() {
        let note = format!("`{rest}` is no part of a path: see `session-cookie-secure` and its like");
        settings.judge(NAME, Class::Approximate, &note);
    }
    let fits = path.starts_with('/') && path.len() <= 1_024 && path.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        service.set(&["affinity", "cookie", "path"], Tree::text(path));
        settings.exact(NAME);
    } else {
        settings.judge(NAME, Class::Approximate, "no path of a cookie: `/` is written");
    }
}

fn attributes(settings: &mut Settings<'_>, service: &mut Map, secure: Option<bool>) {
    let partitioned = settings.flag("session-cookie-partitioned");
    let same_site = settings.text("session-cookie-samesite").unwrap_or_default().to_ascii_lowercase();
    let word = match same_site.as_str() {
        "strict" => "Strict",
        "lax" => "Lax",
        "none" => "None",
        "" => "off",
        _ => {
            settings.ignored("session-cookie-samesite", "not `Strict`, `Lax` or `None`");
            "off"
        }
    };
    settings.exact("session-cookie-samesite");
    service.set(&["affinity", "cookie", "sameSite"], Tree::text(word));
    let needs_secure = word == "None" || partitioned == Some(true);
    match secure {
        Some(true) => {
            service.set(&["affinity", "cookie", "secure"], Tree::word("true"));
            settings.exact("session-cookie-secure");
        }
        Some(false) if needs_secure => {
            let note = "browsers refuse such a cookie without `Secure`: `auto`";
            settings.judge("session-cookie-secure", Class::Approximate, note);
        }
        Some(false) => {
            service.set(&["affinity", "cookie", "secure"], Tree::word("false"));
            settings.exact("session-cookie-secure");
        }
        None => {}
    }
    if let Some(partitioned) = partitioned {
        settings.exact("session-cookie-partitioned");
        if partitioned {
            service.set(&["affinity", "cookie", "partitioned"], Tree::word("true"));
        }
    }
}

fn hash(settings: &mut Settings<'_>, service: &mut Map) {
    const NAME: &str = "upstream-hash-by";
    let Some(text) = settings.text(NAME) else { return };
    let by = text.trim_matches('"').trim();
    let variable = by.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let variable = variable.or_else(|| by.strip_prefix('$')).unwrap_or_default();
    match variable {
        "remote_addr" | "binary_remote_addr" | "http_x_forwarded_for" => {
            let bits = Map::of([("ipv4Prefix", Tree::word(32)), ("ipv6Prefix", Tree::word(128))]);
            service.set(&["affinity", "clientIP"], Tree::Map(bits));
            if variable == "http_x_forwarded_for" {
                settings.judge(
                    NAME,
                    Class::Exact,
                    "podpin reads `X-Forwarded-For` from `trustedProxies` only",
                );
            }
        }
        _ if name_after(variable, "http_").is_some() => {
            let header = name_after(variable, "http_").unwrap_or_default().replace('_', "-");
            let refused = ["host", "connection", "cookie", "content-length", "te", "transfer-encoding"];
            if refused.contains(&header.as_str()) || !rule::may_edit_header(&header) {
                settings.judge(NAME, Class::NotSupported, "this field is rewritten on the way");
                return;
            }
            service.set(&["affinity", "header"], Tree::text(header));
        }
        _ if name_after(variable, "arg_").is_some() => {
            let name = name_after(variable, "arg_").unwrap_or_default();
            service.set(&["affinity", "query"], Tree::text(name));
        }
        _ => {
            settings.judge_by_row(NAME, Class::NotSupported);
            return;
        }
    }
    settings.exact(NAME);
    match settings.flag("upstream-hash-by-subset") {
        Some(false) => settings.judge("upstream-hash-by-subset", Class::NotNeeded, ""),
        Some(true) => settings.judge_by_row("upstream-hash-by-subset", Class::NotSupported),
        None => {}
    }
}

/// Returns the name behind `prefix` if it is one and nothing else.
fn name_after<'a>(variable: &'a str, prefix: &str) -> Option<&'a str> {
    let name = variable.strip_prefix(prefix)?;
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (is_name && !name.is_empty() && name.len() <= 100).then_some(name)
}
