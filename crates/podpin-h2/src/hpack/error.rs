//! The errors after which HPACK's state is lost.

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
