//! The endpoint that a request belongs to: client identity, service of the route, selection, session headers.

pub(crate) mod identify;
pub(crate) mod request_view;
pub(crate) mod routed_request;
pub(crate) mod select;
pub(crate) mod selected;
pub(crate) mod session_headers;
pub(crate) mod split;
pub(crate) mod wait;
