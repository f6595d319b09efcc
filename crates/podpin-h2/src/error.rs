//! The ends of streams and connections: error codes of RFC 9113 section 7, and the reasons behind them.

use std::fmt;

use crate::budget::Excess;
use crate::hpack::HpackError;

/// An error code as RST_STREAM and GOAWAY have it (RFC 9113 section 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// A graceful end.
    pub const NO_ERROR: ErrorCode = ErrorCode(0x0);
    /// A violation that no other code names.
    pub const PROTOCOL_ERROR: ErrorCode = ErrorCode(0x1);
    /// A failure of this side.
    pub const INTERNAL_ERROR: ErrorCode = ErrorCode(0x2);
    /// More bytes than the window has.
    pub const FLOW_CONTROL_ERROR: ErrorCode = ErrorCode(0x3);
    /// Settings that were not acknowledged.
    pub const SETTINGS_TIMEOUT: ErrorCode = ErrorCode(0x4);
    /// A frame on a stream that its sender had ended.
    pub const STREAM_CLOSED: ErrorCode = ErrorCode(0x5);
    /// A frame of a wrong length.
    pub const FRAME_SIZE_ERROR: ErrorCode = ErrorCode(0x6);
    /// A stream that was not processed at all.
    pub const REFUSED_STREAM: ErrorCode = ErrorCode(0x7);
    /// A stream that is not needed any more.
    pub const CANCEL: ErrorCode = ErrorCode(0x8);
    /// A header block that cannot be decoded.
    pub const COMPRESSION_ERROR: ErrorCode = ErrorCode(0x9);
    /// A connection that CONNECT had opened and that failed.
    pub const CONNECT_ERROR: ErrorCode = ErrorCode(0xa);
    /// A peer that costs too much.
    pub const ENHANCE_YOUR_CALM: ErrorCode = ErrorCode(0xb);
    /// A transport that is not secure enough.
    pub const INADEQUATE_SECURITY: ErrorCode = ErrorCode(0xc);
    /// A request that needs HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: ErrorCode = ErrorCode(0xd);

    /// Whether the code blames the receiver for breaking the protocol.
    pub(crate) fn blames_peer(self) -> bool {
        matches!(
            self,
            ErrorCode::PROTOCOL_ERROR
                | ErrorCode::FLOW_CONTROL_ERROR
                | ErrorCode::STREAM_CLOSED
                | ErrorCode::FRAME_SIZE_ERROR
                | ErrorCode::COMPRESSION_ERROR
        )
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match usize::try_from(self.0).ok().and_then(|code| NAMES.get(code)) {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "ErrorCode({:#x})", self.0),
        }
    }
}

/// The reason why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Framing that breaks RFC 9113.
    #[error("{0}")]
    Framing(&'static str),
    /// A header block that cannot be decoded.
    #[error("{0}")]
    Hpack(#[from] HpackError),
    /// A budget that is used up.
    #[error("too much: {}", .0.as_str())]
    Excess(Excess),
    /// No stream for as long as an idle connection is kept.
    #[error("no stream for too long")]
    Idle,
    /// A PING or SETTINGS that was not acknowledged.
    #[error("no acknowledgement")]
    Unanswered,
    /// A decision of the caller.
    #[error("closed by this side")]
    Local,
}

/// The end of a connection: the code of the GOAWAY that was written, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The code that the client receives.
    pub code: ErrorCode,
    /// The reason, for log and metric.
    pub cause: Cause,
}

impl Closed {
    pub(crate) fn protocol(message: &'static str) -> Closed {
        Closed { code: ErrorCode::PROTOCOL_ERROR, cause: Cause::Framing(message) }
    }

    pub(crate) fn framing(code: ErrorCode, message: &'static str) -> Closed {
        Closed { code, cause: Cause::Framing(message) }
    }
}

impl From<Excess> for Closed {
    fn from(excess: Excess) -> Closed {
        Closed { code: ErrorCode::ENHANCE_YOUR_CALM, cause: Cause::Excess(excess) }
    }
}

impl From<HpackError> for Closed {
    fn from(error: HpackError) -> Closed {
        Closed { code: ErrorCode::COMPRESSION_ERROR, cause: Cause::Hpack(error) }
    }
}
