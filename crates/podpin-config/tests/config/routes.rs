//! The services that a route may lead to, and the conditions that it may set for a request.

use std::path::Path;

use podpin_config::{Config, Host, PathMatch, Route, RouteMatch, ValueMatch};

use crate::{parse, with_the_rest};

const TWO: &str = "services: {chat: {discovery: {static: []}}, chat-next: {discovery: {static: []}}}\n";

fn route(text: &str) -> Route {
    let text = if text.contains("chat-next") {
        format!("{TWO}routes: [{text}]")
    } else {
        format!("routes: [{text}]")
    };
    parse(&with_the_rest(&text)).routes.remove(0)
}

#[test]
fn a_service_is_the_only_backend_and_backends_have_a_weight_of_one() {
    let table: [(&str, &[(&str, u32)]); 5] = [
        ("{service: chat}", &[("chat", 1)]),
        ("{service: chat, backends: null}", &[("chat", 1)]),
        ("{backends: [{service: chat}]}", &[("chat", 1)]),
        (
            "{backends: [{service: chat, weight: 90}, {service: chat-next}]}",
            &[("chat", 90), ("chat-next", 1)],
        ),
        (
            "{backends: [{service: chat, weight: 0}, {service: chat-next, weight: 1000000}]}",
            &[("chat", 0), ("chat-next", 1_000_000)],
        ),
    ];
    for (text, expected) in table {
        let route = route(text);
        let backends: Vec<_> = route.backends.iter().map(|one| (one.service.as_str(), one.weight)).collect();
        assert_eq!((route.name.as_str(), backends.as_slice()), ("chat", expected), "{text}");
    }
}

#[test]
fn sixteen_backends_are_the_most() {
    let text = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("s{number}")).collect();
        let services: Vec<_> =
            names.iter().map(|name| format!("{name}: {{discovery: {{static: []}}}}")).collect();
        let backends: Vec<_> = names.iter().map(|name| format!("{{service: {name}}}")).collect();
        let (services, backends) = (services.join(", "), backends.join(", "));
        with_the_rest(&format!("services: {{{services}}}\nroutes: [{{backends: [{backends}]}}]"))
    };
    assert_eq!(parse(&text(16)).routes[0].backends.len(), 16);
    let error = Config::parse(&text(17), "podpin.yaml", Path::new("")).unwrap_err();
    let expected = "podpin.yaml:2:21: routes[0].backends: a route has at most 16 backends; found 17";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn headers_are_matched_beside_a_path_or_on_every_path() {
    let route = route(
        "{service: chat, matches: [{path: {type: Exact, value: /a}, headers: [{name: X-Canary, value: Always}]}, {headers: [{name: X-B, type: RegularExpression, value: 'a|b'}, {name: x-a, value: c d, type: Exact}]}]}",
    );
    let [exact, anywhere] = route.matches.as_slice() else { panic!("{:?}", route.matches) };
    assert_eq!(exact.path, PathMatch::Exact("/a".into()));
    assert_eq!(anywhere.path, PathMatch::Prefix("/".into()));
    let canary = exact.headers.first().unwrap();
    assert_eq!((canary.name.as_str(), &canary.value), ("x-canary", &ValueMatch::Exact("Always".into())));
    let names: Vec<_> = anywhere.headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(names, ["x-a", "x-b"]);
    let says =
        |value: &str| anywhere.headers.iter().filter(|header| header.value.matches(value.as_bytes())).count();
    assert_eq!([says("a"), says("b"), says("c d"), says("ab"), says("c")], [1, 1, 1, 0, 0]);
}

#[test]
fn routes_that_differ_in_their_headers_are_not_ambiguous() {
    let of = |headers: &str| {
        format!("{{service: chat, matches: [{{path: {{value: /a}}, headers: [{headers}]}}]}}")
    };
    let table = [
        "",
        "{name: x-a, value: '1'}",
        "{name: x-a, value: '2'}",
        "{name: x-b, value: '1'}",
        "{name: x-a, value: '1', type: RegularExpression}",
        "{name: x-a, value: '1'}, {name: x-b, value: '1'}",
    ];
    let routes: Vec<_> = table.iter().map(|headers| of(headers)).collect();
    assert_eq!(parse(&with_the_rest(&format!("routes: [{}]", routes.join(", ")))).routes.len(), table.len());
}

#[test]
fn host_names_are_normalised() {
    let cases = [
        ("App.Example.COM.", Host::Exact("app.example.com".into())),
        ("'*.Example.com'", Host::Wildcard(".example.com".into())),
        ("'[2001:DB8:0::1]'", Host::Exact("[2001:db8::1]".into())),
        ("10.0.0.1", Host::Exact("10.0.0.1".into())),
        ("localhost", Host::Exact("localhost".into())),
    ];
    for (text, expected) in cases {
        let config = parse(&with_the_rest(&format!("routes: [{{service: chat, hostnames: [{text}]}}]")));
        assert_eq!(config.routes[0].hosts, [expected], "{text}");
    }
}

#[test]
fn paths_are_kept_as_written_but_for_a_prefix_slash_at_the_end() {
    let cases = [
        ("{value: /}", PathMatch::Prefix("/".into())),
        ("{value: /Events/}", PathMatch::Prefix("/Events".into())),
        ("{type: PathPrefix, value: /a%20b}", PathMatch::Prefix("/a%20b".into())),
        ("{type: Exact, value: /events/}", PathMatch::Exact("/events/".into())),
        ("{type: Exact, value: /...}", PathMatch::Exact("/...".into())),
    ];
    for (text, expected) in cases {
        let config =
            parse(&with_the_rest(&format!("routes: [{{service: chat, matches: [{{path: {text}}}]}}]")));
        let [RouteMatch { path, headers }] = config.routes[0].matches.as_slice() else { panic!("{text}") };
        assert_eq!((path, headers.len()), (&expected, 0), "{text}");
    }
}

#[test]
fn routes_without_a_name_are_called_after_their_service() {
    let text = "routes:\n  - {service: chat, hostnames: [a]}\n  - {service: chat, hostnames: [b]}\n  - {service: chat, name: chat-2, hostnames: [c]}\n  - {service: chat, hostnames: [d]}";
    let names: Vec<String> = parse(&with_the_rest(text)).routes.into_iter().map(|route| route.name).collect();
    assert_eq!(names, ["chat", "chat-3", "chat-2", "chat-4"]);
}

#[test]
fn exact_and_prefix_of_one_path_are_not_ambiguous() {
    let text = "routes:\n  - {service: chat, matches: [{path: {type: Exact, value: /a}}]}\n  - {service: chat, matches: [{path: {value: /a}}]}\n  - {service: chat, hostnames: [a.b], matches: [{path: {value: /a}}]}";
    assert_eq!(parse(&with_the_rest(text)).routes.len(), 3);
}
