//! Whether this replica is ready for traffic, and which services it still waits for.

use std::sync::Arc;
use std::time::Duration;

use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::clock;
use podpin_proxy::shared::Shared;
use podpin_time::Millis;

/// Readiness of the process.
#[derive(Debug)]
pub(crate) struct Readiness {
    shared: Arc<Shared>,
    /// The end of the wait for the first lists of the cluster's services.
    lists_awaited_until: Millis,
}

impl Readiness {
    /// Builds the readiness of a process that starts now; first lists are awaited for `initial_list_timeout`.
    pub(crate) fn new(shared: Arc<Shared>, initial_list_timeout: Duration) -> Readiness {
        Readiness { shared, lists_awaited_until: clock::after(clock::now(), initial_list_timeout) }
    }

    /// Returns the state whose readiness this is.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether every service has had its first list of endpoints, and the process does not drain. One service that the
    /// cluster does not list keeps the others waiting no longer than `kubernetes.initialListTimeout`.
    pub(crate) fn is_ready(&self) -> bool {
        let overdue = clock::now() >= self.lists_awaited_until;
        // A service that a reload brought keeps nobody away from those that were served before.
        let awaited =
            |service: &Arc<ServiceState>| service.is_awaited && !(overdue && service.is_of_the_cluster());
        !self.shared.lifecycle.is_draining() && !self.without_list().iter().any(awaited)
    }

    /// Returns the names of services that never had a list of endpoints.
    pub(crate) fn waiting_for(&self) -> impl Iterator<Item = Arc<str>> {
        self.without_list().into_iter().map(|service| Arc::clone(&service.name))
    }

    fn without_list(&self) -> Vec<Arc<ServiceState>> {
        let snapshot = self.shared.snapshot();
        let services = snapshot.services.iter().filter(|service| !service.view().snapshot.first_list_seen());
        services.cloned().collect()
    }
}

/// Logs once, when readiness stops waiting, which services the cluster did not list.
pub(crate) async fn report_missing_lists(readiness: Arc<Readiness>) {
    tokio::time::sleep_until(clock::instant(readiness.lists_awaited_until)).await;
    for service in readiness.waiting_for() {
        tracing::error!(
            %service,
            "no list of endpoints from the cluster within kubernetes.initialListTimeout"
        );
    }
}
