//! Names of the configuration that the cluster does not have, and what becomes of the endpoints of before.

use podpin_discovery::SlicePort;

use super::*;

impl Followed {
    /// Follows these services over endpoints that are known already.
    fn over(server: &ApiServer, known: Known, names: &[&str]) -> Followed {
        let kubeconfig = server.kubeconfig();
        let settings = KubeSettings { kubeconfig: Some(kubeconfig.path()), ..KubeSettings::default() };
        let services = names.iter().map(|name| KubeService { known, ..service(name) }).collect();
        Followed::services(kubeconfig, settings, services)
    }

    /// Waits for the last judgement about a service.
    async fn judged(&self, service: usize, expected: Option<Mismatch>) {
        let last = |seen: &Seen| {
            let of = seen.judged.iter().rev().find(|judged| judged.0 == service);
            of.map(|judged| judged.1.clone())
        };
        self.until("the judgement", |seen| last(seen).as_ref() == Some(&expected)).await;
    }
}

fn port(name: &str, number: i32) -> SlicePort {
    SlicePort { name: name.to_owned(), number: Some(number), protocol: "TCP".to_owned() }
}

fn words(mismatch: &Mismatch, name: &str) -> String {
    mismatch.words(&service(name))
}

#[tokio::test]
async fn a_port_that_no_slice_has_is_said_with_the_ports_there_are() {
    let server = ApiServer::start().await;
    server.put(&chat(&["a"]).ports(&[("http", 8080), ("metrics", 9090)]));
    let followed = Followed::start(&server, &["chat:htpp", "chat:80", "chat:http"], |_| {});
    let there = vec![port("http", 8080), port("metrics", 9090)];
    let mismatch = Mismatch::Port { there };
    followed.judged(0, Some(mismatch.clone())).await;
    followed.judged(1, Some(mismatch.clone())).await;
    followed.judged(2, None).await;
    followed.expect(0, &[]).await;
    let said = words(&mismatch, "chat:80");
    for part in ["Service chat", "has a port 80", "http (8080), metrics (9090)", "targetPort"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(words(&mismatch, "chat:htpp").contains("`htpp`"), "{}", words(&mismatch, "chat:htpp"));
}

#[tokio::test]
async fn a_service_without_slices_is_said_and_heals_when_it_comes_and_is_said_again_when_it_goes() {
    let server = server_with(&["a"]).await;
    let followed = Followed::start(&server, &["chatt"], |_| {});
    followed.judged(0, Some(Mismatch::Service)).await;
    assert!(words(&Mismatch::Service, "chatt").contains("does the Service exist?"));
    server.wait_watches(1).await;
    let late = Slice::of("chatt", 8080).pod(SlicePod::new("b", ip(7)));
    server.put(&late);
    followed.judged(0, None).await;
    followed.expect(0, &["b ready"]).await;
    server.delete(&late);
    followed.judged(0, Some(Mismatch::Service)).await;
    followed.expect(0, &[]).await;
    // Made again, it has slices of other names.
    server.put(&late.name("chatt-other"));
    followed.judged(0, None).await;
    followed.expect(0, &["b ready"]).await;
}

#[tokio::test]
async fn a_port_that_is_renamed_under_way_is_said_and_heals() {
    let server = server_with(&["a", "b"]).await;
    let followed = Followed::chat(&server).await;
    followed.judged(0, None).await;
    server.put(&chat(&["a", "b"]).ports(&[("web", 8080)]));
    followed.judged(0, Some(Mismatch::Port { there: vec![port("web", 8080)] })).await;
    followed.expect(0, &[]).await;
    server.put(&chat(&["a", "b"]).ports(&[("http", 8080)]));
    followed.judged(0, None).await;
    followed.expect(0, &["a ready", "b ready"]).await;
}

#[tokio::test]
async fn no_endpoints_are_no_mismatch_and_a_port_without_name_or_number_is_named() {
    let server = ApiServer::start().await;
    server.put(&Slice::of("chat", 8080).ports(&[]));
    server.put(&Slice::of("web", 80).pod(SlicePod::new("w", ip(1))).ports(&[]));
    server.put(&Slice::of("one", 80).pod(SlicePod::new("o", ip(2))).ports(&[("", 8081)]));
    let followed = Followed::start(&server, &["chat", "web", "one"], |_| {});
    followed.judged(0, None).await;
    followed.judged(1, Some(Mismatch::Port { there: Vec::new() })).await;
    assert!(words(&Mismatch::Port { there: Vec::new() }, "web").contains("have no port"));
    let unnamed = Mismatch::Port { there: vec![port("", 8081)] };
    assert!(words(&unnamed, "one").contains("there are: 8081"), "{}", words(&unnamed, "one"));
    followed.judged(2, Some(unnamed)).await;
}

#[tokio::test]
async fn slices_of_another_family_alone_are_used_or_said() {
    let server = ApiServer::start().await;
    let pod = SlicePod::new("a", "fd00::1".parse().unwrap());
    server.put(&Slice::of("chat", 8080).ipv6().pod(pod));
    let kubeconfig = server.kubeconfig();
    let settings = KubeSettings { kubeconfig: Some(kubeconfig.path()), ..KubeSettings::default() };
    let only = KubeService { family: IpFamily::Only4, ..service("chat") };
    let followed = Followed::services(kubeconfig, settings, vec![service("chat"), only]);
    followed.judged(0, None).await;
    followed.expect(0, &["a ready"]).await;
    followed.judged(1, Some(Mismatch::Family { there: vec!["IPv6"] })).await;
}

#[tokio::test]
async fn endpoints_of_another_source_stay_while_this_one_has_not_what_is_named() {
    let server = server_with(&["a"]).await;
    let followed = Followed::over(&server, Known::OtherSource, &["chat:htpp", "chatt", "chat"]);
    followed.judged(0, Some(Mismatch::Port { there: vec![port("http", 8080)] })).await;
    followed.judged(1, Some(Mismatch::Service)).await;
    followed.expect(2, &["a ready"]).await;
    let seen = followed.seen();
    assert!(!seen.endpoints.contains_key(&0) && !seen.endpoints.contains_key(&1), "{:?}", seen.endpoints);
    let keeps = |service| seen.judged.iter().any(|judged| judged.0 == service && judged.2);
    assert!(keeps(0) && keeps(1) && !keeps(2), "{:?}", seen.judged);
    // From its first endpoints on, the source counts as it is.
    let late = Slice::of("chatt", 8080).pod(SlicePod::new("b", ip(7)));
    server.put(&late);
    followed.expect(1, &["b ready"]).await;
    server.delete(&late);
    followed.expect(1, &[]).await;
}

#[tokio::test]
async fn a_source_that_is_scaled_to_zero_counts_even_after_another() {
    let server = ApiServer::start().await;
    server.put(&chat(&[]));
    let followed = Followed::over(&server, Known::OtherSource, &["chat"]);
    followed.expect(0, &[]).await;
    followed.judged(0, None).await;
    followed.relisted(RelistReason::Confirm, 1).await;
}

#[tokio::test]
async fn an_empty_first_list_of_the_same_source_takes_a_second_one_to_be_believed() {
    let server = server_with(&["a"]).await;
    server.fail_once(On::List, Fault::EmptyList);
    let followed = Followed::over(&server, Known::SameSource, &["chat"]);
    followed.expect(0, &["a ready"]).await;
    let seen = followed.seen();
    assert_eq!((seen.emptied, seen.told.get(&0)), (false, Some(&1)));
    assert!(seen.judged.iter().all(|judged| judged.1.is_none()), "{:?}", seen.judged);
}
