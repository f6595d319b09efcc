//! Filters of a route and replies of the proxy itself.

pub(crate) mod filters;
pub(crate) mod reply;
