//! Metrics, their labels, and the access log.

pub(crate) mod access_log;
pub(crate) mod labels;
pub(crate) mod metrics;
