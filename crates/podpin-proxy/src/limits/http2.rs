//! Bounds of HTTP/2 connections, from `limits`.

use std::sync::Arc;

use podpin_config::ListenerLimits;
use podpin_h2::Config;
use podpin_wire::http1::request_head::FIELDS_MAX;

/// Returns the bounds that all HTTP/2 connections under these limits share.
#[must_use]
pub fn config(limits: &ListenerLimits) -> Arc<Config> {
    Arc::new(Config {
        head_bytes_max: u32::try_from(limits.request_header_bytes).unwrap_or(u32::MAX),
        head_fields_max: u16::try_from(FIELDS_MAX).unwrap_or(u16::MAX),
        head_timeout: limits.request_header_timeout,
        idle_timeout: limits.keep_alive_timeout,
        ping_interval: limits.http2_ping,
        extended_connect: true,
        ..Config::default()
    })
}
