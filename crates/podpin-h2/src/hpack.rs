//! HPACK (RFC 7541): decoding straight into the text of a head, encoding without a dynamic table.
//!
//! A decoder keeps the dynamic table of a connection and nothing else between two header blocks. Within a block every
//! complete field is decoded as soon as its bytes are there; only an incomplete one is kept, by the caller. A field
//! that nobody will read still changes the table, so that a refused head never costs the connection.

mod decoder;
mod dynamic_table;
mod encoder;
mod huffman;
mod integer;
mod static_table;

pub(crate) use decoder::{Decoder, Line, Step};
pub(crate) use encoder::Encoder;

/// The reason why a header block cannot be decoded: HPACK's state is lost, and the connection with it (RFC 9113
/// section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// An integer above 32 bits, or written with needless bytes.
    #[error("an HPACK integer is too large")]
    Integer,
    /// A reference to an entry that neither table has.
    #[error("an HPACK reference names no entry")]
    Index,
    /// A table size above what was announced, in the middle of a block, or more than two of them.
    #[error("an HPACK table size update is not allowed here")]
    TableSize,
    /// A Huffman string that holds the end symbol or is padded wrongly.
    #[error("an HPACK string is not Huffman coded")]
    Huffman,
    /// A block that ends within a field.
    #[error("a header block ends within a field")]
    Truncated,
}

/// The largest dynamic table that a client may use (RFC 9113 section 6.5.2: the initial value, which is never raised).
pub(crate) const TABLE_BYTES_MAX: usize = 4096;
