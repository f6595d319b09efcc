//! The reasons why a request is answered here and not passed on.

/// The reason why a request or its trailers are not passed on; an error of the stream alone (RFC 9113 section 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A message that breaks RFC 9113 section 8.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// More fields than [`crate::Config::head_fields_max`].
    #[error("too many header fields")]
    TooManyFields,
    /// More bytes than [`crate::Config::head_bytes_max`].
    #[error("header fields too large")]
    TooLarge,
}

impl Refusal {
    /// Whether the message breaks a rule, and not only a bound of this side.
    pub(crate) fn is_malformed(self) -> bool {
        matches!(self, Refusal::Malformed(_))
    }

    /// Returns the status that answers it: 400 or 431.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Refusal::Malformed(_) => 400,
            Refusal::TooManyFields | Refusal::TooLarge => 431,
        }
    }
}
