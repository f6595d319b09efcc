//! The endpoint that a request was given, and whether that is its own.

use std::sync::Arc;

use podpin_endpoints::{Endpoint, MoveReason};

/// The endpoint that was selected for a request.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    /// The endpoint itself.
    pub endpoint: Arc<Endpoint>,
    /// The reason why a pinned client is not served by its pinned endpoint; `None` if it is, or has none.
    pub moved: Option<MoveReason>,
    /// Whether this is the client's pinned endpoint.
    pub is_pinned: bool,
}

impl Selected {
    /// Returns the selection of a given endpoint, past all rules.
    pub(crate) fn fixed(endpoint: Arc<Endpoint>) -> Selected {
        Selected { endpoint, moved: None, is_pinned: false }
    }

    /// Whether the client's pinned endpoint has left, so that its streams there were ended.
    pub(crate) fn has_left(&self) -> bool {
        matches!(self.moved, Some(MoveReason::Draining | MoveReason::Gone))
    }
}
