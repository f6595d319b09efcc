//! What all workers share: the site in force, keys, metrics, open streams, and whether we are leaving.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::HeaderMap;
use parking_lot::Mutex;
use podpin_affinity::Keyring;
use podpin_config::{Config, ListenerLimits};
use podpin_endpoints::{Millis, Phase};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::access_log::AccessLog;
use crate::clock;
use crate::drain::ShutdownTimes;
use crate::forward::Client;
use crate::keys;
use crate::metrics::Metrics;
use crate::occupancy::Occupancy;
use crate::route::Destination;
use crate::service::ServiceState;
use crate::site::Site;
use crate::start::StartError;
use crate::streams::{StreamRecord, Streams};

impl std::fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// The shared state of the proxy. Everything in it is read without waiting.
pub(crate) struct Gateway {
    site: ArcSwap<Site>,
    keyring: ArcSwap<Keyring>,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: AccessLog,
    pub(crate) streams: Streams,
    /// Until when readiness waits for the first lists of the cluster's services.
    lists_awaited_until: Millis,
    /// A service that a reload took away had a list of endpoints.
    has_listed: AtomicBool,
    /// Client connections open now.
    pub(crate) connections: AtomicUsize,
    /// Of those that count against `limits.connectionsPerClientIP`, how many each address has.
    pub(crate) addresses: Occupancy<IpAddr>,
    /// Refused connections that are listened to now.
    pub(crate) seats_taken: AtomicUsize,
    /// Ordinary requests in flight.
    pub(crate) requests: AtomicUsize,
    /// Owns every connection and stream of the workers.
    pub(crate) tasks: TaskTracker,
    /// Wakes the task that makes streams leave.
    pub(crate) drain_wake: Arc<Notify>,
    shutdown_times: Mutex<Option<ShutdownTimes>>,
    leaving: AtomicBool,
    /// Turns true when listeners must close and idle connections with them.
    closing: watch::Sender<bool>,
}

impl Gateway {
    /// Everything as it is at the start, without any endpoints yet.
    ///
    /// # Errors
    /// When a key file, the access log or a file of the TLS to pods cannot be used.
    pub(crate) fn new(config: &Config, version: &str) -> Result<Gateway, StartError> {
        let metrics = Metrics::new(version)?;
        let keyring = keys::load(&config.affinity_keys)?;
        let access_log = AccessLog::new(metrics.access_log_dropped.clone());
        access_log.go_on_in(AccessLog::open(&config.access_log)?);
        let drain_wake = Arc::new(Notify::new());
        let site = Site::build(config, None, &metrics, &drain_wake)?;
        metrics.config_loaded(crate::service::unix_seconds_f64());
        Ok(Gateway {
            site: ArcSwap::from_pointee(site),
            keyring: ArcSwap::from_pointee(keyring),
            metrics,
            access_log,
            streams: Streams::default(),
            lists_awaited_until: clock::after(clock::now(), config.kubernetes.initial_list_timeout),
            has_listed: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            addresses: Occupancy::default(),
            seats_taken: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
            drain_wake,
            shutdown_times: Mutex::default(),
            leaving: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        })
    }

    /// What is in force now. Not to be asked twice by one request: a reload may come between.
    pub(crate) fn site(&self) -> Arc<Site> {
        self.site.load_full()
    }

    /// Puts a new site in force. The streams of routes that it does not have leave, and services that it does not have
    /// end with their last stream.
    pub(crate) fn move_to(&self, site: Arc<Site>) {
        let before = self.site.swap(Arc::clone(&site));
        if before.services.iter().any(|service| service.view().snapshot.first_list_seen()) {
            self.has_listed.store(true, Ordering::Relaxed);
        }
        before.withdraw_routes_missing_in(&site);
        for gone in before.services_missing_in(&site) {
            gone.queue.close();
            self.metrics.forget_service(&gone.name);
        }
        self.drain_wake.notify_one();
    }

    /// Where a request goes, by its authority, its path and its header lines.
    pub(crate) fn route(&self, authority: &str, path: &str, headers: &HeaderMap) -> Option<Destination> {
        self.site.load().table.find(authority, path, headers)
    }

    /// What clients may cost, as of now.
    pub(crate) fn limits(&self) -> ListenerLimits {
        self.site.load().limits
    }

    pub(crate) fn keyring(&self) -> Guard<Arc<Keyring>> {
        self.keyring.load()
    }

    /// Puts new keys in force; tokens of streams that are open are not touched.
    pub(crate) fn set_keyring(&self, keyring: Keyring) {
        self.keyring.store(Arc::new(keyring));
    }

    /// Who the client is, as far as the other end may say.
    pub(crate) fn client(&self, peer: IpAddr, tls: bool, headers: &HeaderMap) -> Client {
        Client::of(peer, tls, headers, &self.site.load().trusted_proxies)
    }

