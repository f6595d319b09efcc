//! Endpoints from Kubernetes: the EndpointSlices of Services, listed and watched, one watch for a namespace; and for
//! services with `pods: true` a second one for Pods, which know when they will be killed.
//!
//! ```text
//!          ┌────────── 410, periodic, malformed, confirm ──────────┐
//!          ▼                                                       │
//!   ┌── LIST ──▶ sent ──▶ WATCH ──▶ events, bookmarks ──▶ end ──▶ WATCH from the last version ..
//!   │      ▲                │
//!   └ 0.2-3 s ◀── refused, unreachable, silent
//! ```
//!
//! Fail static: every failure is reported and retried; none takes an endpoint away. Merging is in `slice.rs`, the known
//! objects in `kube/store.rs`, the requests in `kube/wire.rs`, the loop in `kube/reflector.rs`; the two
//! resources that it reads in `kube/slices.rs` and `kube/pods.rs`; credentials in `kube/token.rs` and `kube/plugin.rs`.

mod client;
mod cluster;
mod deadlines;
mod failure;
mod inventory;
mod mismatch;
mod pace;
mod plugin;
mod pods;
mod reflector;
mod reports;
mod resource;
mod slices;
mod store;
mod survey;
mod token;
mod wire;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::{Either, select, select_all};
use podpin_config::IpFamily;
use podpin_endpoints::Update;
use podpin_time::Millis;

use crate::kube::client::ApiClient;
use crate::kube::cluster::Cluster;
pub use crate::kube::cluster::digest;
pub use crate::kube::failure::FailureKind;
pub use crate::kube::inventory::{Inventory, InventoryError};
pub use crate::kube::mismatch::Mismatch;
use crate::kube::pods::Pods;
use crate::kube::reflector::{Emit, Reflector};
use crate::kube::slices::Slices;
use crate::kube::store::Store;
pub use crate::kube::survey::{Survey, survey};
pub use crate::kube::token::TokenError;
use crate::slice::PortRef;

/// Lists are repeated this often although nothing seems to be wrong: an API server whose etcd was restored from a
/// backup may serve a watch that will never say anything again. Longer means staler after such an accident, shorter
/// means load for nothing.
const RELIST_EVERY: Duration = Duration::from_secs(300);

/// How long a watch lasts; kube-apiserver would choose 30 to 60 minutes, and middle boxes forget connections earlier.
const WATCH_TIMEOUT: Duration = Duration::from_secs(290);

/// A page of a list takes an API server milliseconds, a loaded one a second or two.
const LIST_TIMEOUT: Duration = Duration::from_secs(15);

/// A credential plugin asks a cloud for a token, which takes a second or two. One that waits for a person waits in vain.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Bookmarks come about once a minute. Something between that answers keep-alive probes for a dead server (a proxy, a load
/// balancer) is found out by their absence.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// How the cluster is reached.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// A kubeconfig file. `None` if absent: the Pod's service account, else `KUBECONFIG`, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; naming one asks for a kubeconfig. `None` if its current one.
    pub context: Option<String>,
    /// Lists are repeated this often, give or take a tenth. Default 5 min.
    pub relist_every: Duration,
    /// How long the server is asked to keep a watch open. Default 290 s; whole seconds, at least one.
    pub watch_timeout: Duration,
    /// How long a page of a list may take. Default 15 s.
    pub list_timeout: Duration,
    /// How long a run of a credential plugin may take. Default 15 s.
    pub plugin_timeout: Duration,
    /// How long a watch may say nothing, not even a bookmark, on a server that sends them. Default 90 s.
    pub silence_max: Duration,
    /// Converts a time of the wall clock to the clock of the endpoints' deadlines: see
    /// [`podpin_endpoints::Observed::deadline`]. Called once for each deadline, when it arrives. Default: milliseconds
    /// since 1970, which is enough if no service reads pods.
    pub moment_of: fn(SystemTime) -> Millis,
}

impl Default for KubeSettings {
    fn default() -> KubeSettings {
        KubeSettings {
            kubeconfig: None,
            context: None,
            relist_every: RELIST_EVERY,
            watch_timeout: WATCH_TIMEOUT,
            list_timeout: LIST_TIMEOUT,
            plugin_timeout: PLUGIN_TIMEOUT,
            silence_max: SILENCE_MAX,
            moment_of: |at| Millis(0).after(at.duration_since(UNIX_EPOCH).unwrap_or_default()),
        }
    }
}

