//! The files of the TLS to endpoints: a change of one of them is a reload of the same configuration.

use std::path::PathBuf;

use podpin_config::Config;
use podpin_discovery::FileWatch;
use podpin_proxy::net::tls::upstream_tls_files;

/// A watch of every file that the TLS to endpoints is read from.
pub(crate) struct UpstreamTlsFiles {
    paths: Vec<PathBuf>,
    watch: FileWatch,
}

impl UpstreamTlsFiles {
    /// Watches the files of a configuration.
    pub(crate) fn of(config: &Config) -> UpstreamTlsFiles {
        UpstreamTlsFiles::watching(paths(config))
    }

    fn watching(paths: Vec<PathBuf>) -> UpstreamTlsFiles {
        let watch = FileWatch::new(paths.iter().cloned());
        UpstreamTlsFiles { paths, watch }
    }

    /// Watches the files of another configuration; `None` if they are the same.
    pub(crate) fn for_next(&self, config: &Config) -> Option<UpstreamTlsFiles> {
        Some(paths(config)).filter(|paths| *paths != self.paths).map(UpstreamTlsFiles::watching)
    }

    /// Resolves when one of the files has changed.
    pub(crate) async fn changed(&mut self) {
        self.watch.changed().await;
    }
}

fn paths(config: &Config) -> Vec<PathBuf> {
    let tls = config.services.iter().filter_map(|service| service.tls.as_ref());
    tls.flat_map(upstream_tls_files).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[tokio::test]
    async fn another_watch_begins_only_for_other_files() {
        let text = "{a: {discovery: {static: []}, tls: {caFile: /nonexistent/ca.pem, serverName: a}}}";
        let with = fixture::config(text);
        let without = fixture::config("{a: {discovery: {static: []}}}");
        let files = UpstreamTlsFiles::of(&with);
        assert!(files.for_next(&with).is_none() && files.for_next(&without).is_some());
    }
}