    /// Whether this peer is in `trustedProxies`.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.site.load().trusted_proxies.iter().any(|range| range.contains(peer))
    }

    /// Ready for traffic: every service has had its first list of endpoints, and we are not leaving. One service that
    /// the cluster says nothing about does not keep the others waiting for longer than `kubernetes.initialListTimeout`;
    /// a replica on which no service ever had a list is never ready.
    pub(crate) fn is_ready(&self) -> bool {
        let overdue = clock::now() >= self.lists_awaited_until;
        let site = self.site();
        let lists = site.services.iter().map(|service| FirstList {
            is_seen: service.view().snapshot.first_list_seen(),
            // One that a reload brought keeps nobody away from those that were served before.
            is_awaited: service.is_awaited && !(overdue && service.is_of_the_cluster()),
        });
        !self.is_leaving() && may_serve(lists, self.has_listed.load(Ordering::Relaxed))
    }

    /// How long readiness waits for the first lists of the cluster's services.
    pub(crate) fn lists_awaited_until(&self) -> Millis {
        self.lists_awaited_until
    }

    /// Services that never had a list of endpoints.
    pub(crate) fn waiting_for(&self) -> Vec<Arc<ServiceState>> {
        let site = self.site();
        let services = site.services.iter().filter(|service| !service.view().snapshot.first_list_seen());
        services.cloned().collect()
    }

    /// SIGTERM has come.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Turns readiness off, for good.
    pub(crate) fn begin_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.metrics.shutdown_in_progress.set(1);
    }

    /// Closes listeners and idle connections.
    pub(crate) fn close_listeners(&self) {
        self.closing.send_replace(true);
        self.site().services.iter().for_each(|service| service.queue.close());
    }

    /// Listeners and idle connections watch this; Pingora takes it as its shutdown signal.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Nothing is left to wait for: no stream, no ordinary request.
    pub(crate) fn is_idle(&self) -> bool {
        self.streams.count() == 0 && self.requests.load(Ordering::Relaxed) == 0
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn in_flight(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// A stream that begins on an endpoint or a route that is leaving, or while all are, leaves with the others. To be
    /// asked after the stream is among [`Gateway::streams`], or it might be overlooked on both sides.
    pub(crate) fn leave_with_the_others(&self, stream: &Arc<StreamRecord>) {
        let service = &stream.route.service;
        let phase = || service.endpoint(&stream.endpoint().id).map_or(Phase::Gone, |endpoint| endpoint.phase);
        if *self.closing.borrow() || stream.route.is_withdrawn() || phase() >= Phase::Draining {
            service.desk.report_late(Arc::clone(stream));
        }
    }

    /// Sends every open stream away, evenly over `spread`, all before `deadline`.
    pub(crate) fn send_streams_away(&self, spread: Duration, deadline: Millis) {
        *self.shutdown_times.lock() = Some(ShutdownTimes { begins: clock::now(), spread, deadline });
        self.drain_wake.notify_one();
    }

    /// When all streams are to leave, if they are.
    pub(crate) fn shutdown_times(&self) -> Option<ShutdownTimes> {
        *self.shutdown_times.lock()
    }
}

/// The first list of endpoints of one service.
#[derive(Clone, Copy, Debug)]
struct FirstList {
    is_seen: bool,
    is_awaited: bool,
}

/// Whether a replica with these services may serve; `has_listed` if one that a reload took away ever had a list.
fn may_serve(lists: impl Iterator<Item = FirstList>, has_listed: bool) -> bool {
    let lists: Vec<FirstList> = lists.collect();
    let knows_any = has_listed || lists.is_empty() || lists.iter().any(|list| list.is_seen);
    knows_any && lists.iter().all(|list| list.is_seen || !list.is_awaited)
}

/// A request on its way, which a shutdown waits for.
pub(crate) struct InFlight(Arc<Gateway>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_without_any_list_never_serves_and_one_with_some_waits_for_those_that_are_awaited() {
        let seen = FirstList { is_seen: true, is_awaited: true };
        let awaited = FirstList { is_seen: false, is_awaited: true };
        let overdue = FirstList { is_seen: false, is_awaited: false };
        let table: [(&[FirstList], bool, bool); 9] = [
            (&[], false, true),
            (&[seen], false, true),
            (&[awaited], false, false),
            (&[overdue], false, false),
            (&[overdue, overdue], false, false),
            (&[overdue, seen], false, true),
            (&[awaited, seen], false, false),
            (&[overdue], true, true),
            (&[awaited], true, false),
        ];
        for (lists, has_listed, expected) in table {
            assert_eq!(may_serve(lists.iter().copied(), has_listed), expected, "{lists:?} {has_listed}");
        }
    }
}
