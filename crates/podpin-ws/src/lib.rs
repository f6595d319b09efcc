//! WebSocket connections that pass through a proxy (RFC 6455): where their messages end, frames of the proxy's own, and when a
//! connection closes.
//!
//! Nothing here reads a payload, but that of pongs. [`Follower`] reads the 2 to 14 bytes of each frame header and skips the
//! rest, so extensions do not matter; [`ClientFrames`] takes out the answers to pings that the proxy itself has sent;
//! [`Session`] decides when an upgraded connection, of whatever protocol, leaves, closes or ends. Bytes, moments and chance
//! are arguments: no socket, no clock.

mod client_frames;
mod follower;
mod frame;
mod session;

pub use client_frames::{ClientFrames, CloseFrames};
pub use follower::{Followed, Follower, Part};
pub use frame::{Masking, Opcode, PING_BYTES, close_frame, ping_frame};
pub use session::{Cause, End, Insertion, LeaveOrder, Manner, Protocol, Session, Settings, Side};
