//! The parts of a request that decide its route and its client's session.

use podpin_wire::client::Client;
use podpin_wire::fields::Fields;

/// The parts of a request that routing and identification read.
#[derive(Clone, Copy)]
pub(crate) struct RequestView<'a> {
    /// Name of the listener that the request came over.
    pub listener: &'a str,
    /// Host and port as the client wrote them.
    pub authority: &'a str,
    /// Path without its query.
    pub path: &'a str,
    /// Query without the question mark; `None` if there is none.
    pub query: Option<&'a str>,
    /// Header fields as they came.
    pub fields: &'a Fields,
    /// The client that sent it.
    pub client: &'a Client,
}
