//! Configurations that are not put in force, the messages about them, and that nothing of them is in force.

use std::fs;
use std::os::unix::fs::symlink;

use podpin_testkit::{Pod, Setup, Signal, free_port};

/// A second route beside the one to everything, to see whether a configuration is in force.
const EXTRA: &str =
    "{name: extra, hostnames: [extra.test], matches: [{path: {value: /extra}}], service: news}";

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing_and_is_told_with_line_and_column() {
    let pod = Pod::start("pod-a").await;
    let good = Setup::chat(&[&pod]);
    let proxy = good.start().await;
    let said = proxy.reload_refused(&good.clone().top("worker: 3")).await;
    assert!(said.contains("podpin.yaml:6:1: worker: unknown key; did you mean `workers`?"), "{said}");
    assert_eq!(proxy.metric("podpin_config_last_reload_success", &[]).await, 0.0);
    let since = proxy.metric("podpin_config_last_reload_success_timestamp_seconds", &[]).await;
    assert!(since > 0.0);
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    proxy.reload(&good).await;
    assert_eq!(proxy.metric("podpin_config_last_reload_success", &[]).await, 1.0);
    assert_eq!(proxy.metric("podpin_config_reloads_total", &[("result", "failure")]).await, 1.0);
}

#[tokio::test]
async fn files_that_are_named_must_be_usable_before_anything_changes() {
    let pod = Pod::start("pod-a").await;
    let good = Setup::chat(&[&pod]);
    let proxy = good.start().await;
    fs::write(proxy.directory().join("garbled.yaml"), "- {name: 7").unwrap();
    let bad = [
        (good.clone().tls("{certificates: [{certFile: no.crt, keyFile: no.key}]}"), "no.crt"),
        (good.clone().with("tls: {serverName: pod.test, caFile: no.pem}"), "no.pem"),
        (good.clone().top("affinityKeys: [{id: k9, file: k9}]"), "k9"),
        (good.clone().top("accessLog: {path: no-such-directory/access.log}"), "no-such-directory"),
        (good.clone().service_from("more", "{file: {path: garbled.yaml}}"), "garbled.yaml"),
    ];
    for (setup, named) in bad {
        // A change that would show, were any of it in force.
        let said = proxy
            .reload_refused(&setup.route("{name: other, matches: [{path: {value: /x}}], service: chat}"))
            .await;
        assert!(said.contains(named), "{named}: {said}");
        assert_eq!(proxy.get("/who").await.text(), "pod-a", "{named}");
        assert_eq!(proxy.admin_get("/api/endpoints").await.json()["services"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_is_bound_at_the_start_needs_a_restart() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    let good = Setup::chat(&[&pods[0]]).top("workers: 1");
    let proxy = good.start().await;
    let changed = good.clone().service("news", &[&pods[1]]).route("{name: all, service: chat}").route(EXTRA);
    let text = changed.text(proxy.address, proxy.admin);
    let (address, admin) = (proxy.address.to_string(), proxy.admin.to_string());
    let port = |port: u16| format!("127.0.0.1:{port}");
    let listener = format!("  - {{name: http, address: \"{address}\", h2c: false}}\n");
    let second = format!("{listener}  - {{name: more, address: \"{}\"}}\n", port(free_port()));
    let cases = [
        (text.replace(&address, &port(free_port())), "the address of `http` changes"),
        (text.replace(&listener, &second), "`more` is new"),
        (text.replace("name: http", "name: web"), "`web` is new"),
        (text.replace(&admin, &port(free_port())), "admin.address changes"),
        (text.replace("workers: 1", "workers: 2"), "workers changes"),
    ];
    for (text, what) in cases {
        let before = proxy.process.stderr().len();
        let next = proxy.directory().join("next");
        fs::write(&next, &text).unwrap();
        proxy
            .reload_with("failure", || fs::rename(&next, proxy.directory().join("podpin.yaml")).unwrap())
            .await;
        podpin_testkit::wait_for("the words", async || {
            let said = proxy.process.stderr();
            said.iter().skip(before).any(|line| line.contains(what) && line.contains("needs a restart"))
        })
        .await;
        let asked = podpin_testkit::Request::get("/extra").host("extra.test").send(proxy.address).await;
        assert_eq!(asked.header("x-pod"), None, "{what}: the rest of it is not in force");
        assert!(pods[1].requests().is_empty(), "{what}");
    }
}

#[tokio::test]
async fn every_way_to_replace_the_file_is_noticed() {
    let pods = [Pod::start("pod-a").await, Pod::start("pod-b").await];
    let setups = [Setup::chat(&[&pods[0]]), Setup::chat(&[&pods[1]])];
    let proxy = setups[0].start().await;
    let path = proxy.directory().join("podpin.yaml");
    let text = |at: usize| setups[at].text(proxy.address, proxy.admin);
    // In place.
    proxy.reload_with("success", || fs::write(&path, text(1)).unwrap()).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
    // As the kubelet replaces a mounted ConfigMap.
    let mount = |version: &str, at: usize| {
        let directory = proxy.directory().join(version);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("podpin.yaml"), text(at)).unwrap();
        symlink(version, proxy.directory().join("..next")).unwrap();
        fs::rename(proxy.directory().join("..next"), proxy.directory().join("..data")).unwrap();
    };
    mount("..1", 0);
    proxy
        .reload_with("success", || {
            symlink("..data/podpin.yaml", proxy.directory().join("link")).unwrap();
            fs::rename(proxy.directory().join("link"), &path).unwrap();
        })
        .await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    proxy.reload_with("success", || mount("..2", 1)).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
    fs::remove_dir_all(proxy.directory().join("..1")).unwrap();
    // Gone for a while, and asked by signal.
    proxy.reload_with("failure", || fs::remove_file(&path).unwrap()).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-b");
    proxy.reload(&setups[0]).await;
    proxy.reload_with("success", || proxy.signal(Signal::HUP)).await;
    assert_eq!(proxy.get("/who").await.text(), "pod-a");
    // Each line is podpin's own: that a directory went away, which was watched, is no news.
    let output = proxy.process.output();
    assert!(!output.contains("inotify") && !output.contains("watches"), "{output}");
}

#[tokio::test]
async fn a_configuration_whose_files_come_later_is_in_force_when_they_have_come() {
    let pod = Pod::start("pod-a").await;
    let proxy = Setup::chat(&[&pod]).start().await;
    let two = "affinityKeys: [{id: k2, file: k2}, {id: k1, file: k1}]";
    let said = proxy.reload_refused(&Setup::chat(&[&pod]).top(two)).await;
    assert!(said.contains("k2"), "{said}");
    let success = [("result", "success")];
    fs::write(proxy.directory().join("k2"), "x".repeat(43)).unwrap();
    proxy.wait_metric("podpin_config_reloads_total", &success, 1.0).await;
    assert_eq!(proxy.metric("podpin_config_reloads_total", &[("result", "failure")]).await, 1.0);
    assert_eq!(proxy.metric("podpin_config_last_reload_success", &[]).await, 1.0);
}

#[tokio::test]
async fn a_refused_configuration_leaves_nothing_in_the_metrics() {
    let pod = Pod::start("pod-a").await;
    let good = Setup::chat(&[&pod]);
    let proxy = good.start().await;
    proxy
        .reload_refused(
            &good
                .clone()
                .service("news", &[&pod])
                .tls("{certificates: [{certFile: no.crt, keyFile: no.key}]}"),
        )
        .await;
    assert!(!proxy.metrics().await.has("podpin_discovery_connected", &[("service", "news")]));
}
