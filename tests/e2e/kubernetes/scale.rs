//! Many services, many endpoints: what they cost.

use std::time::Instant;

use podpin_testkit::{ApiServer, Setup, Slice, SlicePod, start_pods, wait_for};

const SERVICES: u16 = 200;
const ENDPOINTS_EACH: u16 = 50;
const ENDPOINTS: f64 = SERVICES as f64 * ENDPOINTS_EACH as f64;

/// Services of which a pod is deleted.
const CHANGED: u16 = 50;

/// All of the process's own memory with that many endpoints.
const MEMORY_BYTES_MAX: u64 = 100 << 20;

fn name(service: u16) -> String {
    format!("service-{service:03}")
}

fn pod(service: u16, index: u16) -> SlicePod {
    let [_, service_byte] = service.to_be_bytes();
    let [_, index_byte] = index.to_be_bytes();
    SlicePod::new(&format!("pod-{service:03}-{index:02}"), [10, 7, service_byte, index_byte].into())
}

/// Prints what it measures; times are bounded by patience only, as a debug build on a busy machine says little.
#[tokio::test]
async fn two_hundred_services_with_ten_thousand_endpoints_fit_into_a_hundred_megabytes() {
    let api = ApiServer::start().await;
    let kubeconfig = api.kubeconfig();
    let mut setup = Setup::new().top(&kubeconfig.setting());
    for service in 0..SERVICES {
        api.put(&Slice::of(&name(service), 8080).pods((0..ENDPOINTS_EACH).map(|index| pod(service, index))));
        let discovery = format!("{{kubernetes: {{namespace: lab, service: {}, port: http}}}}", name(service));
        setup = setup.service_from(&name(service), &discovery);
    }
    let proxy = setup.start().await;
    api.wait_watches(1).await;
    let listed = proxy.process.memory_bytes();

    let changed = Instant::now();
    for service in 0..CHANGED {
        let pods = (0..ENDPOINTS_EACH).map(|index| match index {
            0 => pod(service, index).terminating(),
            _ => pod(service, index),
        });
        api.put(&Slice::of(&name(service), 8080).pods(pods));
    }
    // Read from the log: a scrape of ten thousand endpoints every few milliseconds would be what is measured.
    let last = format!("endpoint=pod-{:03}-00 ", CHANGED - 1);
    let is_last = |line: &String| line.contains(&last) && line.contains("draining");
    wait_for("the last change", async || proxy.process.stderr().iter().any(is_last)).await;
    let took = changed.elapsed();
    let scrape = Instant::now();
    let metrics = proxy.metrics().await;
    let scrape = scrape.elapsed();
    let count = |state| metrics.sum("podpin_endpoints", &[("state", state)]);
    assert_eq!((count("ready"), count("draining")), (ENDPOINTS - f64::from(CHANGED), f64::from(CHANGED)));
    let after = proxy.process.memory_bytes();
    println!(
        "{ENDPOINTS} endpoints: {} KiB listed, {} KiB after {CHANGED} changes in {took:?}; scrape {scrape:?}",
        listed >> 10,
        after >> 10
    );
    assert!(after <= MEMORY_BYTES_MAX, "{after} bytes");
    // Watching is quiet: what happens to others is not told to us.
    let requests = api.requests().len();
    (0..100).for_each(|_| api.put(&Slice::of("bystander", 8080)));
    api.put(&Slice::of(&name(0), 8080).pod(pod(0, 0)));
    proxy.wait_endpoints(&name(0), &[("pod-000-00", "draining")]).await;
    assert_eq!(api.requests().len(), requests);
}

/// Seconds of the proxy's own clock for which it has nothing to do.
const IDLE_SECONDS: usize = 8;

/// Processor time of a process since its start, in hundredths of a second: `utime` and `stime` of proc(5).
fn ticks(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name in parentheses may have spaces in it.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

/// Prints what it measures; 0.5 % of a core is the aim for an optimised build.
#[tokio::test]
async fn two_hundred_services_that_do_not_change_are_watched_without_a_request() {
    let api = ApiServer::start().await;
    let kubeconfig = api.kubeconfig();
    let clock = start_pods(&["clock"]).await;
    let setup = Setup::new().service("clock", &[&clock[0]]).with("sse: {keepAlive: 1s}");
    let mut setup = setup.top(&kubeconfig.setting());
    for service in 0..SERVICES {
        api.put(&Slice::of(&name(service), 8080).pods((0..5).map(|index| pod(service, index))));
        let discovery = format!("{{kubernetes: {{namespace: lab, service: {}, port: http}}}}", name(service));
        setup = setup.service_from(&name(service), &discovery);
    }
    let began = Instant::now();
    let proxy = setup.start().await;
    println!("{SERVICES} services: ready {:?} after the start", began.elapsed());
    api.wait_watches(1).await;
    let (requests, before, began) = (api.requests().len(), ticks(proxy.process.id()), Instant::now());
    proxy.pass_keep_alives("/events", IDLE_SECONDS).await;
    let spent = ticks(proxy.process.id()) - before;
    println!("{SERVICES} services: {spent} hundredths of a second of a core in {:?}", began.elapsed());
    assert_eq!(api.requests().len(), requests);
}
