//! The limit of file descriptors: raised as far as the system allows, with a warning if that is not enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but clients and their upstreams: logs, watches, epoll, idle pool.
const OTHER_DESCRIPTORS: u64 = 512;

/// Raises the soft limit to the hard one; returns the limit in force.
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

/// Returns the descriptors that `limits.connections` needs: an event stream over HTTP/1.1 takes two.
fn needed(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(OTHER_DESCRIPTORS)
}

/// Warns if `limits.connections` cannot be reached with this many descriptors.
pub(crate) fn warn_if_short(limit: u64, connections: usize) {
    let wanted = needed(connections);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_needs_a_descriptor_on_either_side() {
        assert_eq!(needed(1_000), 2_512);
        assert_eq!(needed(usize::MAX), u64::MAX);
        assert!(raise_limit() > 0);
    }
}
