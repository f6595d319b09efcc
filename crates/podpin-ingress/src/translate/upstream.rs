//! The way to the pods: times, tries, protocol, TLS and balance.

use podpin_config::rule;

use super::{Surroundings, Translation, strict_reference};
use crate::class::Class;
use crate::defaults::Defaults;
use crate::settings::Settings;
use crate::tree::{Map, Tree};
use crate::words;

/// podpin's bounds, in seconds.
const CONNECT_MAX: u64 = 300;
const RESPONSE_HEADER_MAX: u64 = 3_600;

/// Silence that is taken for a fault of the pod; longer times are written by those who want no stream to be cut.
const IDLE_BELOW: u64 = 600;

const ATTEMPTS_MAX: u64 = 10;

const GRPC_NOTE: &str =
    "calls are streams: `grpc-timeout` is their only time limit, and drains wait for them (docs/grpc.md)";

pub(super) fn translate(
    settings: &mut Settings<'_>,
    namespace: &str,
    around: &Surroundings<'_>,
    to: &mut Translation,
) {
    times(settings, around.defaults, &mut to.service);
    tries(settings, around.defaults, &mut to.service);
    balance(settings, around.defaults, &mut to.service);
    protocol(settings, namespace, around, to);
    limits(settings, &mut to.service);
    harmless(settings);
}

fn times(settings: &mut Settings<'_>, defaults: &Defaults, service: &mut Map) {
    let own = settings.seconds("proxy-connect-timeout").filter(|seconds| *seconds > 0);
    let connect = own.unwrap_or(defaults.connect);
    let shown = Tree::word(words::duration(connect.clamp(1, CONNECT_MAX)));
    let from = if own.is_some() { "proxy-connect-timeout" } else { "the controller's proxy-connect-timeout" };
    service.set_from(&["timeouts", "connect"], shown, from);
    match own {
        Some(seconds) if seconds > CONNECT_MAX => settings.approximate("proxy-connect-timeout"),
        Some(_) => settings.exact("proxy-connect-timeout"),
        None => settings.judge("proxy-connect-timeout", Class::Approximate, "0: nginx's default"),
    }
    let read = settings.seconds("proxy-read-timeout").filter(|seconds| *seconds > 0);
    if settings.text("proxy-read-timeout").is_some() {
        settings.approximate("proxy-read-timeout");
    }
    if let Some(seconds) = read.or(defaults.read) {
        let from = if read.is_some() { "proxy-read-timeout" } else { "the controller's proxy-read-timeout" };
        let head = words::duration(seconds.min(RESPONSE_HEADER_MAX));
        service.set_from(&["timeouts", "responseHeader"], Tree::word(head), from);
        if seconds < IDLE_BELOW {
            service.set_from(&["timeouts", "upstreamIdle"], Tree::word(words::duration(seconds)), from);
        }
    }
}

fn tries(settings: &mut Settings<'_>, defaults: &Defaults, service: &mut Map) {
    const WHEN: &str = "proxy-next-upstream";
    const TRIES: &str = "proxy-next-upstream-tries";
    let mut attempts = defaults.attempts;
    if let Some(tries) = settings.number(TRIES) {
        let after_first = if tries == 0 { ATTEMPTS_MAX } else { tries - 1 };
        attempts = Some(after_first.min(ATTEMPTS_MAX));
        if tries == 0 || after_first > ATTEMPTS_MAX {
            settings.approximate(TRIES);
        }
        settings.exact(TRIES);
    }
    if let Some(when) = settings.text(WHEN) {
        let conditions: Vec<&str> = when.split_whitespace().collect();
        if conditions.contains(&"off") {
            attempts = Some(0);
            settings.exact(WHEN);
        } else if conditions.contains(&"non_idempotent") {
            settings.judge_by_row(WHEN, Class::NotSupported);
        } else {
            settings.approximate(WHEN);
        }
    }
    if let Some(attempts) = attempts {
        service.set_from(&["retries", "attempts"], Tree::word(attempts), "proxy-next-upstream");
    }
    if settings.text("proxy-next-upstream-timeout") == Some("0") {
        settings.judge("proxy-next-upstream-timeout", Class::NotNeeded, "0: without a limit");
    }
}

