//! Frames (RFC 6455 section 5.2): the first bytes of any, and whole ones of the proxy's own.
//!
//! ```text
//!  byte 0              byte 1           bytes 2-9                masking key   payload
//! ┌───┬───────┬──────┐┌────┬─────────┐┌───────────────────────┐┌─────────────┐┌─ ─ ─ ─
//! │FIN│RSV 1-3│opcode││MASK│length   ││0, 2 (126), 8 (127)    ││0 or 4 bytes ││
//! └───┴───────┴──────┘└────┴─────────┘└───────────────────────┘└─────────────┘└─ ─ ─ ─
//! ```

/// Payload bytes of a ping of the proxy.
pub const PING_BYTES: usize = 8;
/// Payload bytes that a control frame may have (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: usize = 125;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Meaning of a frame, as far as a proxy needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// Part of a message: text, binary, continuation, or one of the numbers reserved for such.
    Data,
    /// Close.
    Close,
    /// Ping.
    Ping,
    /// Pong.
    Pong,
    /// Control frame of a reserved number.
    Control,
}

/// Whether the payload of a frame is masked: that of a client's frames is (RFC 6455 section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masking {
    /// Frame of a server.
    Plain,
    /// Frame of a client, with its masking key.
    Key([u8; 4]),
}

impl Opcode {
    /// Returns the opcode in the first byte of a frame.
    #[must_use]
    pub fn of(first: u8) -> Opcode {
        match first & 0x0f {
            0..=7 => Opcode::Data,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => Opcode::Control,
        }
    }
}

/// Whether the first byte of a frame says that the frame is the last of its message.
pub(crate) fn is_final(first: u8) -> bool {
    first & FINAL != 0
}

/// Bytes behind the first two of a frame that stand before its payload: the rest of the length, and the masking key.
pub(crate) fn length_bytes(second: u8) -> usize {
    match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Returns the number of bytes behind the length of a frame: the masking key and the payload. `rest` is what stands behind
/// the second byte of the header; `None` if the top bit of a length of 64 bits is set, which no frame may have.
pub(crate) fn bytes_behind(second: u8, rest: &[u8]) -> Option<u64> {
    let length = match second & !MASKED {
        126 | 127 => rest.iter().fold(0, |length: u64, byte| length << 8 | u64::from(*byte)),
        short => u64::from(short),
    };
    let key = if second & MASKED == 0 { 0 } else { 4 };
    (length >> 63 == 0).then_some(length + key)
}

/// Returns a Close frame with this code and reason, of which no more than 123 bytes are sent (RFC 6455 section 5.5.1).
#[must_use]
pub fn close_frame(code: u16, reason: &str, masking: Masking) -> Vec<u8> {
    let most = CONTROL_BYTES_MAX - 2;
    let end = (0..=most.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    let payload = [&code.to_be_bytes()[..], reason.as_bytes().get(..end).unwrap_or_default()].concat();
    control(0x8, &payload, masking)
}

/// Returns a Ping frame of a server with this payload.
#[must_use]
pub fn ping_frame(payload: [u8; PING_BYTES]) -> Vec<u8> {
    control(0x9, &payload, Masking::Plain)
}

/// Returns a control frame with a payload of at most [`CONTROL_BYTES_MAX`] bytes.
fn control(opcode: u8, payload: &[u8], masking: Masking) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(0);
    match masking {
        Masking::Plain => [&[FINAL | opcode, length][..], payload].concat(),
        Masking::Key(key) => {
            let masked = payload.iter().zip(key.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            [FINAL | opcode, MASKED | length].into_iter().chain(key).chain(masked).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_has_its_code_in_front_of_its_reason() {
        assert_eq!(close_frame(1012, "bye", Masking::Plain), b"\x88\x05\x03\xf4bye");
        let masked = close_frame(1001, "", Masking::Key([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]);
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_two_characters() {
        let frame = close_frame(1000, &"ä".repeat(100), Masking::Plain);
        assert_eq!((frame.len(), frame[1]), (2 + 124, 124), "61 characters of two bytes, and the code");
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }

    #[test]
    fn a_ping_has_its_payload() {
        assert_eq!(ping_frame(*b"01234567"), b"\x89\x0801234567");
    }
}
