//! What a route may lead to, and what it may ask of a request.

use std::path::Path;

use podpin_config::{Config, PathMatch, Route, ValueMatch};

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
