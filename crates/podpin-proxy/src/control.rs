//! The control thread: start, reload, discovery, health checks, admin port.

pub(crate) mod admin;
pub(crate) mod health_checks;
pub(crate) mod keys;
pub(crate) mod reload;
pub(crate) mod rlimit;
pub(crate) mod sources;
pub(crate) mod start;
pub(crate) mod status_page;
pub(crate) mod watchers;
