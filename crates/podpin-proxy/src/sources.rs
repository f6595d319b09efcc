//! Runs the discovery of each service: what it says goes to the one writer of that service's endpoints.

use podpin_config::Discovery;
use podpin_discovery::{FileEvent, FileSource, ReadError, static_endpoints};
use podpin_endpoints::{Observed, Update};

use crate::service::TableWriter;
use crate::start::StartError;

/// A service's source after its first reading.
pub(crate) enum Source {
    /// Written in the configuration; never changes.
    Static,
    /// A file, followed as it changes.
    File(FileSource),
}

/// Reads every source once, so that a good start is ready at once and a garbled file is refused at once.
///
/// # Errors
/// [`StartError::Endpoints`] when a file is there and cannot be understood. A missing file is waited for.
pub(crate) fn prepare(writers: Vec<TableWriter>) -> Result<Vec<(TableWriter, Source)>, StartError> {
    let mut prepared = Vec::with_capacity(writers.len());
    for mut writer in writers {
        let service = writer.service().clone();
        let source = match &service.configuration.discovery {
            Discovery::Static(endpoints) => {
                apply(&mut writer, static_endpoints(endpoints));
                Source::Static
            }
            Discovery::File(path) => {
                let source = FileSource::new(path.clone());
                match source.read() {
                    Ok(observed) => replace(&mut writer, observed),
                    Err(error @ (ReadError::Missing { .. } | ReadError::Io { .. })) => {
                        unreadable(&writer, &error)
                    }
                    Err(error @ ReadError::Garbled(_)) => {
                        return Err(StartError::Endpoints(error.to_string()));
                    }
                }
                Source::File(source)
            }
        };
        prepared.push((writer, source));
    }
    Ok(prepared)
}

/// Refuses an endpoints file that is there and cannot be understood.
///
/// # Errors
/// [`StartError::Endpoints`].
pub(crate) fn verify(discovery: &Discovery) -> Result<(), StartError> {
    let Discovery::File(path) = discovery else { return Ok(()) };
    match FileSource::new(path.clone()).read() {
        Err(error @ ReadError::Garbled(_)) => Err(StartError::Endpoints(error.to_string())),
        Ok(_) | Err(ReadError::Missing { .. } | ReadError::Io { .. }) => Ok(()),
    }
}

/// Follows a source for as long as the process runs.
pub(crate) async fn follow(mut writer: TableWriter, source: Source) {
    let Source::File(source) = source else { return };
    source
        .watch(move |event| match event {
            FileEvent::Endpoints(observed) => replace(&mut writer, observed),
            FileEvent::Garbled(error) => {
                let service = writer.service();
                service.metrics.discovery_errors.inc("garbled");
                service.metrics.discovery_connected.set(0);
                tracing::error!(service = %service.name, %error, "endpoints file not understood: the last good list is kept");
            }
            FileEvent::Missing => {
                let service = writer.service();
                service.metrics.discovery_errors.inc("missing");
                service.metrics.discovery_connected.set(0);
                tracing::warn!(service = %service.name, "endpoints file is missing: the last good list is kept");
            }
        })
        .await;
}

fn replace(writer: &mut TableWriter, observed: Vec<Observed>) {
    apply(writer, Update::Replace(observed));
}

fn apply(writer: &mut TableWriter, update: Update) {
    writer.service().metrics.discovery_connected.set(1);
    writer.apply(update);
}

fn unreadable(writer: &TableWriter, error: &ReadError) {
    let service = writer.service();
    service.metrics.discovery_errors.inc("missing");
    tracing::warn!(service = %service.name, %error, "not ready: waiting for the endpoints file");
}
