//! Endpoints that do not come from a cluster: lists of the configuration, and files and names, which are followed.

use std::sync::Arc;

use podpin_config::Discovery;
use podpin_discovery::{
    FileEvent, FileSource, NameEvent, NameSource, ReadError, follow_names, static_endpoints,
};
use podpin_endpoints::{Observed, Update};
use podpin_proxy::balance::service::{ServiceState, TableWriter};
use podpin_proxy::telemetry::labels::DiscoveryError;

use crate::error::StartError;

/// The first list of endpoints of a service.
pub(crate) enum InitialEndpoints {
    /// A list of the configuration.
    Static(Update),
    /// A file with its list; the error is one to wait out.
    File {
        /// The file.
        source: FileSource,
        /// The list.
        list: Result<Vec<Observed>, ReadError>,
    },
    /// Names in DNS, whose addresses come later.
    Names,
    /// A cluster, whose list comes later.
    Cluster,
}

/// A source of endpoints that is followed from its first list on.
pub(crate) enum FollowedSource {
    /// A file.
    File(FileSource),
    /// Names in DNS.
    Names(NameSource),
}

/// A service with the first list of its endpoints.
pub(crate) struct ServiceStart {
    pub(crate) service: Arc<ServiceState>,
    pub(crate) endpoints: InitialEndpoints,
}

impl InitialEndpoints {
    /// Reads a source once, so that a good start is ready at once and a malformed file is refused at once.
    ///
    /// # Errors
    /// [`StartError::Endpoints`] if a file exists and does not parse. A missing file is waited for.
    pub(crate) fn read(discovery: &Discovery) -> Result<InitialEndpoints, StartError> {
        match discovery {
            Discovery::Static(endpoints) => {
                let list = static_endpoints(endpoints);
                Ok(list.map_or(InitialEndpoints::Names, InitialEndpoints::Static))
            }
            Discovery::Dns(_) => Ok(InitialEndpoints::Names),
            Discovery::File(path) => {
                let source = FileSource::new(path.clone());
                match source.read() {
                    Err(error @ ReadError::Garbled(_)) => Err(StartError::Endpoints(error.to_string())),
                    list => Ok(InitialEndpoints::File { source, list }),
                }
            }
            Discovery::Kubernetes(_) => Ok(InitialEndpoints::Cluster),
        }
    }

    /// Puts the list in force; returns the source to follow from now on, `None` if there is none that is followed by itself.
    pub(crate) fn apply(self, writer: &TableWriter) -> Option<FollowedSource> {
        match self {
            InitialEndpoints::Static(update) => {
                connected(writer, update);
                None
            }
            InitialEndpoints::File { source, list } => {
                match list {
                    Ok(observed) => connected(writer, Update::Replace(observed)),
                    Err(error) => await_file(writer, &error),
                }
                Some(FollowedSource::File(source))
            }
            InitialEndpoints::Names => names_of(writer.service()).map(FollowedSource::Names),
            InitialEndpoints::Cluster => None,
        }
    }
}

/// Returns the names whose addresses are the endpoints of a service; `None` if it has none.
fn names_of(service: &ServiceState) -> Option<NameSource> {
    // An address that vanished drains as long as its streams may take to leave.
    let linger = service.drain_times().timeout;
    match &service.configuration.discovery {
        Discovery::Dns(name) => Some(NameSource::of_name(&service.name, name, linger)),
        Discovery::Static(list) => Some(NameSource::of_list(&service.name, list, linger)),
        Discovery::File(_) | Discovery::Kubernetes(_) => None,
    }
}

/// Follows names in DNS for as long as the process runs.
pub(crate) async fn follow_all_names(writer: TableWriter, source: NameSource) {
    follow_names(source, move |event| on_name_event(&writer, event)).await;
}

fn on_name_event(writer: &TableWriter, event: NameEvent) {
    match event {
        NameEvent::Endpoints(observed) => writer.apply(Update::Replace(observed)),
        NameEvent::Answered => {
            writer.service().metrics.discovery_connected.set(1);
            writer.service().source.recovered();
            writer.heard();
        }
        NameEvent::Failed(reason) => {
            disconnected(writer.service(), DiscoveryError::Dns, reason.to_string());
        }
    }
}

/// Follows an endpoints file for as long as the process runs.
pub(crate) async fn follow_file(writer: TableWriter, source: FileSource) {
    source.watch(move |event| on_event(&writer, event)).await;
}

