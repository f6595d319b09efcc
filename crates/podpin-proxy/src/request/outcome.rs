//! Intermediate results of a request: of an attempt, of the beginning of a response, of all attempts.

use http::StatusCode;
use podpin_wire::http1::response_head::ResponseHead;

use crate::http::reply::ErrorReply;
use crate::net::transport::Transport;
use crate::request::account::Ending;
use crate::request::transfer_error::TransferError;
use crate::stream::account::Permits;
use crate::stream::open::Opened;
use crate::tunnel::open::Switched;
use crate::upstream::pool::Target;

/// End of a request at its endpoints.
pub(super) enum Outcome {
    /// A response whose head has begun; with the bytes that the client has not taken of it.
    Answered { status: StatusCode, ending: Ending, unsent: Vec<u8> },
    /// An event stream.
    Stream(Box<Opened>),
    /// A switch to another protocol.
    Switched(Box<Switched>),
    /// No response that could be passed on.
    Refused(ErrorReply),
}

/// The beginning of an endpoint's response.
pub(super) enum Begun {
    /// Response that passes, or could not begin.
    Response(StatusCode, Result<(), TransferError>),
    /// Event stream, with its places.
    Stream(Box<ResponseHead>, Permits),
    /// Switch to this protocol, with the places of the connection.
    Switch(Box<ResponseHead>, Permits, Box<str>),
    /// Response that another endpoint may better.
    Retried,
    /// Response that is not passed on.
    Refused(ErrorReply),
}

/// A connection for the current attempt.
pub(super) struct Reached {
    /// Connection to the endpoint.
    pub(super) transport: Transport,
    /// Key of connections like it.
    pub(super) target: Target,
    /// Whether the connection has carried requests before, and may be closed by now.
    pub(super) is_kept: bool,
}
