//! The controller's defaults: what holds where neither its ConfigMap nor an Ingress says anything.

use crate::tree::{Map, Tree};

/// nginx's own time to connect.
const CONNECT_SECONDS: u64 = 5;
/// The controller's own `hsts-max-age`.
pub(crate) const YEAR_SECONDS: u64 = 31_536_000;

/// What the controller does where an Ingress says nothing.
#[derive(Debug)]
pub(crate) struct Defaults {
    /// Seconds to connect to a pod.
    pub(crate) connect: u64,
    /// Seconds between two reads, where the ConfigMap says it.
    pub(crate) read: Option<u64>,
    /// Tries after the first, where the ConfigMap says it.
    pub(crate) attempts: Option<u64>,
    pub(crate) strategy: Option<&'static str>,
    /// The value of `Strict-Transport-Security`; `None` if it is off.
    pub(crate) hsts: Option<String>,
    pub(crate) redirect_code: u16,
    pub(crate) ssl_redirect: bool,
    pub(crate) is_redirect_forced: bool,
    /// Settings of every route.
    pub(crate) route: Map,
    /// Settings of the listeners' own section, `limits`.
    pub(crate) limits: Map,
    pub(crate) shutdown: Map,
    pub(crate) trusted: Vec<String>,
    pub(crate) proxy_protocol: bool,
    pub(crate) min_tls: Option<&'static str>,
}

impl Default for Defaults {
    fn default() -> Self {
        let mut limits = Map::default();
        let from = "nginx drops such fields unless enable-underscores-in-headers";
        limits.set_from(&["headersWithUnderscores"], Tree::text("drop"), from);
        Self {
            connect: CONNECT_SECONDS,
            read: None,
            attempts: None,
            strategy: None,
            hsts: Some(format!("max-age={YEAR_SECONDS}; includeSubDomains")),
            redirect_code: 308,
            ssl_redirect: true,
            is_redirect_forced: false,
            route: Map::default(),
            limits,
            shutdown: Map::default(),
            trusted: Vec::new(),
            proxy_protocol: false,
            min_tls: None,
        }
    }
}