/// Returns podpin's word for a strategy of nginx; `None` if it has none.
pub(crate) fn strategy(word: &str) -> Option<(&'static str, Class)> {
    match word {
        "round_robin" => Some(("roundRobin", Class::Exact)),
        "ewma" => Some(("leastStreams", Class::Approximate)),
        _ => None,
    }
}

fn balance(settings: &mut Settings<'_>, defaults: &Defaults, service: &mut Map) {
    let own = settings.text("load-balance");
    match own.map(strategy) {
        Some(Some((word, class))) => {
            service.set_from(&["balance", "strategy"], Tree::text(word), "load-balance");
            settings.judge(
                "load-balance",
                class,
                if class == Class::Exact { "" } else { "`leastStreams` goes by open streams" },
            );
        }
        Some(None) => settings.judge_by_row("load-balance", Class::NotSupported),
        None => {
            if let Some(word) = defaults.strategy {
                service.set_from(&["balance", "strategy"], Tree::text(word), "the controller's load-balance");
            }
        }
    }
}

fn protocol(settings: &mut Settings<'_>, namespace: &str, around: &Surroundings<'_>, to: &mut Translation) {
    const NAME: &str = "backend-protocol";
    let word = settings.text(NAME).unwrap_or("HTTP").to_ascii_uppercase();
    match word.as_str() {
        "HTTP" => settings.judge(NAME, Class::NotNeeded, ""),
        "AUTO_HTTP" => settings.judge(NAME, Class::Approximate, "taken for HTTP"),
        "HTTPS" => {
            tls(settings, namespace, around, to);
            return;
        }
        "GRPC" => {
            to.service.set_from(&["protocol"], Tree::text("grpc"), NAME);
            settings.judge(NAME, Class::Approximate, GRPC_NOTE);
        }
        "GRPCS" => {
            to.service.set_from(&["protocol"], Tree::text("grpc"), NAME);
            settings.judge(NAME, Class::Approximate, GRPC_NOTE);
            tls(settings, namespace, around, to);
            return;
        }
        "FCGI" => {
            settings.judge_by_row(NAME, Class::NotSupported);
            to.withheld.push(format!("backend-protocol {word}"));
        }
        _ => settings.ignored(NAME, "unknown protocol"),
    }
    for name in settings.names().filter(|name| name.starts_with("proxy-ssl-")).collect::<Vec<_>>() {
        if matches!(name, "proxy-ssl-verify" | "proxy-ssl-server-name") {
            settings.judge(name, Class::NotNeeded, "of no effect without `backend-protocol: HTTPS`");
        } else {
            settings.judge(name, Class::Approximate, "of no effect without `backend-protocol: HTTPS`");
        }
    }
}

fn tls(settings: &mut Settings<'_>, namespace: &str, around: &Surroundings<'_>, to: &mut Translation) {
    let is_on = |text: Option<&str>| text.is_some_and(|text| text.eq_ignore_ascii_case("on"));
    let verify = is_on(settings.text("proxy-ssl-verify"));
    let mut map = Map::default();
    let name = settings.text("proxy-ssl-name").map(str::to_ascii_lowercase);
    let name = name.filter(|name| rule::refuse_dns_name(name).is_none());
    match &name {
        Some(name) => {
            map.set_from(&["serverName"], Tree::text(name), "proxy-ssl-name");
            settings.exact("proxy-ssl-name");
        }
        None => settings.judge("proxy-ssl-name", Class::NotSupported, "not a DNS name"),
    }
    if let Some(text) = settings.text("proxy-ssl-secret") {
        match strict_reference(text, namespace) {
            Some(name) => {
                secret(settings, &name, around, &mut map);
                to.secrets.push(name);
            }
            None => {
                settings.judge("proxy-ssl-secret", Class::Approximate, "not the name of a Secret");
                to.withheld.push("proxy-ssl-secret".to_owned());
            }
        }
    }
    if verify && name.is_none() {
        let note = "no `proxy-ssl-name`: podpin has to know the name that certificates are for";
        settings.judge("proxy-ssl-verify", Class::Approximate, note);
        to.withheld.push("proxy-ssl-verify without proxy-ssl-name".to_owned());
    }
    if verify {
        settings.exact("proxy-ssl-verify");
        settings.judge("backend-protocol", Class::Approximate, "TLS to the pods, verified");
    } else {
        map.set_from(
            &["verify"],
            Tree::word("false"),
            "as nginx: whoever answers at a pod's address is believed",
        );
        settings.judge("proxy-ssl-verify", Class::Exact, "");
        let note = "THE PODS' CERTIFICATES ARE NOT CHECKED, as nginx does not: whoever answers at a pod's address can read \
                    and change everything. Set `tls: {serverName, caFile}`";
        settings.judge("backend-protocol", Class::Approximate, note);
    }
    settings.judge_by_row("proxy-ssl-server-name", Class::NotNeeded);
    to.service.set(&["tls"], Tree::Map(map));
}

