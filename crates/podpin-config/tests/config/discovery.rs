//! Good files: the ways in which a service finds its endpoints, and the way to the cluster.

use std::time::Duration;

use podpin_config::*;

use crate::{parse, with_the_rest};

#[test]
fn a_service_of_the_cluster_is_read() {
    let discovered = |keys: &str| {
        let text = with_the_rest(&format!("services: {{chat: {{discovery: {{kubernetes: {{{keys}}}}}}}}}"));
        parse(&text).services.remove(0).discovery
    };
    let expected = |namespace: Option<&str>, port, pods| {
        let (namespace, service) = (namespace.map(str::to_owned), "chat-app".to_owned());
        let ip_family = IpFamily::Prefer4;
        Discovery::Kubernetes(KubernetesService { namespace, service, port, pods, ip_family })
    };
    let http = || Port::Name("http".into());
    let cases = [
        ("namespace: prod, service: chat-app, port: http", expected(Some("prod"), http(), false)),
        ("service: chat-app, port: 8080, pods: true", expected(None, Port::Number(8_080), true)),
        ("service: chat-app, port: http, pods: null", expected(None, http(), false)),
        (
            "namespace: null, service: chat-app, port: 65535, pods: off",
            expected(None, Port::Number(65_535), false),
        ),
    ];
    for (keys, expected) in cases {
        assert_eq!(discovered(keys), expected, "{keys}");
    }
}

#[test]
fn the_preferred_address_family_of_pods_is_a_word_or_a_number() {
    let family = |word: &str| {
        let keys = format!("service: a, port: 80, ipFamily: {word}");
        let text = with_the_rest(&format!("services: {{chat: {{discovery: {{kubernetes: {{{keys}}}}}}}}}"));
        match parse(&text).services.remove(0).discovery {
            Discovery::Kubernetes(service) => service.ip_family,
            other => panic!("{other:?}"),
        }
    };
    let cases = [
        ("prefer4", IpFamily::Prefer4),
        ("prefer6", IpFamily::Prefer6),
        ("4", IpFamily::Only4),
        ("'6'", IpFamily::Only6),
        ("6", IpFamily::Only6),
        ("null", IpFamily::Prefer4),
    ];
    for (word, expected) in cases {
        assert_eq!(family(word), expected, "{word}");
    }
}

#[test]
fn a_name_in_dns_is_read() {
    let discovered = |keys: &str| {
        let text = with_the_rest(&format!("services: {{chat: {{discovery: {{dns: {{{keys}}}}}}}}}"));
        parse(&text).services.remove(0).discovery
    };
    let expected = DnsName {
        name: "chat.internal".into(),
        port: Some(8080),
        interval: Duration::from_secs(5),
        resolver: None,
    };
    assert_eq!(discovered("name: chat.internal, port: 8080"), Discovery::Dns(expected.clone()));
    let resolver = Some("[::1]:8600".parse().unwrap());
    let whole = DnsName { interval: Duration::from_millis(500), resolver, ..expected.clone() };
    let keys = "name: chat.internal, port: 8080, interval: 500ms, resolver: '[::1]:8600'";
    assert_eq!(discovered(keys), Discovery::Dns(whole));
    let service = DnsName { name: "_http._tcp.chat.internal.".into(), port: None, ..expected };
    assert_eq!(discovered("name: _http._tcp.chat.internal."), Discovery::Dns(service));
}

#[test]
fn an_endpoint_of_the_configuration_may_be_named_by_its_host() {
    let address = |text: &str| {
        let keys = format!("services: {{chat: {{discovery: {{static: [{{name: a, address: {text}}}]}}}}}}");
        match parse(&with_the_rest(&keys)).services.remove(0).discovery {
            Discovery::Static(list) => list[0].address.clone(),
            other => panic!("{other:?}"),
        }
    };
    let name = |host: &str, port| EndpointAddress::Name { host: host.into(), port };
    assert_eq!(address("localhost:3000"), name("localhost", 3_000));
    assert_eq!(address("pod-a.chat.:80"), name("pod-a.chat.", 80));
    assert_eq!(address("'[::1]:80'"), EndpointAddress::Ip("[::1]:80".parse().unwrap()));
    assert_eq!(address("localhost:3000").to_string(), "localhost:3000");
}

#[test]
fn the_way_to_the_cluster_is_read() {
    let kubernetes = |keys: &str| parse(&with_the_rest(keys)).kubernetes;
    let default =
        Kubernetes { kubeconfig: None, context: None, initial_list_timeout: Duration::from_secs(30) };
    assert_eq!(kubernetes(""), default);
    assert_eq!(kubernetes("kubernetes: {}"), default);
    let expected = Kubernetes {
        kubeconfig: Some("/etc/podpin/kube/config".into()),
        context: Some("admin@prod".into()),
        initial_list_timeout: Duration::from_secs(60),
    };
    let keys = "kubernetes: {kubeconfig: kube/config, context: admin@prod, initialListTimeout: 1m}";
    assert_eq!(kubernetes(keys), expected);
}
