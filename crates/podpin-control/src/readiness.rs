//! Whether this replica is ready for traffic, and which services it still waits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use podpin_proxy::balance::service::ServiceState;
use podpin_proxy::clock;
use podpin_proxy::shared::Shared;
use podpin_time::Millis;

/// The interval between two looks for services without a list, once they are overdue.
const READINESS_LOOK: Duration = Duration::from_secs(1);

/// Readiness of the process.
#[derive(Debug)]
pub(crate) struct Readiness {
    shared: Arc<Shared>,
    /// The end of the wait for the first lists of the cluster's services.
    lists_awaited_until: Millis,
}

impl Readiness {
    /// Builds the readiness of a process that started at `now`; first lists are awaited for `initial_list_timeout`.
    pub(crate) fn new(shared: Arc<Shared>, initial_list_timeout: Duration, now: Millis) -> Readiness {
        Readiness { shared, lists_awaited_until: clock::after(now, initial_list_timeout) }
    }

    /// Returns the state whose readiness this is.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns whether every service has had its first list of endpoints, and the process does not drain.
    ///
    /// A service that the cluster or the name server does not list keeps the others waiting no longer than `kubernetes.initialListTimeout`; a
    /// replica on which no service ever had a list is never ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready_at(clock::now())
    }

    fn is_ready_at(&self, now: Millis) -> bool {
        let overdue = now >= self.lists_awaited_until;
        let snapshot = self.shared.snapshot();
        let lists = snapshot.services.iter().map(|service| FirstList {
            is_seen: service.view().snapshot.first_list_seen(),
            is_awaited: service.is_awaited() && !(overdue && service.is_told_by_a_server()),
        });
        let earlier = match self.shared.has_listed() {
            true => EarlierLists::Seen,
            false => EarlierLists::Unseen,
        };
        !self.shared.lifecycle.is_draining() && may_serve(lists, earlier)
    }

    /// Returns the services that never had a list of endpoints.
    pub(crate) fn waiting_for(&self) -> Vec<Arc<ServiceState>> {
        let snapshot = self.shared.snapshot();
        let services = snapshot.services.iter().filter(|service| !service.view().snapshot.first_list_seen());
        services.cloned().collect()
    }
}

/// Logs, from the time on when readiness stops waiting, the services that the cluster did not list, and whether the
/// replica is ready without them: once for each reason.
pub(crate) async fn report_missing_lists(readiness: Arc<Readiness>) {
    tokio::time::sleep_until(clock::instant(readiness.lists_awaited_until)).await;
    let mut logged = HashMap::new();
    loop {
        let waiting = readiness.waiting_for();
        if waiting.is_empty() {
            return;
        }
        let state = if readiness.is_ready() { "ready without it" } else { "not ready" };
        for service in waiting {
            let said = (state, service.source.failure());
            if logged.get(&service.name) == Some(&said) {
                continue;
            }
            let reason = said.1.as_deref().unwrap_or("no answer yet");
            tracing::error!(
                service = %service.name,
                reason,
                "{state}: no list of endpoints within kubernetes.initialListTimeout"
            );
            logged.insert(Arc::clone(&service.name), said);
        }
        tokio::time::sleep(READINESS_LOOK).await;
    }
}

/// The first list of endpoints of one service.
#[derive(Clone, Copy, Debug)]
struct FirstList {
    is_seen: bool,
    is_awaited: bool,
}

/// Lists of services that a reload took away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EarlierLists {
    /// None of them ever had a list.
    Unseen,
    /// At least one had a list.
    Seen,
}

/// Returns whether a replica with these services may serve.
fn may_serve(lists: impl Iterator<Item = FirstList>, earlier: EarlierLists) -> bool {
    let lists: Vec<FirstList> = lists.collect();
    let knows_any =
        earlier == EarlierLists::Seen || lists.is_empty() || lists.iter().any(|list| list.is_seen);
    knows_any && lists.iter().all(|list| list.is_seen || !list.is_awaited)
}

#[cfg(test)]
mod tests {
    use podpin_endpoints::Update;
    use podpin_proxy::balance::service::TableWriter;

    use super::*;
    use crate::fixture;

    #[test]
    fn a_replica_without_any_list_never_serves_and_one_with_some_waits_for_those_that_are_awaited() {
        let seen = FirstList { is_seen: true, is_awaited: true };
        let awaited = FirstList { is_seen: false, is_awaited: true };
        let overdue = FirstList { is_seen: false, is_awaited: false };
        let table: [(&[FirstList], EarlierLists, bool); 9] = [
            (&[], EarlierLists::Unseen, true),
            (&[seen], EarlierLists::Unseen, true),
            (&[awaited], EarlierLists::Unseen, false),
            (&[overdue], EarlierLists::Unseen, false),
            (&[overdue, overdue], EarlierLists::Unseen, false),
            (&[overdue, seen], EarlierLists::Unseen, true),
            (&[awaited, seen], EarlierLists::Unseen, false),
            (&[overdue], EarlierLists::Seen, true),
            (&[awaited], EarlierLists::Seen, false),
        ];
        for (lists, earlier, expected) in table {
            assert_eq!(may_serve(lists.iter().copied(), earlier), expected, "{lists:?} {earlier:?}");
        }
    }

    #[test]
    fn a_service_of_the_cluster_is_waited_for_until_its_time_is_over_and_a_drain_ends_readiness() {
        let text = "{a: {discovery: {static: []}}, b: {discovery: {kubernetes: {service: b, port: 80}}}}";
        // The first list of `b` never comes.
        let shared = fixture::shared(text);
        let readiness = Readiness::new(Arc::clone(&shared), Duration::from_secs(10), Millis(0));
        assert!(!readiness.is_ready_at(Millis(0)), "no list at all");
        let first = Arc::clone(&shared.snapshot().services[0]);
        TableWriter::new(first).apply(Update::Replace(Vec::new()));
        assert!(!readiness.is_ready_at(Millis(9_999)));
        assert!(readiness.is_ready_at(Millis(10_000)));
        let waiting: Vec<_> = readiness.waiting_for().iter().map(|one| one.name.to_string()).collect();
        assert_eq!(waiting, ["b"]);
        shared.begin_draining();
        assert!(!readiness.is_ready_at(Millis(10_000)));
    }
}
