//! Which keys exist: one table, so that messages, documentation and tests agree about what a file may say.
//!
//! Shapes are paths without names and indices: `services.*.sse` is the section `sse` of any service, `routes[]` any route.

/// The keys of one kind of mapping.
struct Shape {
    shape: &'static str,
    keys: &'static [&'static str],
}

const fn shape(shape: &'static str, keys: &'static [&'static str]) -> Shape {
    Shape { shape, keys }
}

/// Every mapping of the contract whose keys are words.
const SHAPES: &[Shape] = &[
    shape(
        "",
        &[
            "listeners",
            "admin",
            "workers",
            "trustedProxies",
            "limits",
            "affinityKeys",
            "accessLog",
            "routes",
            "services",
            "shutdown",
            "kubernetes",
        ],
    ),
    shape("listeners[]", &["name", "address", "h2c", "tls", "proxyProtocol"]),
    shape("listeners[].tls", &["minVersion", "certificates", "clientAuth", "ticketKeys", "plainHttp"]),
    shape("listeners[].tls.ticketKeys[]", &["file"]),
    shape("listeners[].tls.clientAuth", &["caFile", "mode", "advertise", "forward"]),
    shape("listeners[].tls.certificates[]", &["certFile", "keyFile"]),
    shape("admin", &["address", "hostnames", "token"]),
    shape("admin.token", &["file"]),
    shape(
        "limits",
        &[
            "connections",
            "connectionsPerClientIP",
            "requests",
            "requestsPerConnection",
            "requestHeaderBytes",
            "ambiguousPaths",
            "headersWithUnderscores",
            "requestHeaderTimeout",
            "requestBodyTimeout",
            "keepAliveTimeout",
            "http2Ping",
            "tcpUserTimeout",
            "tcpKeepAlive",
        ],
    ),
    shape("limits.tcpKeepAlive", &["idle", "interval", "count"]),
    shape("affinityKeys[]", &["id", "file"]),
    shape("accessLog", &["path"]),
    shape(
        "routes[]",
        &[
            "name",
            "hostnames",
            "listeners",
            "matches",
            "service",
            "backends",
            "headers",
            "cors",
            "redirect",
            "rewrite",
        ],
    ),
    shape("routes[].backends[]", &["service", "weight"]),
    shape("routes[].matches[]", &["path", "headers"]),
    shape("routes[].matches[].headers[]", &["name", "type", "value"]),
    shape("routes[].headers", &["request", "response"]),
    shape("routes[].headers.request", &["set", "add", "remove"]),
    shape("routes[].headers.response", &["set", "add", "remove"]),
    shape("routes[].cors", &["origins", "credentials", "methods", "headers", "maxAge"]),
    shape("routes[].redirect", &["scheme", "statusCode"]),
    shape("routes[].rewrite", &["pathPrefix", "hostname"]),
    shape("routes[].matches[].path", &["type", "value"]),
    shape(
        "services.*",
        &[
            "discovery",
            "protocol",
            "balance",
            "affinity",
            "drain",
            "sse",
            "websocket",
            "timeouts",
            "retries",
            "limits",
            "health",
            "tls",
        ],
    ),
    shape("services.*.discovery", &["static", "file", "kubernetes", "dns"]),
    shape("services.*.discovery.static[]", &["name", "address", "zone", "weight"]),
    shape("services.*.discovery.file", &["path"]),
    shape("services.*.discovery.kubernetes", &["namespace", "service", "port", "pods", "ipFamily"]),
    shape("services.*.discovery.dns", &["name", "port", "interval", "resolver"]),
    shape("services.*.balance", &["strategy", "slowStart", "zone", "rebalance"]),
    shape("services.*.balance.rebalance", &["threshold", "budgetPerSecond"]),
    shape(
        "services.*.affinity",
        &["cookie", "header", "query", "clientIP", "absoluteTimeout", "onUnavailable", "queue"],
    ),
    shape("services.*.affinity.clientIP", &["ipv4Prefix", "ipv6Prefix"]),
    shape("services.*.affinity.queue", &["length", "timeout"]),
    shape(
        "services.*.affinity.cookie",
        &["name", "path", "domain", "maxAge", "sameSite", "secure", "httpOnly", "partitioned", "forward"],
    ),
    shape(
        "services.*.drain",
        &[
            "pinned",
            "spread",
            "timeout",
            "margin",
            "order",
            "handover",
            "handoverTimeout",
            "handoversPerStream",
            "replayIds",
            "budget",
            "returnWindow",
            "closeTimeout",
        ],
    ),
    shape("services.*.drain.budget", &["perSecond", "percent"]),
    shape("services.*.drain.handoversPerStream", &["limit", "window"]),
    shape(
        "services.*.sse",
        &["keepAlive", "retry", "reconnect", "maxDuration", "unavailable", "acceptEncoding", "eventBytesMax"],
    ),
    shape("services.*.sse.retry", &["normal", "drain", "shutdown"]),
    shape("services.*.sse.retry.drain", &["min", "max"]),
    shape("services.*.sse.retry.shutdown", &["min", "max"]),
    shape("services.*.sse.reconnect", &["perSecond"]),
    shape("services.*.websocket", &["closeCode", "closeReason", "ping"]),
    shape(
        "services.*.timeouts",
        &["connect", "responseHeader", "upstreamIdle", "clientWrite", "keepAlive", "upgradeIdle"],
    ),
    shape("services.*.retries", &["attempts", "statuses"]),
    shape("services.*.limits", &["streamsPerEndpoint", "streamsPerClient", "streamsPerClientIP"]),
    shape("services.*.health", &["passive", "active"]),
    shape("services.*.health.passive", &["failures", "ejection", "statuses"]),
    shape(
        "services.*.health.active",
        &["type", "path", "service", "interval", "timeout", "failures", "successes"],
    ),
    shape("services.*.tls", &["serverName", "caFile", "certFile", "keyFile", "verify"]),
    shape("kubernetes", &["kubeconfig", "context", "initialListTimeout"]),
    shape("shutdown", &["announce", "spread", "timeout"]),
];

/// The known keys of the mapping `shape`.
pub(crate) fn keys(shape: &str) -> impl Iterator<Item = &'static str> {
    SHAPES.iter().filter(move |known| known.shape == shape).flat_map(|known| known.keys.iter().copied())
}

