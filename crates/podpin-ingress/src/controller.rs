//! The controller's ConfigMap, translated: listeners, limits, and the defaults of all Ingresses.

use ipnet::IpNet;
use podpin_config::rule;

use crate::class::Class;
use crate::defaults::{Defaults, YEAR_SECONDS};
use crate::object::Objects;
use crate::settings::Settings;
use crate::translate::{editable, reference, strategy};
use crate::tree::{Map, Tree};
use crate::words;

/// Translates the ConfigMap of a controller in `namespace`.
pub(crate) fn translate(settings: &mut Settings<'_>, namespace: &str, objects: &Objects) -> Defaults {
    let mut to = Defaults::default();
    proxies(settings, &mut to);
    clients(settings, &mut to);
    upstream(settings, &mut to);
    transport_security(settings, &mut to);
    redirects(settings, &mut to);
    header_fields(settings, namespace, objects, &mut to);
    switches(settings);
    to
}

fn proxies(settings: &mut Settings<'_>, to: &mut Defaults) {
    const RANGES: &str = "proxy-real-ip-cidr";
    let ranges = settings.text(RANGES).unwrap_or_default();
    let wants: Vec<&str> = ["use-proxy-protocol", "use-forwarded-headers", "enable-real-ip"]
        .into_iter()
        .filter(|name| settings.flag(name) == Some(true))
        .collect();
    for name in ["use-proxy-protocol", "use-forwarded-headers", "enable-real-ip"] {
        if settings.text(name).and_then(words::flag) == Some(false) {
            settings.judge(name, Class::NotNeeded, "off");
        }
    }
    if wants.is_empty() {
        settings.judge(RANGES, Class::NotNeeded, "of no effect without `use-forwarded-headers` and its like");
        return;
    }
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for range in words::list(ranges) {
        let parsed =
            range.parse::<IpNet>().ok().or_else(|| range.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        match parsed {
            Some(net) if net.prefix_len() > 0 => good.push(net.to_string()),
            _ => bad.push(range),
        }
    }
    if !bad.is_empty() {
        let note = format!(
            "left out: {}: everybody could say who they are; name the load balancer's addresses",
            bad.join(", ")
        );
        settings.judge(RANGES, Class::Approximate, &note);
    }
    settings.exact(RANGES);
    for name in &wants {
        if good.is_empty() {
            let note = "not taken over: write the load balancer's addresses into `trustedProxies`, for nginx's default is everybody";
            settings.judge(name, Class::Approximate, note);
        }
        settings.exact(name);
    }
    to.proxy_protocol = wants.contains(&"use-proxy-protocol") && !good.is_empty();
    to.trusted = good;
}

fn clients(settings: &mut Settings<'_>, to: &mut Defaults) {
    let seconds: [(&str, &str, u64); 3] = [
        ("keep-alive", "keepAliveTimeout", 3_600),
        ("client-header-timeout", "requestHeaderTimeout", 300),
        ("client-body-timeout", "requestBodyTimeout", 3_600),
    ];
    for (name, key, max) in seconds {
        let Some(seconds) = settings.seconds(name) else { continue };
        if seconds == 0 || seconds > max {
            settings.judge(name, Class::Approximate, &format!("1s to {}", words::duration(max)));
        }
        if name == "client-header-timeout" {
            settings.approximate(name);
        }
        settings.exact(name);
        to.limits.set_from(&[key], Tree::word(words::duration(seconds.clamp(1, max))), name);
    }
    if let Some(number) = settings.number("keep-alive-requests").filter(|number| *number > 0) {
        settings.exact("keep-alive-requests");
        let number = Tree::word(number.min(1_000_000_000));
        to.limits.set_from(&["requestsPerConnection"], number, "keep-alive-requests");
    }
    if let Some(bytes) = settings.text("large-client-header-buffers").and_then(buffers) {
        let bytes = Tree::word(bytes.clamp(1 << 10, 1 << 20));
        to.limits.set_from(&["requestHeaderBytes"], bytes, "large-client-header-buffers");
    }
    if let Some(number) = settings.number("max-worker-connections").filter(|number| *number > 0) {
        settings.approximate("max-worker-connections");
        to.limits.set_from(&["connections"], Tree::word(number.min(10_000_000)), "max-worker-connections");
    }
    if settings.flag("enable-underscores-in-headers") == Some(true) {
        to.limits.set_from(&["headersWithUnderscores"], Tree::text("pass"), "enable-underscores-in-headers");
    }
    settings.exact("enable-underscores-in-headers");
    if let Some(seconds) = settings.seconds("worker-shutdown-timeout") {
        // Longer ones were for streams, which podpin ends by itself; the Deployment's grace period bounds both.
        let seconds = seconds.clamp(30, 600);
        let (announce, timeout) = (Tree::word("5s"), Tree::word(words::duration(seconds)));
        to.shutdown = Map::of([("announce", announce), ("spread", Tree::word(words::duration(seconds / 2)))]);
        to.shutdown.set_from(&["timeout"], timeout, "worker-shutdown-timeout");
        settings.approximate("worker-shutdown-timeout");
    }
}

/// Returns the bytes of `number size`, such as `4 8k`.
fn buffers(text: &str) -> Option<u64> {
    let (number, size) = text.split_once(' ')?;
    let size = size.trim().to_ascii_lowercase();
    let unit = if size.ends_with('k') {
        1 << 10
    } else if size.ends_with('m') {
        1 << 20
    } else {
        1
    };
    let size: u64 = size.trim_end_matches(['k', 'm']).parse().ok()?;
    number.trim().parse::<u64>().ok()?.checked_mul(size)?.checked_mul(unit)
}

fn upstream(settings: &mut Settings<'_>, to: &mut Defaults) {
    if let Some(seconds) = settings.seconds("proxy-connect-timeout").filter(|seconds| *seconds > 0) {
        to.connect = seconds;
        settings.exact("proxy-connect-timeout");
        if seconds > 300 {
            settings.judge("proxy-connect-timeout", Class::Approximate, "at most 5m");
        }
    }
    to.read = settings.seconds("proxy-read-timeout").filter(|seconds| *seconds > 0);
    if let Some(tries) = settings.number("proxy-next-upstream-tries") {
        to.attempts = Some(if tries == 0 { 10 } else { (tries - 1).min(10) });
        settings.judge(
            "proxy-next-upstream-tries",
            if tries == 0 { Class::Approximate } else { Class::Exact },
            "",
        );
    }
    if let Some(when) = settings.text("proxy-next-upstream") {
        let is = |word| when.split_whitespace().any(|condition| condition == word);
        match (is("off"), is("non_idempotent")) {
            (true, _) => {
                to.attempts = Some(0);
                settings.exact("proxy-next-upstream");
            }
            (false, true) => settings.judge_by_row("proxy-next-upstream", Class::NotSupported),
            (false, false) => settings.approximate("proxy-next-upstream"),
        }
    }
    if let Some((word, class)) = settings.text("load-balance").and_then(strategy) {
        to.strategy = Some(word);
        settings.judge("load-balance", class, "");
    }
    if let Some(protocols) = settings.text("ssl-protocols") {
        let listed: Vec<&str> = protocols.split_whitespace().collect();
        let is_13_only = listed == ["TLSv1.3"];
        let is_today = listed.iter().all(|word| ["TLSv1.2", "TLSv1.3"].contains(word));
        to.min_tls = Some(if is_13_only { "1.3" } else { "1.2" });
        let class = if is_today { Class::Exact } else { Class::Approximate };
        settings.judge("ssl-protocols", class, if is_today { "" } else { "older versions are gone" });
    }
}

fn transport_security(settings: &mut Settings<'_>, to: &mut Defaults) {
    let names = ["hsts-max-age", "hsts-include-subdomains", "hsts-preload"];
    if settings.flag("hsts") == Some(false) {
        to.hsts = None;
        settings.judge("hsts", Class::NotNeeded, "off");
        names.iter().for_each(|name| settings.judge(name, Class::Exact, "of no effect without `hsts`"));
        return;
    }
    let age = settings.seconds("hsts-max-age").unwrap_or(YEAR_SECONDS);
    let mut value = format!("max-age={age}");
    if settings.flag("hsts-include-subdomains") != Some(false) {
        value.push_str("; includeSubDomains");
    }
    if settings.flag("hsts-preload") == Some(true) {
        value.push_str("; preload");
    }
    to.hsts = Some(value);
    settings.exact("hsts");
    names.iter().for_each(|name| settings.exact(name));
}

fn redirects(settings: &mut Settings<'_>, to: &mut Defaults) {
    if let Some(number) = settings.number("http-redirect-code") {
        match u16::try_from(number).ok().filter(|code| [301, 302, 307, 308].contains(code)) {
            Some(code) => {
                to.redirect_code = code;
                settings.exact("http-redirect-code");
            }
            None => settings.ignored("http-redirect-code", "not 301, 302, 307 or 308"),
        }
    }
    if let Some(flag) = settings.flag("ssl-redirect") {
        to.ssl_redirect = flag;
        settings.exact("ssl-redirect");
    }
    if let Some(flag) = settings.flag("force-ssl-redirect") {
        to.is_redirect_forced = flag;
        settings.exact("force-ssl-redirect");
    }
}

fn header_fields(settings: &mut Settings<'_>, namespace: &str, objects: &Objects, to: &mut Defaults) {
    for (name, direction) in [("add-headers", "response"), ("proxy-set-headers", "request")] {
        let Some(text) = settings.text(name) else { continue };
        let map = reference(text, namespace);
        let Some(fields) = objects.config_maps.get(&map) else {
            settings.judge(name, Class::NotSupported, &format!("the ConfigMap {map} is not in the input"));
            continue;
        };
        let (good, bad) = editable(fields);
        for (field, value) in good {
            let path = ["headers", direction, "set", field];
            to.route.set_from(&path, Tree::text(value), &format!("ConfigMap {map}"));
        }
        if !bad.is_empty() {
            settings.judge(name, Class::NotSupported, &format!("left out: {}", bad.join(", ")));
        }
        settings.exact(name);
    }
    if let Some(text) = settings.text("hide-headers") {
        let (good, bad): (Vec<&str>, Vec<&str>) =
            words::list(text).partition(|name| rule::may_edit_header(name));
        if !bad.is_empty() {
            settings.judge("hide-headers", Class::NotSupported, &format!("left out: {}", bad.join(", ")));
        }
        settings.exact("hide-headers");
        if !good.is_empty() {
            to.route.set(&["headers", "response", "remove"], Tree::texts(good));
        }
    }
}

/// Judges flags whose value decides whether anything is lost.
fn switches(settings: &mut Settings<'_>) {
    let off = [
        "use-gzip",
        "enable-brotli",
        "use-http3",
        "use-http2",
        "enable-opentelemetry",
        "enable-opentracing",
        "enable-modsecurity",
        "enable-owasp-modsecurity-crs",
        "enable-syslog",
        "retry-non-idempotent",
        "use-port-in-redirects",
        "relative-redirects",
        "service-upstream",
        "disable-access-log",
        "proxy-add-original-uri-header",
    ];
    for name in off {
        if settings.text(name).and_then(words::flag) == Some(false) {
            settings.judge(name, Class::NotNeeded, "off");
        }
    }
    let harmless: [(&str, &[&str]); 7] = [
        ("proxy-http-version", &["1.1"]),
        ("proxy-body-size", &["0", "0m"]),
        ("proxy-cookie-domain", &["off"]),
        ("proxy-cookie-path", &["off"]),
        ("proxy-redirect-from", &["off", "default"]),
        ("forwarded-for-header", &["X-Forwarded-For"]),
        ("use-http2", &["true"]),
    ];
    for (name, values) in harmless {
        if settings.text(name).is_some_and(|text| values.contains(&text)) {
            settings.judge(name, Class::NotNeeded, "");
        }
    }
    for name in ["limit-rate", "limit-rate-after", "proxy-next-upstream-timeout"] {
        if settings.text(name) == Some("0") {
            settings.judge(name, Class::NotNeeded, "0: without a limit");
        }
    }
}
