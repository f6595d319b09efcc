//! How the cluster is reached, for the services whose endpoints Kubernetes tells. Nothing of it is needed in a Pod.

use std::{path::PathBuf, time::Duration};

use crate::{section::Section, unit::DurationRange};

/// The cluster of all services with `discovery.kubernetes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// A kubeconfig file. Absolute, or joined to the configuration file's directory. `None` if absent: the Pod's own service
    /// account, else `KUBECONFIG`, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The context in the kubeconfig; `None` if its current one.
    pub context: Option<String>,
    /// How long readiness waits for the first list of every service. 1 s to 1 h, default 30 s.
    pub initial_list_timeout: Duration,
}

const INITIAL_LIST: DurationRange = DurationRange::new(Duration::from_secs(1), Duration::from_secs(3_600));

impl Default for Kubernetes {
    fn default() -> Self {
        Self { kubeconfig: None, context: None, initial_list_timeout: Duration::from_secs(30) }
    }
}

impl Kubernetes {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let context = section.get("context").and_then(|node| node.text("the name of a context"));
        Self {
            kubeconfig: section.get("kubeconfig").and_then(|node| node.file_path()),
            context: context.map(str::to_owned),
            initial_list_timeout: section.duration(
                "initialListTimeout",
                INITIAL_LIST,
                default.initial_list_timeout,
            ),
        }
    }
}
