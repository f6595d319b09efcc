//! A look at a cluster: whether it has what services name, and whether it may be read, for `podpin check --live`.
//!
//! The same list and watch as for a proxy that runs, so that a right which one lacks the other lacks, too. Besides, the Service
//! itself is read where that is permitted, which a proxy never needs: it knows which port the number of an Ingress stands for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::AsyncReadExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podpin_endpoints::{Condition, Update};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::kube::cluster::Cluster;
use crate::kube::mismatch::Mismatch;
use crate::kube::resource::{Extent, Resource};
use crate::kube::{KubeError, KubeEvent, KubeService, KubeSettings, follow};
use crate::slice::PortRef;

/// A Service is some kilobytes; a longer answer is none.
const SERVICE_BYTES_MAX: u64 = 1 << 20;

/// How long the answer to a read of a Service may take.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(5);

const SERVICES: Resource =
    Resource { kind: "Service", plural: "services", group: "", root: "api/v1", extent: Extent::Whole };

/// The state of one service in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Endpoints that are ready.
    pub ready: usize,
    /// All endpoints.
    pub endpoints: usize,
    /// Faults, one sentence each; empty if there are none.
    pub problems: Vec<String>,
}

/// The events about one service.
#[derive(Default)]
struct Heard {
    survey: Survey,
    mismatch: Option<Mismatch>,
    is_judged: bool,
    is_connected: bool,
    failure: Option<Arc<str>>,
    pods_failed: bool,
}

impl Heard {
    fn take(&mut self, event: KubeEvent) {
        match event {
            KubeEvent::Endpoints { update: Update::Replace(list), .. } => {
                self.survey.endpoints = list.len();
                self.survey.ready = list.iter().filter(|one| one.condition == Condition::Ready).count();
            }
            KubeEvent::Judged { mismatch, .. } => (self.is_judged, self.mismatch) = (true, mismatch),
            KubeEvent::Connected { connected, .. } => self.is_connected = connected,
            KubeEvent::Failed { words: Some(words), .. } => self.failure = Some(words),
            KubeEvent::PodsFailed { .. } => self.pods_failed = true,
            _ => {}
        }
    }

    fn is_over(&self) -> bool {
        self.failure.is_some() || (self.is_judged && self.is_connected)
    }
}

/// Looks at `services` once, for at most `limit`; the surveys are in the order of the services.
///
/// # Errors
/// What [`follow`] fails with.
pub async fn survey(
    settings: &KubeSettings,
    services: &[KubeService],
    limit: Duration,
) -> Result<Vec<Survey>, KubeError> {
    let heard: Vec<Heard> = services.iter().map(|_| Heard::default()).collect();
    let (heard, news) = (Arc::new(Mutex::new(heard)), Arc::new(Notify::new()));
    let (into, ring) = (Arc::clone(&heard), Arc::clone(&news));
    let following = follow(settings.clone(), services.to_vec(), move |event| {
        let mut heard = into.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = heard.get_mut(event.service()) {
            one.take(event);
        }
        ring.notify_one();
    });
    let is_over = || heard.lock().unwrap_or_else(PoisonError::into_inner).iter().all(Heard::is_over);
    let all = async {
        while !is_over() {
            news.notified().await;
        }
    };
    tokio::select! {
        ended = following => match ended {
            Ok(never) => match never {},
            Err(error) => return Err(error),
        },
        () = all => {}
        () = sleep(limit) => {}
    }
    let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    let mut surveys = Vec::with_capacity(services.len());
    for (service, heard) in services.iter().zip(heard) {
        surveys.push(concluded(settings, service, heard).await?);
    }
    Ok(surveys)
}

async fn concluded(
    settings: &KubeSettings,
    service: &KubeService,
    heard: Heard,
) -> Result<Survey, KubeError> {
    let is_over = heard.is_over();
    let Heard { mut survey, mismatch, failure, pods_failed, .. } = heard;
    if let Some(failure) = failure {
        survey.problems.push(failure.to_string());
    } else if !is_over {
        survey.problems.push("the API server has not answered in time".to_owned());
    }
    if let Some(mismatch) = mismatch {
        let mut words = mismatch.words(service);
        if let Some(more) = in_service(settings, service, &mismatch).await? {
            words = format!("{words} ({more})");
        }
        survey.problems.push(words);
    }
    if pods_failed {
        survey.problems.push(
            "pods: true, but the Pods of the namespace cannot be read: a Role there must grant the verbs list and watch on \
             pods of the core API group"
                .to_owned(),
        );
    }
    Ok(survey)
}

/// Returns what the Service itself says about a mismatch; `None` if it cannot be read, or says nothing.
async fn in_service(
    settings: &KubeSettings,
    of: &KubeService,
    mismatch: &Mismatch,
) -> Result<Option<String>, KubeError> {
    let cluster = Cluster::reach(settings).await?;
    let namespace = of.namespace.as_deref().unwrap_or(&cluster.namespace);
    let path = format!("/{}/namespaces/{namespace}/{}/{}", SERVICES.root, SERVICES.plural, of.service);
    let Ok(request) = http::Request::get(path).body(Vec::new()) else { return Ok(None) };
    let client = cluster.client()?;
    let read = async {
        let reader = client.send(request, "get", &SERVICES).await.ok()?;
        let mut body = Vec::new();
        reader.take(SERVICE_BYTES_MAX).read_to_end(&mut body).await.ok()?;
        serde_json::from_slice::<Service>(&body).ok()
    };
    let Ok(Some(service)) = timeout(SERVICE_TIMEOUT, read).await else { return Ok(None) };
    let spec = service.spec.unwrap_or_default();
    Ok(match (mismatch, &of.port) {
        (Mismatch::Service, _) if spec.selector.is_none() => {
            Some("the Service exists, without a selector: nothing makes EndpointSlices for it".to_owned())
        }
        (Mismatch::Service, _) => Some("the Service exists".to_owned()),
        (Mismatch::Port { .. }, PortRef::Number(number)) => {
            let ports = spec.ports.unwrap_or_default();
            let meant = ports.iter().find(|port| port.port == i32::from(*number));
            meant.map(|port| {
                let target = match &port.target_port {
                    Some(IntOrString::Int(target)) => target.to_string(),
                    Some(IntOrString::String(target)) => format!("`{target}`"),
                    None => number.to_string(),
                };
                let name = port.name.as_deref().filter(|name| !name.is_empty());
                let write = name.map_or_else(String::new, |name| format!(": write `port: {name}`"));
                format!("{number} is the Service's own port, and its targetPort is {target}{write}")
            })
        }
        (Mismatch::Port { .. } | Mismatch::Family { .. }, _) => None,
    })
}
