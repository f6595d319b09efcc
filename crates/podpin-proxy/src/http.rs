//! Filters of a route and replies of the proxy itself.

pub mod filters;
pub(crate) mod options;
pub mod reply;
