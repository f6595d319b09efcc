//! The control thread of the proxy: start, reload, discovery, drains, health checks, the admin port.
//!
//! The entry is [`start()`], which returns a [`Running`] proxy. The data plane (`podpin-proxy`) knows nothing of this crate:
//! configuration and endpoints flow down to it, counts flow back.

mod admin;
mod build;
mod certificates;
mod cluster;
mod drain;
mod error;
mod health_checks;
mod keys;
mod prepare;
mod readiness;
mod reload;
mod rlimit;
mod shutdown;
mod sockets;
mod sources;
mod start;
mod upstream_tls_files;
mod watchers;

#[cfg(test)]
mod costs;
#[cfg(test)]
mod fixture;

pub use error::{ReloadError, StartError};
pub use podpin_discovery::Survey;
pub use reload::{Reloaded, Reloader};
pub use start::{Depth, Running, start, survey, verify};
