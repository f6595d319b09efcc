//! Good files: what the proxy is handed.

use std::{path::PathBuf, time::Duration};

use podpin_config::*;

use crate::{in_a_service, parse, with_the_rest};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// The service `chat` of a file with these keys in it.
pub(crate) fn service(keys: &str) -> Service {
    parse(&in_a_service(keys)).service("chat").cloned().expect("the frame has a service chat")
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_shortest_file_has_the_defaults_of_the_contract() {
    let config = parse(&with_the_rest(""));
    let listener = Listener {
        name: "http".into(),
        address: "0.0.0.0:8080".parse().unwrap(),
        h2c: false,
        tls: None,
        proxy_protocol: ProxyProtocol::Off,
    };
    assert_eq!(config.listeners, [listener]);
    assert_eq!(config.admin.address, "127.0.0.1:9901".parse().unwrap());
    assert_eq!((config.workers, config.trusted_proxies.len()), (None, 0));
    let limits = ListenerLimits {
        connections: 50_000,
        connections_per_client_ip: None,
        requests: 50_000,
        requests_per_connection: Some(1_000),
        request_header_bytes: 32_768,
        ambiguous_paths: AmbiguousPaths::Refuse,
        headers_with_underscores: HeadersWithUnderscores::Pass,
        request_header_timeout: seconds(10),
        request_body_timeout: seconds(60),
        keep_alive_timeout: seconds(75),
        http2_ping: None,
        tcp_user_timeout: Some(MINUTE),
        tcp_keep_alive: Some(TcpKeepAlive { idle: seconds(30), interval: seconds(10), count: 3 }),
    };
    assert_eq!(config.limits, limits);
    assert_eq!((config.affinity_keys, config.access_log), (AffinityKeys::Absent, AccessLog::Stdout));
    let route = Route {
        name: "chat".into(),
        listeners: vec![],
        hosts: vec![],
        matches: vec![RouteMatch { path: PathMatch::Prefix("/".into()), headers: [].into() }],
        backends: vec![Backend { service: "chat".into(), weight: 1 }],
        filters: RouteFilters::default(),
    };
    assert_eq!(config.routes, [route]);
    assert_eq!(config.services.len(), 1);
    let shutdown = Shutdown { announce: seconds(5), spread: seconds(15), timeout: seconds(30) };
    assert_eq!(config.shutdown, shutdown);
}

fn default_sse() -> Sse {
    Sse {
        keep_alive: Some(seconds(15)),
        retry: RetryHint {
            normal: Some(seconds(3)),
            drain_min: seconds(1),
            drain_max: seconds(10),
            shutdown_min: Duration::from_millis(500),
            shutdown_max: seconds(2),
        },
        reconnects_per_second: None,
        max_duration: None,
        unavailable: Unavailable::Retry,
        accept_encoding: AcceptEncoding::Auto,
        event_bytes_max: 1_048_576,
    }
}

/// Limits of a service that configures none.
const LIMITS: ServiceLimits = ServiceLimits {
    streams_per_endpoint: Some(10_000),
    streams_per_client: None,
    streams_per_client_ip: None,
};

/// The drain of a service that says nothing about it.
fn default_drain() -> Drain {
    Drain {
        pinned: Pinned::Repin,
        spread: seconds(20),
        timeout: seconds(30),
        margin: seconds(2),
        order: Order::Oldest,
        budget: None,
        handover: Handover::None,
        handover_timeout: seconds(5),
        handovers_per_stream: HandoverLimit { limit: 5, window: MINUTE },
        replay_ids: 64,
        return_window: seconds(30),
        close_timeout: seconds(5),
    }
}

#[test]
fn a_service_has_the_defaults_of_the_contract() {
    let cookie = CookieAttributes {
        name: "podpin-chat".into(),
        path: "/".into(),
        domain: None,
        max_age: Some(DAY),
        same_site: SameSite::Lax,
        secure: Secure::Auto,
        http_only: true,
        partitioned: false,
        forward: false,
    };
    let expected = Service {
        name: "chat".into(),
        protocol: Protocol::Http1,
        discovery: Discovery::Static(vec![]),
        balance: Balance {
            strategy: Strategy::LeastStreams,
            slow_start: Some(seconds(30)),
            zone: ZonePreference::None,
            rebalance: None,
        },
        affinity: Affinity {
            cookie: Some(cookie),
            header: None,
            query: None,
            client_ip: None,
            absolute_timeout: DAY,
            on_unavailable: OnUnavailable::Repin,
        },
        drain: default_drain(),
        sse: default_sse(),
        websocket: WebSocket { close_code: 1012, close_reason: "service restart".to_owned(), ping: None },
        timeouts: Timeouts {
            connect: seconds(2),
            response_header: Some(seconds(60)),
            upstream_idle: None,
            client_write: Some(seconds(30)),
            keep_alive: Some(seconds(4)),
            upgrade_idle: None,
        },
        retries: Retries { attempts: 2, statuses: vec![502, 503, 504] },
        limits: LIMITS,
        health: Health {
            passive: Some(PassiveHealth { failures: 5, ejection: seconds(15), statuses: Vec::new() }),
            active: None,
        },
        tls: None,
    };
    assert_eq!(service(""), expected);
}

#[test]
fn limits_of_the_listeners() {
    let read = |words: &str| parse(&with_the_rest(&format!("limits: {{{words}}}"))).limits;
    let set = read(
        "connectionsPerClientIP: 20, requestsPerConnection: 7, tcpUserTimeout: 1500ms, tcpKeepAlive: {idle: 1m}",
    );
    assert_eq!((set.connections_per_client_ip, set.requests_per_connection), (Some(20), Some(7)));
    assert_eq!(
        (read("http2Ping: 30s").http2_ping, read("http2Ping: off").http2_ping),
        (Some(seconds(30)), None)
    );
    assert_eq!(set.requests, 50_000);
    assert_eq!(read("connections: 70").requests, 70, "as many as connections");
    assert_eq!(read("connections: 70, requests: 9").requests, 9);
    assert_eq!(set.tcp_user_timeout, Some(Duration::from_millis(1_500)));
    assert_eq!(set.tcp_keep_alive, Some(TcpKeepAlive { idle: MINUTE, interval: seconds(10), count: 3 }));
    let off = read(
        "connectionsPerClientIP: off, requestsPerConnection: off, tcpUserTimeout: off, tcpKeepAlive: off",
    );
    assert_eq!((off.connections_per_client_ip, off.requests_per_connection), (None, None));
    assert_eq!((off.tcp_user_timeout, off.tcp_keep_alive), (None, None));
}

#[test]
fn a_proxy_header_is_asked_of_trusted_proxies() {
    let read = |word: &str| {
        let listener = format!("listeners: [{{name: http, address: 0.0.0.0:8080, proxyProtocol: {word}}}]");
        let config = parse(&with_the_rest(&format!("trustedProxies: [10.0.0.0/8]\n{listener}")));
        config.listeners.first().map(|listener| listener.proxy_protocol)
    };
    assert_eq!(read("required"), Some(ProxyProtocol::Required));
    assert_eq!(read("optional"), Some(ProxyProtocol::Optional));
    for off in ["off", "\"off\"", "false", "null"] {
        assert_eq!(read(off), Some(ProxyProtocol::Off));
    }
}

#[test]
fn tls_to_the_pods() {
    let read = |words: &str| service(&format!("tls: {{{words}}}")).tls.unwrap();
    let plain = read("serverName: pod.test");
    assert_eq!((plain.server_name.as_deref(), plain.verify), (Some("pod.test"), true));
    assert_eq!((plain.ca_file, plain.certificate), (None, None));
    let full = read("serverName: '10.0.0.1', caFile: ca.pem, certFile: /a.crt, keyFile: a.key, verify: true");
    assert_eq!(full.server_name.as_deref(), Some("10.0.0.1"));
    assert_eq!(full.ca_file.unwrap().file, PathBuf::from("/etc/podpin/ca.pem"));
    let shown = full.certificate.unwrap();
    assert_eq!((shown.cert_file.file, shown.key_file.file), ("/a.crt".into(), "/etc/podpin/a.key".into()));
    let unchecked = read("verify: false");
    assert_eq!((unchecked.server_name, unchecked.verify), (None, false));
}

#[test]
fn null_sections_and_values_are_the_defaults() {
    let all = "balance: null\naffinity: {cookie: null, header: null, absoluteTimeout: ~}\ndrain:\nsse: {keepAlive: , retry: {drain: null}}\ntimeouts:\nretries:\nlimits:\nhealth: {passive: null, active: null}\ntls: null";
    assert_eq!(service(all), service(""));
    let top = "kubernetes: null\nadmin:\nworkers:\ntrustedProxies:\nlimits:\naffinityKeys:\naccessLog:\nshutdown: null";
    assert_eq!(parse(&with_the_rest(top)), parse(&with_the_rest("")));
}

#[test]
fn the_contract_is_read_in_full() {
    let config = parse(include_str!("contract.yaml"));
    assert_eq!(config.workers, Some(2));
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
    let file = |id: &str, file: &str, line| KeyFile {
        id: id.into(),
        file: PathBuf::from("/etc/podpin").join(file),
        at: Position { line, column: 20 },
    };
    let files = vec![file("k2", "keys/k2", 19), file("k1", "keys/k1", 20)];
    assert_eq!(config.affinity_keys, AffinityKeys::Files(files));
    let route = Route {
        name: "stream".into(),
        listeners: vec![],
        hosts: vec![Host::Exact("app.example.com".into())],
        matches: vec![RouteMatch { path: PathMatch::Prefix("/events".into()), headers: [].into() }],
        backends: vec![Backend { service: "chat".into(), weight: 1 }],
        filters: RouteFilters::default(),
    };
    assert_eq!(config.routes, [route]);
    let endpoint = StaticEndpoint {
        name: "pod-a".into(),
        address: EndpointAddress::Ip("127.0.0.1:9001".parse().unwrap()),
        zone: None,
        weight: 1,
    };
    let expected = Service { discovery: Discovery::Static(vec![endpoint]), ..service("") };
    assert_eq!(config.services, [expected]);
}

#[test]
fn clients_are_recognised_by_what_is_written() {
    let text = "affinity: {cookie: off, header: Mcp-Session-Id, query: sid, clientIP: {ipv4Prefix: 24}}";
    let affinity = service(text).affinity;
    assert_eq!(
        (affinity.header.as_deref(), affinity.query.as_deref()),
        (Some("mcp-session-id"), Some("sid"))
    );
    assert_eq!(affinity.client_ip, Some(ClientIp { ipv4_prefix_bits: 24, ipv6_prefix_bits: 64 }));
    let affinity = service("affinity: {header: off, query: off, clientIP: off}").affinity;
    assert_eq!((affinity.header, affinity.query, affinity.client_ip), (None, None, None));
    let affinity = service("affinity: {clientIP: {}}").affinity;
    assert_eq!(affinity.client_ip, Some(ClientIp { ipv4_prefix_bits: 32, ipv6_prefix_bits: 64 }));
}

#[test]
fn off_in_all_its_spellings_switches_off() {
    for off in ["off", "\"off\"", "'off'", "false"] {
        let neither = Health { passive: None, active: None };
        assert_eq!(service(&format!("health: {{passive: {off}, active: {off}}}")).health, neither);
        assert_eq!(service(&format!("health: {off}")).health, neither);
        let balance =
            service(&format!("balance: {{slowStart: {off}, zone: {off}, rebalance: {off}}}")).balance;
        assert_eq!(balance.slow_start, None);
        assert_eq!(service(&format!("affinity: {{cookie: {off}, header: {off}}}")).affinity.cookie, None);
        let sse = service(&format!(
            "sse: {{keepAlive: {off}, retry: {{normal: {off}}}, reconnect: {off}, maxDuration: {off}}}"
        ))
        .sse;
        assert_eq!((sse.keep_alive, sse.retry.normal, sse.max_duration), (None, None, None));
        assert_eq!(sse.reconnects_per_second, None);
        let keys = format!("timeouts: {{responseHeader: {off}, upstreamIdle: {off}, clientWrite: {off}}}");
        let timeouts = service(&keys).timeouts;
        assert_eq!(
            (timeouts.response_header, timeouts.upstream_idle, timeouts.client_write),
            (None, None, None)
        );
        let limits =
            service(&format!("limits: {{streamsPerEndpoint: {off}, streamsPerClient: {off}}}")).limits;
        assert_eq!((limits.streams_per_endpoint, limits.streams_per_client), (None, None));
        assert_eq!(service(&format!("drain: {{budget: {off}}}\ntls: {off}")).drain, Drain::default());
        assert_eq!(parse(&with_the_rest(&format!("accessLog: {off}"))).access_log, AccessLog::Off);
        let listener = format!("listeners: [{{name: http, address: 0.0.0.0:8080, h2c: {off}, tls: {off}}}]");
        assert_eq!(parse(&with_the_rest(&listener)).listeners.first().map(|l| l.h2c), Some(false));
    }
}

#[test]
fn what_is_the_default_may_be_written_out() {
    let keys = "balance: {zone: none}\naffinity: {onUnavailable: repin}\ndrain: {pinned: repin, handover: none, budget: off}";
    assert_eq!(service(keys), service(""));
}

#[test]
fn cookie_attributes_are_read() {
    let keys = "affinity: {absoluteTimeout: 9600h, cookie: {name: __Host-pin, maxAge: session, sameSite: None, secure: true, httpOnly: false, partitioned: true, forward: true}}";
    let affinity = service(keys).affinity;
    let expected = CookieAttributes {
        name: "__Host-pin".into(),
        path: "/".into(),
        domain: None,
        max_age: None,
        same_site: SameSite::None,
        secure: Secure::Always,
        http_only: false,
        partitioned: true,
        forward: true,
    };
    assert_eq!((affinity.cookie, affinity.absolute_timeout), (Some(expected), 400 * DAY));
    let keys =
        "affinity: {cookie: {path: /app, domain: Example.COM, maxAge: 1h30m, sameSite: Strict, secure: off}}";
    let cookie = service(keys).affinity.cookie.unwrap();
    assert_eq!((cookie.path.as_str(), cookie.domain.as_deref()), ("/app", Some("example.com")));
    assert_eq!(
        (cookie.max_age, cookie.same_site, cookie.secure),
        (Some(90 * MINUTE), SameSite::Strict, Secure::Never)
    );
}

#[test]
fn services_may_share_a_cookie_name_on_different_paths() {
    let text = "services:\n  a: {discovery: {static: []}, affinity: {cookie: {name: pin, path: /a}}}\n  b: {discovery: {static: []}, affinity: {cookie: {name: pin, path: /b}}}\nroutes: [{service: a}]";
    assert_eq!(parse(&with_the_rest(text)).services.len(), 2);
}

#[test]
fn services_may_share_a_cookie_name_where_no_host_reaches_both() {
    let text = |routes: &str| {
        let service = |name: &str| {
            format!(
                "  {name}: {{discovery: {{static: []}}, affinity: {{cookie: {{name: pin, sameSite: off}}}}}}\n"
            )
        };
        with_the_rest(&format!("services:\n{}{}routes: [{routes}]", service("a"), service("b")))
    };
    let on = |host: &str, service: &str| format!("{{hostnames: [{host}], service: {service}}}");
    for (one, other) in [("a.example", "b.example"), ("\"*.a.example\"", "a.example")] {
        let config = parse(&text(&format!("{}, {}", on(one, "a"), on(other, "b"))));
        assert_eq!(config.services[0].affinity.cookie.as_ref().unwrap().same_site, SameSite::Unset);
    }
    for (one, other) in [("a.example", "\"*.example\""), ("\"*.b.example\"", "\"*.example\"")] {
        let refused = text(&format!("{}, {}", on(one, "a"), on(other, "b")));
        let error = Config::parse(&refused, "podpin.yaml", std::path::Path::new("")).unwrap_err();
        assert!(error.to_string().contains("one host reaches both"), "{error}");
    }
}

#[test]
fn two_routes_with_one_match_are_for_different_listeners() {
    let listeners = "listeners: [{name: http, address: 127.0.0.1:1}, {name: inside, address: 127.0.0.1:2}]\n";
    let routes = |one: &str, other: &str| {
        let route = |name: &str, more: &str| format!("{{name: {name}, service: chat{more}}}");
        with_the_rest(&format!("{listeners}routes: [{}, {}]", route("a", one), route("b", other)))
    };
    let config = parse(&routes(", listeners: [http]", ", listeners: [inside]"));
    assert!(config.routes[0].is_on("http") && !config.routes[0].is_on("inside"));
    assert_ne!(config.routes[0].identity(), config.routes[1].identity());
    for other in ["", ", listeners: [inside, http]"] {
        let refused = routes(", listeners: [http]", other);
        let error = Config::parse(&refused, "podpin.yaml", std::path::Path::new("")).unwrap_err();
        assert!(error.to_string().contains("ambiguous"), "{error}");
    }
}

#[test]
fn numbers_and_words_of_a_service_are_read() {
    let keys = "balance: {strategy: roundRobin, slowStart: 1m, zone: prefer}\nsse: {keepAlive: 1s, retry: {normal: 250ms, drain: {min: 5s, max: 5s}, shutdown: {min: 1s, max: 3s}}, reconnect: {perSecond: 500}, maxDuration: 1h30m, unavailable: status, acceptEncoding: identity, eventBytesMax: 64KiB}\ntimeouts: {connect: 1.5s, responseHeader: 5s, upstreamIdle: 45s, clientWrite: 1m, keepAlive: off, upgradeIdle: 2m}\nwebsocket: {closeCode: 4000, closeReason: back soon, ping: 30s}\nretries: {attempts: 0, statuses: []}\nlimits: {streamsPerEndpoint: 7, streamsPerClient: 6, streamsPerClientIP: 60}\nhealth: {passive: {failures: 1, statuses: [500, 503]}}";
    let service = service(keys);
    let expected = Balance {
        strategy: Strategy::RoundRobin,
        slow_start: Some(MINUTE),
        zone: ZonePreference::Prefer,
        rebalance: None,
    };
    assert_eq!(service.balance, expected);
    let retry = RetryHint {
        normal: Some(Duration::from_millis(250)),
        drain_min: seconds(5),
        drain_max: seconds(5),
        shutdown_min: seconds(1),
        shutdown_max: seconds(3),
    };
    let sse = Sse {
        keep_alive: Some(seconds(1)),
        retry,
        reconnects_per_second: Some(500),
        max_duration: Some(90 * MINUTE),
        unavailable: Unavailable::Status,
        accept_encoding: AcceptEncoding::Identity,
        event_bytes_max: 65_536,
    };
    assert_eq!(service.sse, sse);
    let timeouts = Timeouts {
        connect: Duration::from_millis(1_500),
        response_header: Some(seconds(5)),
        upstream_idle: Some(seconds(45)),
        client_write: Some(MINUTE),
        keep_alive: None,
        upgrade_idle: Some(2 * MINUTE),
    };
    assert_eq!(service.timeouts, timeouts);
    let websocket =
        WebSocket { close_code: 4_000, close_reason: "back soon".to_owned(), ping: Some(seconds(30)) };
    assert_eq!(service.websocket, websocket);
    assert_eq!(service.retries, Retries { attempts: 0, statuses: Vec::new() });
    let limits = ServiceLimits {
        streams_per_endpoint: Some(7),
        streams_per_client: Some(6),
        streams_per_client_ip: Some(60),
    };
    assert_eq!(service.limits, limits);
    let passive = PassiveHealth { failures: 1, ejection: seconds(15), statuses: vec![500, 503] };
    assert_eq!(service.health, Health { passive: Some(passive), active: None });
}

#[test]
fn pods_speak_http_1_unless_told() {
    let of = |keys: &str| service(keys).protocol;
    assert_eq!((of(""), of("protocol: http1")), (Protocol::Http1, Protocol::Http1));
    assert_eq!((of("protocol: h2c"), of("protocol: grpc")), (Protocol::H2c, Protocol::Grpc));
    let tls = "tls: {serverName: chat.internal}";
    assert_eq!(of(&format!("protocol: h2\n{tls}")), Protocol::H2);
    assert_eq!(of(&format!("protocol: grpc\n{tls}")), Protocol::Grpc);
    assert!(Protocol::H2c.is_http2() && !Protocol::Http1.is_http2());
}

#[test]
fn active_checks_are_read() {
    let of = |text: &str| service(&format!("health: {{active: {text}}}")).health.active.unwrap();
    let default = ActiveHealth {
        probe: Probe::Tcp,
        interval: seconds(5),
        timeout: seconds(1),
        failures: 3,
        successes: 1,
    };
    assert_eq!(of("{}"), default);
    assert_eq!(of("{type: tcp}"), default);
    let http = |path: &str| ActiveHealth { probe: Probe::Http { path: path.into() }, ..default.clone() };
    assert_eq!(of("{path: /healthz}"), http("/healthz"));
    assert_eq!(of("{type: http}"), http("/"));
    let all = ActiveHealth {
        interval: Duration::from_millis(100),
        timeout: seconds(2),
        failures: 1,
        successes: 4,
        ..http("/up?deep=1")
    };
    let text = "{type: http, path: \"/up?deep=1\", interval: 100ms, timeout: 2s, failures: 1, successes: 4}";
    assert_eq!(of(text), all);
    assert_eq!(service("health: {active: {}}").health.passive, Some(PassiveHealth::default()));
    let grpc = |service: &str| Probe::Grpc { service: service.into() };
    let probe = |text: &str| {
        let keys = format!("protocol: grpc\nhealth: {{active: {text}}}");
        service(&keys).health.active.unwrap().probe
    };
    assert_eq!(probe("{type: grpc}"), grpc(""));
    assert_eq!(probe("{type: grpc, service: chat.v1.Chat}"), grpc("chat.v1.Chat"));
}

#[test]
fn what_becomes_of_a_client_whose_pin_cannot_be_used_is_read() {
    let of = |keys: &str| service(&format!("affinity: {{{keys}}}")).affinity.on_unavailable;
    assert_eq!(of("onUnavailable: strict"), OnUnavailable::Strict);
    let queue = |length, timeout| OnUnavailable::Wait(WaitQueue { length, timeout });
    assert_eq!(of("onUnavailable: wait"), queue(1_000, seconds(10)));
    assert_eq!(of("onUnavailable: wait, queue: {length: 5, timeout: 1m}"), queue(5, MINUTE));
}

#[test]
fn paths_of_files_are_relative_to_the_configuration() {
    let text = "accessLog: {path: logs/a.json}\naffinityKeys: [{id: k, file: /run/k}]\nservices: {chat: {discovery: {file: {path: ../e.yaml}}}}";
    let config = parse(&with_the_rest(text));
    assert_eq!(config.access_log, AccessLog::File("/etc/podpin/logs/a.json".into()));
    let AffinityKeys::Files(files) = &config.affinity_keys else { panic!("no key files") };
    assert_eq!(files[0].file, PathBuf::from("/run/k"));
    assert_eq!(config.services[0].discovery, Discovery::File("/etc/podpin/../e.yaml".into()));
    assert_eq!(parse(&with_the_rest("accessLog: {path: '-'}")).access_log, AccessLog::Stdout);
    assert_eq!(parse(&with_the_rest("affinityKeys: ephemeral")).affinity_keys, AffinityKeys::Ephemeral);
}

#[test]
fn listeners_may_share_a_port_on_different_addresses_and_take_free_ports() {
    let text = "listeners:\n  - {name: a, address: 127.0.0.1:8080}\n  - {name: b, address: '[::1]:8080', h2c: true}\n  - {name: c, address: 127.0.0.1:0}\n  - {name: d, address: 127.0.0.1:0}";
    let config = parse(&with_the_rest(text));
    assert_eq!(config.listeners.iter().map(|l| l.h2c).collect::<Vec<_>>(), [false, true, false, false]);
}

#[test]
fn anchors_windows_line_ends_and_a_byte_order_mark_are_read() {
    let text = "services:\n  a: {discovery: {static: []}, sse: &quick {keepAlive: 1s}}\n  b: {discovery: {static: []}, sse: *quick}\nroutes: [{service: a}]\nworkers: 0";
    let text = format!("\u{feff}{}", with_the_rest(text)).replace('\n', "\r\n");
    let error = Config::parse(&text, "podpin.yaml", "".as_ref()).unwrap_err();
    assert_eq!(error.to_string(), "podpin.yaml:5:10: workers: must be between 1 and 1024; found 0");
    let first = Config::parse("\u{feff}workers: 0\n", "podpin.yaml", "".as_ref()).unwrap_err();
    assert_eq!(first.problems.iter().map(|problem| problem.column).collect::<Vec<_>>(), [1, 1, 1, 10]);
    let config = parse(&text.replace("workers: 0", "workers: 1"));
    assert_eq!(config.service("b").unwrap().sse.keep_alive, Some(seconds(1)));
    assert_eq!(config.service("c"), None);
}
