//! Frames (RFC 9113 section 4.1): nine bytes of head, then a payload whose form the type says.
//!
//! ```text
//! length (24) | type (8) | flags (8) | reserved (1) stream (31) | payload (length bytes)
//! ```

mod head;
mod reader;
mod write;

pub use head::FRAME_HEAD_BYTES;
pub(crate) use head::{FrameHead, Kind, flag};
pub(crate) use reader::{Part, Piece, Reader};
pub(crate) use write::{go_away, ping, reset, seal_headers, settings, settings_ack, window_update};
