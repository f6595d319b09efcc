//! Kubernetes discovery end to end: the real binary, a fake API server, scripted pods in its slices.
//!
//! The API server is plain HTTP unless a test says otherwise. Pods share a port and differ by loopback address, as
//! one slice has one port for all of its endpoints.

mod checking;
mod dead_connection;
mod gaps;
mod ghosts;
mod mismatches;
mod outages;
mod plugins;
mod pods;
mod recordings;
mod scale;
mod slices;
mod starting;
mod states;
mod words;

use std::time::Duration;

use podpin_testkit::{ApiServer, Kubeconfig, Pod, Proxy, Setup, Slice, SlicePod, start_pods};

/// Fresh data after an API server answers again: 3 s are promised, one more is for two busy cores.
const RECOVERY_MAX: Duration = Duration::from_secs(4);

/// Requests to the API server in any second of an outage. The shortest pause of the watch loop is 0.2 s, each turn is
/// a list and a watch, and there is one loop in these tests; a hot loop makes hundreds.
const REQUESTS_PER_SECOND_MAX: usize = 12;

/// Discovery of the service `chat`.
const CHAT: &str = "{kubernetes: {namespace: lab, service: chat, port: http}}";

/// An API server and the pods that it may list.
struct Cluster {
    api: ApiServer,
    pods: Vec<Pod>,
    kubeconfig: Kubeconfig,
}

impl Cluster {
    /// Pods of these names; none is in a slice yet.
    async fn new(names: &[&str]) -> Cluster {
        let api = ApiServer::start().await;
        let kubeconfig = api.kubeconfig();
        Cluster { api, pods: start_pods(names).await, kubeconfig }
    }

    /// Pods of these names, all ready in one slice of `chat`.
    async fn ready(names: &[&str]) -> Cluster {
        let cluster = Cluster::new(names).await;
        cluster.api.put(&cluster.chat().pods(cluster.all()));
        cluster
    }

    /// A proxy in front of `chat`.
    fn setup(&self) -> Setup {
        Setup::new().service_from("chat", CHAT).top(&self.kubeconfig.setting())
    }

    /// The slice `chat-1` without endpoints, with the port of the pods.
    fn chat(&self) -> Slice {
        Slice::of("chat", self.pods[0].address().port())
    }

    /// The pod at `index`, ready.
    fn pod(&self, index: usize) -> SlicePod {
        SlicePod::of(&self.pods[index])
    }

    /// All of them, ready.
    fn all(&self) -> impl Iterator<Item = SlicePod> {
        self.pods.iter().map(SlicePod::of)
    }

    /// All of them, but this one in another condition.
    fn all_but(&self, index: usize, changed: SlicePod) -> Slice {
        let mut pods: Vec<_> = self.all().collect();
        pods[index] = changed;
        self.chat().pods(pods)
    }
}

/// Relists of `chat` for a reason.
async fn relists(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric("podpin_discovery_relists_total", &[("service", "chat"), ("reason", reason)]).await
}

/// Waits until `chat` was relisted for this reason at least once.
async fn wait_relist(proxy: &Proxy, reason: &str) {
    let labels = [("service", "chat"), ("reason", reason)];
    proxy.wait_metric_at_least("podpin_discovery_relists_total", &labels, 1.0).await;
}
