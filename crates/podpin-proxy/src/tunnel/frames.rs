//! Frames of an upgraded connection, if it is a WebSocket: both directions, and frames of the proxy's own between them.

use podpin_config::WebSocket;
use podpin_ws::{Cause, ClientFrames, Follower, Masking, close_frame, ping_frame};

/// Status of a Close at the shutdown of the proxy, and of any to an endpoint: the other side goes away (RFC 6455 section 7.4.1).
const GOING_AWAY: u16 = 1001;

/// Positions of both directions in their frames.
#[derive(Default)]
pub(crate) struct Frames {
    /// Direction to the client.
    pub down: Follower,
    /// Direction to the endpoint.
    pub up: ClientFrames,
}

impl Frames {
    /// Returns a ping for the client, whose answer does not reach the endpoint.
    pub(crate) fn ping(&mut self) -> Vec<u8> {
        ping_frame(self.up.expect_pong(fastrand::u64(..).to_be_bytes()))
    }
}

/// Returns the Close that a client gets for this reason.
pub(crate) fn close_for_client(cause: Cause, settings: &WebSocket) -> Vec<u8> {
    match cause {
        Cause::Drain | Cause::Withdrawn => {
            close_frame(settings.close_code, &settings.close_reason, Masking::Plain)
        }
        Cause::Shutdown => close_frame(GOING_AWAY, &settings.close_reason, Masking::Plain),
        Cause::Idle | Cause::Vanished | Cause::HalfClosed => close_frame(GOING_AWAY, "idle", Masking::Plain),
    }
}

/// Returns the Close that an endpoint gets, whose client the proxy is.
pub(crate) fn close_for_endpoint() -> Vec<u8> {
    close_frame(GOING_AWAY, "", Masking::Key(fastrand::u32(..).to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_says_what_happened_in_the_words_of_the_service() {
        let settings = WebSocket { close_code: 4000, close_reason: "later".to_owned(), ping: None };
        let code = |cause| {
            let frame = close_for_client(cause, &settings);
            (u16::from_be_bytes([frame[2], frame[3]]), String::from_utf8(frame[4..].to_vec()).unwrap())
        };
        assert_eq!(code(Cause::Drain), (4000, "later".to_owned()));
        assert_eq!(code(Cause::Withdrawn), (4000, "later".to_owned()));
        assert_eq!(code(Cause::Shutdown), (1001, "later".to_owned()));
        assert_eq!(code(Cause::Idle), (1001, "idle".to_owned()));
        assert_eq!(close_for_endpoint()[1], 0x82, "masked");
    }
}