/// Whether `key` is a key of the mapping `shape`.
pub(crate) fn is_known(shape: &str, key: &str) -> bool {
    keys(shape).any(|known| known == key)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn full(shape: &str, key: &str) -> String {
        if shape.is_empty() { key.to_owned() } else { format!("{shape}.{key}") }
    }

    /// Every key of the contract as documentation writes it.
    fn all_keys() -> BTreeSet<String> {
        let keys = SHAPES.iter().flat_map(|known| known.keys.iter().map(|key| full(known.shape, key)));
        keys.map(|key| key.replace('*', "<name>")).collect()
    }

    fn read(path: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
    }

    #[test]
    fn the_documentation_has_a_row_for_every_key_and_for_no_other() {
        let page = read("docs/configuration.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let documented: BTreeSet<String> = rows.map(|(key, _)| key.to_owned()).collect();
        assert_eq!(documented, all_keys());
    }

    #[test]
    fn the_reference_file_shows_every_key() {
        let reference = read("config/podpin.yaml");
        for known in SHAPES {
            for key in keys(known.shape) {
                assert!(reference.contains(&format!("{key}:")), "{} {key}", known.shape);
            }
        }
    }

    #[test]
    fn every_shape_is_a_section_of_another() {
        let keys = all_keys();
        for known in SHAPES.iter().filter(|known| !known.shape.is_empty()) {
            let section = known.shape.trim_end_matches("[]").trim_end_matches(".*");
            assert!(keys.contains(&section.replace('*', "<name>")), "{}", known.shape);
        }
    }
}
