//! HPACK (RFC 7541): decoding straight into the text of a head, encoding without a dynamic table.
//!
//! A decoder keeps the dynamic table of a connection and nothing else between two header blocks. Within a block every
//! complete field is decoded as soon as its bytes are there; only an incomplete one is kept, by the caller. A field
//! that no request will use still changes the table, so that a refused head never costs the connection.

mod decoder;
mod dynamic_table;
mod encoder;
mod error;
mod huffman;
mod integer;
mod static_table;

pub(crate) use decoder::{Decoder, Line, Step};
pub(crate) use encoder::Encoder;
pub use error::HpackError;
