//! The control thread of the proxy: start, reload, discovery, drains, health checks, the admin port.
//!
//! Start with [`start()`]; all that comes back is [`Running`]. The data plane (`podpin-proxy`) knows nothing of this crate:
//! configuration and endpoints flow down to it, counts flow back.

mod admin;
mod build;
mod certificates;
mod drain;
mod error;
mod health_checks;
mod keys;
mod readiness;
mod reload;
mod rlimit;
mod sources;
mod start;
mod watchers;

#[cfg(test)]
mod costs;

pub use error::StartError;
pub use reload::{ReloadError, Reloader};
pub use start::{Running, start, verify};
