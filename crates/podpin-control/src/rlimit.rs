//! The process's file descriptors: raised as far as the system allows, and a word when that is not far enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything that is not a client or a pod: logs, watches, epoll, idle pool.
const OTHER_DESCRIPTORS: u64 = 512;

/// Raises the soft limit to the hard one; gives what is in force. An event stream over HTTP/1.1 takes two.
pub(crate) fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|soft| soft < hard) {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the file limit cannot be raised");
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Says so when `limits.connections` cannot be reached with this many descriptors.
pub(crate) fn warn_if_short(limit: u64, connections: usize) {
    let wanted =
        u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(OTHER_DESCRIPTORS);
    if limit < wanted {
        tracing::warn!(
            limit,
            wanted,
            streams = limit.saturating_sub(OTHER_DESCRIPTORS) / 2,
            "the file limit is too low for limits.connections: raise the hard limit (ulimit -Hn, LimitNOFILE=) \
             or lower limits.connections"
        );
    }
}
