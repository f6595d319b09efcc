//! A listener as one worker serves it.

use std::sync::Arc;

use crate::net::listener::ListenerSettings;
use crate::net::tls::ServerTls;
use crate::shared::Shared;

/// A listener with everything that its connections need.
pub(crate) struct Listener {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// Settings in force for new connections.
    pub settings: Arc<ListenerSettings>,
    /// State of the process.
    pub shared: Arc<Shared>,
}

impl Listener {
    /// Returns the same listener after a reload.
    pub(crate) fn with_settings(&self, settings: Arc<ListenerSettings>) -> Listener {
        Listener { name: Arc::clone(&self.name), settings, shared: Arc::clone(&self.shared) }
    }

    /// Returns the TLS of the listener; `None` if it has none.
    pub(crate) fn tls(&self) -> Option<&Arc<ServerTls>> {
        self.settings.tls.as_ref()
    }
}
