//! The configuration: one YAML file becomes one [`Config`], or every error in it with line and column.
//!
//! Parse, don't validate: the names in a [`Config`] resolve, its durations are in range, its paths are
//! absolute. Unknown keys are refused with a suggestion.
//! Reading certificates, keys and endpoint files is left to those who use them, by [`read_file`].

mod access_log;
mod admin;
mod affinity;
mod error;
mod file;
mod filters;
mod host;
mod keys;
mod kubernetes;
mod listener;
mod manifest;
mod name;
mod node;
mod parse;
mod path;
mod route;
mod scalar;
mod schema;
mod section;
mod service;
mod shutdown;
mod sse;
mod suggest;
mod tls;
mod unit;

pub use access_log::AccessLog;
pub use admin::Admin;
pub use affinity::{Affinity, ClientIp, CookieAttributes, OnUnavailable, SameSite, Secure, WaitQueue};
pub use error::{ConfigError, Problem};
pub use file::read_file;
pub use filters::{Cors, HeaderEdits, RouteFilters};
pub use host::Host;
pub use keys::{AffinityKeys, KeyFile};
pub use kubernetes::Kubernetes;
pub use listener::{
    AmbiguousPaths, HeadersWithUnderscores, Listener, ListenerLimits, ProxyProtocol, TcpKeepAlive,
};
pub use manifest::Found;
pub use node::Position;
pub use parse::Config;
pub use route::{Backend, Expression, HeaderMatch, PathMatch, Route, RouteMatch, ValueMatch};
pub use service::{
    ActiveHealth, Balance, Budget, Discovery, DnsName, Drain, EndpointAddress, Handover, HandoverLimit,
    Health, IpFamily, KubernetesService, Order, PassiveHealth, Pinned, Port, Probe, Protocol, Rebalance,
    Retries, Service, ServiceLimits, StaticEndpoint, Strategy, Timeouts, ZonePreference,
};
pub use shutdown::Shutdown;
pub use sse::{AcceptEncoding, RetryHint, Sse, Unavailable};
pub use tls::{
    CertificateFiles, CertificatePart, ClientAuth, FileAt, ListenerTls, PlainHttp, PodTls, TlsVersion,
};
pub use unit::{Cidr, CidrError, DurationError, format_bytes, format_duration, parse_duration};

/// The rules for single values, for those who write configurations: what passes here is not refused in a file.
pub mod rule {
    pub use crate::filters::may_edit_header;
    pub use crate::host::parse_host;
    pub use crate::name::{is_field_value, is_token, refuse_dns_name};
    pub use crate::path::refuse_path;
    pub use crate::route::refuse_expression;
}
