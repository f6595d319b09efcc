//! Settings of a listener that a reload may change; they hold for connections from then on.

use std::sync::Arc;

use podpin_config::ProxyProtocol;

use crate::net::tls::ServerTls;

/// The protocols of a listener.
pub struct ListenerSettings {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// Whether HTTP/2 without TLS is accepted.
    pub h2c: bool,
    /// The TLS of the listener; `None` if it has none.
    pub tls: Option<Arc<ServerTls>>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
}

impl std::fmt::Debug for ListenerSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ListenerSettings").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ListenerSettings {
    /// Builds the settings that the configuration describes.
    #[must_use]
    pub fn new(listener: &podpin_config::Listener, tls: Option<Arc<ServerTls>>) -> ListenerSettings {
        ListenerSettings {
            name: listener.name.as_str().into(),
            h2c: listener.h2c && tls.is_none(),
            tls,
            proxy_protocol: listener.proxy_protocol,
        }
    }
}