impl From<&podpin_config::Kubernetes> for KubeSettings {
    fn from(kubernetes: &podpin_config::Kubernetes) -> KubeSettings {
        KubeSettings {
            kubeconfig: kubernetes.kubeconfig.clone(),
            context: kubernetes.context.clone(),
            ..KubeSettings::default()
        }
    }
}

/// A port of a Service that is to be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeService {
    /// Namespace of the Service. `None` if the Pod's own, else that of the kubeconfig's context, else `default`.
    pub namespace: Option<String>,
    /// The Service's name. It need not exist yet.
    pub service: String,
    /// Which of its ports.
    pub port: PortRef,
    /// The addresses of pods that have IPv4 and IPv6.
    pub family: IpFamily,
    /// Whether Pods are read, too, so that endpoints have deadlines. Without the right to, they have none.
    pub pods: bool,
    /// The endpoints of the service that are known already.
    pub known: Known,
}

/// Endpoints of a service that are known when it begins to be followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// None.
    #[default]
    Nothing,
    /// Endpoints from the same source: a first list that is empty is confirmed like any other.
    SameSource,
    /// Endpoints from another source: they stay, too, while this one names something that the cluster does not have.
    OtherSource,
}

impl Known {
    /// Returns whether the known endpoints stay although the slices have none.
    fn outlives(self, is_doubted: bool, mismatch: Option<&Mismatch>) -> bool {
        match self {
            Known::Nothing => false,
            Known::SameSource => is_doubted,
            Known::OtherSource => is_doubted || mismatch.is_some(),
        }
    }
}

impl From<&podpin_config::KubernetesService> for KubeService {
    fn from(service: &podpin_config::KubernetesService) -> KubeService {
        KubeService {
            namespace: service.namespace.clone(),
            service: service.service.clone(),
            port: (&service.port).into(),
            family: service.ip_family,
            pods: service.pods,
            known: Known::Nothing,
        }
    }
}

/// An event of discovery; `service` is the index in the list that was given to [`follow`].
#[derive(Clone, Debug)]
pub enum KubeEvent {
    /// The endpoints of a service, after every event and every list, be it new or not.
    Endpoints {
        /// Index of the service.
        service: usize,
        /// [`Update::Replace`] with the whole list, or [`Update::Upsert`] with those that changed while all others stay as they are.
        update: Update,
    },
    /// A change of the connection to the API server: `true` after a watch has been opened, `false` after a list or a
    /// watch has failed.
    Connected {
        /// Index of the service.
        service: usize,
        /// Whether it is.
        connected: bool,
    },
    /// A list or a watch that failed. Sent at every attempt.
    Failed {
        /// Index of the service.
        service: usize,
        /// The kind of the failure.
        kind: FailureKind,
        /// The failure in words that say what to do about it; `None` if they are the same as the time before.
        words: Option<Arc<str>>,
    },
    /// The comparison of the names in the configuration with those of the cluster. Sent after the first list that is believed, and
    /// when it changes; the endpoints have been sent before.
    Judged {
        /// Index of the service.
        service: usize,
        /// A name that the cluster does not have; `None` if it has all.
        mismatch: Option<Mismatch>,
        /// Whether the endpoints that were known before stay meanwhile.
        keeps: bool,
    },
    /// A message of the API server, if only that nothing happened.
    Heard {
        /// Index of the service.
        service: usize,
    },
    /// A list that was read; its endpoints have been sent before.
    Relist {
        /// Index of the service.
        service: usize,
        /// The cause of the list.
        reason: RelistReason,
    },
    /// An object, a line or an endpoint in a slice that could not be read and was left out. Sent to all services of a
    /// namespace if its owner is not known.
    Malformed {
        /// Index of the service.
        service: usize,
    },
    /// Pods that could not be listed, watched or read; the known deadlines stay. Sent at every attempt, and only to
    /// services with pods.
    PodsFailed {
        /// Index of the service.
        service: usize,
    },
}

impl KubeEvent {
    /// Returns the index of the service that the event is about.
    #[must_use]
    pub fn service(&self) -> usize {
        match self {
            KubeEvent::Endpoints { service, .. }
            | KubeEvent::Connected { service, .. }
            | KubeEvent::Failed { service, .. }
            | KubeEvent::Judged { service, .. }
            | KubeEvent::Heard { service }
            | KubeEvent::Relist { service, .. }
            | KubeEvent::Malformed { service }
            | KubeEvent::PodsFailed { service } => *service,
        }
    }
}

/// Why a list was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelistReason {
    /// The first one.
    Start,
    /// The version is too old (410), has gone backwards, or no message came during a whole watch.
    Expired,
    /// A watch was refused.
    Error,
    /// A list that was due.
    Periodic,
    /// Something could not be read.
    Malformed,
    /// The last one would have emptied a service.
    Confirm,
}

