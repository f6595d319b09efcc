//! Configurations and shared state for unit tests, without sockets or threads.

use std::path::Path;
use std::sync::Arc;

use podpin_config::Config;
use podpin_proxy::balance::service::TableWriter;
use podpin_proxy::shared::Shared;
use podpin_proxy::stream_registry::StreamRegistry;
use podpin_proxy::telemetry::metrics::Metrics;

use crate::build::Surroundings;
use crate::prepare::Prepared;
use crate::sources::ServiceStart;

/// A configuration but for its keys.
pub(crate) const MINIMAL: &str = "listeners: [{name: http, address: 127.0.0.1:1}]\nadmin: {address: 127.0.0.1:2}\n\
                                  accessLog: off\nroutes: [{service: a}]\n\
                                  services: {a: {discovery: {static: []}}}\n";

/// Parses a configuration.
pub(crate) fn parsed(text: &str) -> Config {
    Config::parse(text, "test", Path::new("")).unwrap()
}

/// Returns a configuration with these services, written as YAML, and a route to the first of them.
pub(crate) fn config(services: &str) -> Config {
    let first = services.trim_start_matches('{').split(':').next().unwrap();
    parsed(&format!(
        "listeners: [{{name: http, address: 127.0.0.1:1}}]\nadmin: {{address: 127.0.0.1:2}}\n\
         affinityKeys: ephemeral\naccessLog: off\nroutes: [{{service: {first}}}]\nservices: {services}\n"
    ))
}

/// Returns the shared state of a process with these services, none of which has a list of endpoints yet.
pub(crate) fn shared(services: &str) -> Arc<Shared> {
    prepared(&config(services)).0
}

/// Returns the shared state of a process with these services, each with its first list.
pub(crate) fn started(config: &Config) -> Arc<Shared> {
    let (shared, initial) = prepared(config);
    for start in initial {
        assert!(start.endpoints.apply(&TableWriter::new(start.service)).is_none(), "only static lists");
    }
    shared
}

fn prepared(config: &Config) -> (Arc<Shared>, Vec<ServiceStart>) {
    let (metrics, streams) = (Metrics::new("0").unwrap(), Arc::new(StreamRegistry::new()));
    let around = Surroundings { in_force: None, metrics: &metrics, streams: &streams };
    let prepared = Prepared::read(config, &around).unwrap();
    (Arc::new(Shared::new(prepared.snapshot, metrics, streams)), prepared.initial)
}
