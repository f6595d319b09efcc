//! Client connections: admitted or refused, each request head read within its limits and sent down one of the data paths.
//!
//! Reading heads here gives what Pingora has no hook for: a deadline over the whole head, a size limit before anything is
//! buffered, strict framing for all paths, no buffer while the connection is idle, and a socket that an event stream can
//! take with it when it leaves this task.

pub(crate) mod accepted;
pub(crate) mod head_reader;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod listener;
pub(crate) mod plain_http;
pub(crate) mod refusal;