fn secret(
    settings: &mut Settings<'_>,
    name: &crate::object::ObjectName,
    around: &Surroundings<'_>,
    map: &mut Map,
) {
    const NAME: &str = "proxy-ssl-secret";
    let known = around.objects.secrets.get(name);
    let has = |key: &str| known.is_none_or(|keys| keys.iter().any(|known| known == key));
    let file = |key: &str| Tree::text(format!("{}/{key}", mount_path(name)));
    if has("ca.crt") {
        map.set_from(&["caFile"], file("ca.crt"), NAME);
    }
    if has("tls.crt") && has("tls.key") {
        map.set_from(&["certFile"], file("tls.crt"), NAME);
        map.set_from(&["keyFile"], file("tls.key"), NAME);
    }
    if known.is_none() {
        let note = "the Secret is not in the input: it has to have `ca.crt`, `tls.crt` and `tls.key`, as nginx wants";
        settings.judge(NAME, Class::Approximate, note);
    }
    settings.exact(NAME);
}

/// Returns the directory at which a Secret is mounted.
pub(crate) fn mount_path(name: &crate::object::ObjectName) -> String {
    format!("/etc/podpin-secrets/{}/{}", name.namespace, name.name)
}

fn limits(settings: &mut Settings<'_>, service: &mut Map) {
    let Some(number) = settings.number("limit-connections") else { return };
    if number == 0 {
        settings.judge("limit-connections", Class::NotNeeded, "0: without a limit");
        return;
    }
    settings.approximate("limit-connections");
    let limit = Tree::word(number.min(1_000_000));
    service.set_from(&["limits", "streamsPerClientIP"], limit, "limit-connections");
}

/// Judges settings that ask for what podpin does anyway.
fn harmless(settings: &mut Settings<'_>) {
    let values: [(&str, &[&str], &str); 10] = [
        ("proxy-http-version", &["1.1"], ""),
        ("connection-proxy-header", &["keep-alive", "Keep-Alive"], ""),
        ("proxy-body-size", &["0", "0m", "0k"], "0: without a limit"),
        ("proxy-cookie-domain", &["off"], ""),
        ("proxy-cookie-path", &["off"], ""),
        ("proxy-redirect-from", &["off", "default"], ""),
        ("proxy-redirect-to", &["off", "default"], ""),
        ("service-upstream", &["false"], ""),
        ("enable-access-log", &["true"], ""),
        ("use-port-in-redirects", &["false"], ""),
    ];
    for (name, harmless, note) in values {
        if settings.text(name).is_some_and(|text| harmless.contains(&text)) {
            settings.judge(name, Class::NotNeeded, note);
        }
    }
    for name in ["enable-opentelemetry", "enable-opentracing", "from-to-www-redirect", "ssl-passthrough"] {
        if settings.text(name).and_then(words::flag) == Some(false) {
            settings.judge(name, Class::NotNeeded, "off");
        }
    }
}
