//! Labels about where endpoints come from.

use super::Label;

labels! {
    /// `discovery_relists_total{reason}`: reasons for whole lists from the Kubernetes API server.
    RelistReason, "reason", {
        /// The first list.
        Start => "start",
        /// A version that is too old (410) or goes backwards, or a silent watch.
        Expired => "expired",
        /// A refused watch.
        Error => "error",
        /// The interval of full lists.
        Periodic => "periodic",
        /// A message that could not be read.
        Malformed => "malformed",
        /// A list that would have emptied a service.
        Confirm => "confirm",
    }
}

labels! {
    /// `discovery_errors_total{reason}`: input that discovery could not use, or did not get.
    DiscoveryError, "reason", {
        /// An endpoints file that does not parse.
        Garbled => "garbled",
        /// An endpoints file that is missing.
        Missing => "missing",
        /// A message of the cluster that cannot be read.
        Malformed => "malformed",
        /// Pods that cannot be listed, watched or read.
        Pods => "pods",
        /// A name that cannot be looked up.
        Dns => "dns",
        /// An API server without a connection or an answer.
        Unreachable => "unreachable",
        /// Rights that the API server denies (403).
        Forbidden => "forbidden",
        /// Credentials that the API server refuses (401).
        Unauthorized => "unauthorized",
        /// An API server that asks to wait (429, 503 with `Retry-After`).
        Throttled => "throttled",
        /// Any other refusal of the API server.
        Refused => "refused",
    }
}

labels! {
    /// `discovery_mismatch{reason}`: a name of the configuration that the cluster does not have.
    MismatchReason, "reason", {
        /// A Service without EndpointSlices.
        Service => "service",
        /// A port that no EndpointSlice with endpoints has.
        Port => "port",
        /// Addresses that `ipFamily` leaves out.
        Family => "family",
    }
}
