//! The server side of HTTP/2 (RFC 9113, HPACK RFC 7541, extended CONNECT RFC 8441), without sockets and clocks.
//!
//! A [`Connection`] belongs to one socket: bytes and moments go in, events and bytes to send come out. Streams are
//! written through [`StreamMut`], in any order and by any task of the same thread; bodies wait where they are until
//! [`Connection::next_writer`] names their stream. Nothing is buffered here beside what HPACK has to remember and one
//! incomplete field.
//!
//! Every cost that a client can cause has a bound: fields and bytes of a head while it is decoded, frames
//! and bytes of a header block, streams, windows, output, and budgets for frames that cost and bring no request.
//! A message that breaks a rule ends its stream; the connection goes on.

mod block;
mod body;
mod budget;
mod connection;
mod deadline;
mod error;
mod event;
mod flow;
mod frame;
mod head;
mod hpack;
mod message;
mod receive;
mod respond;
mod schedule;
mod settings;
mod state;
mod stream;
mod streams;
mod work;

pub use budget::{Excess, Trust};
pub use connection::Connection;
pub use error::{Cause, Closed, ErrorCode};
pub use event::{Event, Side};
pub use frame::FRAME_HEAD_BYTES;
pub use head::{Field, Fields, Head, HeadText, Refusal, Trailers};
pub use hpack::HpackError;
pub use podpin_time::Millis;
pub use respond::{DataFrame, End, SendError, StreamMut};
pub use settings::Config;
pub use stream::StreamId;