fn on_event(writer: &TableWriter, event: FileEvent) {
    let service = writer.service();
    match event {
        FileEvent::Endpoints(observed) => connected(writer, Update::Replace(observed)),
        FileEvent::Garbled(error) => {
            disconnected(service, DiscoveryError::Garbled, format!("endpoints file is invalid: {error}"));
            tracing::error!(service = %service.name, %error, "endpoints file is invalid: {}", kept(service));
        }
        FileEvent::Missing => {
            disconnected(service, DiscoveryError::Missing, "endpoints file is missing".to_owned());
            tracing::warn!(service = %service.name, "endpoints file is missing: {}", kept(service));
        }
    }
}

fn connected(writer: &TableWriter, update: Update) {
    writer.service().metrics.discovery_connected.set(1);
    writer.service().source.recovered();
    writer.apply(update);
}

fn disconnected(service: &ServiceState, error: DiscoveryError, reason: String) {
    service.metrics.discovery_errors.inc(error);
    service.metrics.discovery_connected.set(0);
    service.source.failed(error, Some(reason.into()));
}

/// Records that a file cannot be read yet.
fn await_file(writer: &TableWriter, error: &ReadError) {
    let service = writer.service();
    service.metrics.discovery_errors.inc(DiscoveryError::Missing);
    service.source.failed(DiscoveryError::Missing, Some(error.to_string().into()));
    tracing::warn!(service = %service.name, %error, "not ready: waiting for the endpoints file");
}

/// Returns the words for the endpoints of a service whose file cannot be read.
fn kept(service: &ServiceState) -> &'static str {
    match service.view().snapshot.first_list_seen() {
        true => "the last good list is kept",
        false => "no endpoints are known yet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_file_that_fails_after_a_good_list_keeps_that_list_and_shows_the_failure() {
        let shared = fixture::shared("{chat: {discovery: {static: []}}}");
        let service = Arc::clone(&shared.snapshot().services[0]);
        let writer = TableWriter::new(Arc::clone(&service));
        assert_eq!(kept(&service), "no endpoints are known yet");
        on_event(&writer, FileEvent::Endpoints(Vec::new()));
        on_event(&writer, FileEvent::Missing);
        assert_eq!(kept(&service), "the last good list is kept");
        assert_eq!(service.source.failure().as_deref(), Some("endpoints file is missing"));
        assert_eq!(service.metrics.discovery_connected.get(), 0);
    }

    #[test]
    fn a_name_that_is_not_answered_keeps_the_last_list_and_shows_the_failure() {
        let shared = fixture::shared("{chat: {discovery: {dns: {name: chat.internal, port: 80}}}}");
        let service = Arc::clone(&shared.snapshot().services[0]);
        let initial = InitialEndpoints::read(&service.configuration.discovery).unwrap();
        let writer = TableWriter::new(Arc::clone(&service));
        assert!(matches!(initial.apply(&writer), Some(FollowedSource::Names(_))));
        assert!(!service.view().snapshot.first_list_seen() && service.is_told_by_a_server());
        on_name_event(&writer, NameEvent::Answered);
        on_name_event(&writer, NameEvent::Endpoints(Vec::new()));
        on_name_event(&writer, NameEvent::Failed("SERVFAIL".into()));
        assert!(service.view().snapshot.first_list_seen());
        assert_eq!(service.source.failure().as_deref(), Some("SERVFAIL"));
        assert_eq!(service.metrics.discovery_connected.get(), 0);
        let text = String::from_utf8(shared.metrics.render()).unwrap();
        assert!(text.contains("podpin_discovery_errors_total{reason=\"dns\",service=\"chat\"} 1"), "{text}");
        let named = "{chat: {discovery: {static: [{name: a, address: \"localhost:80\"}]}}}";
        let service = Arc::clone(&fixture::shared(named).snapshot().services[0]);
        assert!(names_of(&service).is_some() && service.is_told_by_a_server());
    }

    #[test]
    fn a_malformed_file_is_refused_and_a_missing_one_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("endpoints.yaml");
        let discovery = Discovery::File(path.clone());
        let initial = InitialEndpoints::read(&discovery).unwrap();
        assert!(matches!(initial, InitialEndpoints::File { list: Err(_), .. }));
        std::fs::write(&path, "endpoints: {").unwrap();
        assert!(matches!(InitialEndpoints::read(&discovery), Err(StartError::Endpoints(_))));
    }
}