impl RelistReason {
    /// The word for it in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RelistReason::Start => "start",
            RelistReason::Expired => "expired",
            RelistReason::Error => "error",
            RelistReason::Periodic => "periodic",
            RelistReason::Malformed => "malformed",
            RelistReason::Confirm => "confirm",
        }
    }
}

/// Why nothing can be followed: what is wrong on this side and does not heal by itself. An API server that cannot be
/// reached is no error.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// There is no configuration anywhere.
    #[error(
        "no way to a Kubernetes cluster: not in a Pod ({in_cluster}), and no kubeconfig ({kubeconfig}); \
         set kubernetes.kubeconfig"
    )]
    NoCluster {
        /// Why the Pod's service account is not used.
        in_cluster: String,
        /// Why no kubeconfig is.
        kubeconfig: String,
    },
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {file}: {error}")]
    Kubeconfig {
        /// Which.
        file: String,
        /// The error of the kubeconfig.
        #[source]
        error: kube::config::KubeconfigError,
    },
    /// No client can be made: a certificate, a key or a proxy is wrong.
    #[error("the Kubernetes client cannot be set up: {}", failure::with_sources(.0))]
    Client(#[source] kube::Error),
    /// The token cannot be used.
    #[error("{place} {error}")]
    Token {
        /// Where it is.
        place: String,
        /// Why.
        #[source]
        error: TokenError,
    },
    /// The credential plugin gives no credential.
    #[error("{0}")]
    Plugin(String),
    /// The kubeconfig has credentials of a kind that Kubernetes has removed.
    #[error(
        "auth error: auth-provider {0} was removed from Kubernetes in 1.26: use a credential plugin (exec)"
    )]
    AuthProvider(String),
}

/// Checks whether there is a cluster to follow, as far as this machine's own configuration can tell; sends no request.
///
/// # Errors
/// What [`follow`] would fail with at its start.
pub async fn check(settings: &KubeSettings) -> Result<(), KubeError> {
    Cluster::reach(settings).await?.client().map(drop)
}

/// Follows `services` and calls `on` with their events, for ever; drop the future to stop.
///
/// # Errors
/// At the start only, when there is no usable configuration; see [`KubeError`].
///
/// # Panics
/// Outside a tokio runtime with IO and time.
pub async fn follow(
    settings: KubeSettings,
    services: Vec<KubeService>,
    on: impl FnMut(KubeEvent) + Send,
) -> Result<Infallible, KubeError> {
    let cluster = Cluster::reach(&settings).await?;
    let mut namespaces: BTreeMap<&str, Vec<(usize, &KubeService)>> = BTreeMap::new();
    for (number, service) in services.iter().enumerate() {
        let namespace = service.namespace.as_deref().unwrap_or(&cluster.namespace);
        namespaces.entry(namespace).or_default().push((number, service));
    }
    if namespaces.is_empty() {
        return std::future::pending().await;
    }
    let on = Mutex::new(on);
    let emit = |event| (on.lock().unwrap_or_else(PoisonError::into_inner))(event);
    let mut followed = Vec::with_capacity(namespaces.len());
    for (name, services) in namespaces {
        let client = cluster.client()?;
        let store = Store::new(services.into_iter(), settings.moment_of);
        followed.push(Box::pin(follow_namespace(name, &settings, client, store, &emit)));
    }
    let follow = pin!(select_all(followed));
    match select(follow, pin!(cluster.credentials.keep(settings.plugin_timeout))).await {
        Either::Left(((never, ..), _)) => match never {},
        Either::Right((never, _)) => never,
    }
}

/// Follows the slices of a namespace, and its pods if a service has `pods`.
async fn follow_namespace(
    name: &str,
    settings: &KubeSettings,
    client: ApiClient,
    store: Store,
    emit: Emit<'_>,
) -> Infallible {
    let wants_pods = !store.numbers_with_pods().is_empty();
    let store = Mutex::new(store);
    let slices = Slices::of(&store);
    let selector = slices.selector();
    let slices = Reflector::new(name, settings, client.clone(), selector, slices);
    if !wants_pods {
        return slices.follow(emit).await;
    }
    // Which pods belong to a Service its slices say; a selector of labels would be its own secret.
    let pods = Reflector::new(name, settings, client, None, Pods::of(&store));
    let (slices, pods) = (pin!(slices.follow(emit)), pin!(pods.follow(emit)));
    select(slices, pods).await.factor_first().0
}
