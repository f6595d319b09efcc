//! Filters of a route and replies of the proxy itself.

pub mod filters;
pub mod reply;
