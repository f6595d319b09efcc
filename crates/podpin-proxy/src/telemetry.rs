//! Metrics, their labels, and the access log.

pub mod access_log;
pub mod labels;
pub mod metrics;
pub mod rate;
