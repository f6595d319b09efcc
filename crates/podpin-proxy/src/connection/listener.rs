//! A listener as one worker serves it.

use std::sync::Arc;

use pingora_proxy::HttpProxy;

use crate::net::listener::ListenerSettings;
use crate::net::tls::ServerTls;
use crate::shared::Shared;
use crate::upgrade::pipeline::Pipeline;

/// A listener with everything that its connections need.
pub(crate) struct Listener {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// Settings in force for new connections.
    pub settings: Arc<ListenerSettings>,
    /// State of the process.
    pub shared: Arc<Shared>,
    /// Pingora's forwarding, for requests that offer another protocol.
    pub proxy: Arc<HttpProxy<Pipeline>>,
}

impl Listener {
    /// Returns the same listener after a reload.
    pub(crate) fn with_settings(&self, settings: Arc<ListenerSettings>) -> Listener {
        let (shared, proxy) = (Arc::clone(&self.shared), Arc::clone(&self.proxy));
        Listener { name: Arc::clone(&self.name), settings, shared, proxy }
    }

    /// Returns the TLS of the listener; `None` if it has none.
    pub(crate) fn tls(&self) -> Option<&Arc<ServerTls>> {
        self.settings.tls.as_ref()
    }
}
