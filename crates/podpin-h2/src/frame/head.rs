//! The nine bytes before every payload: length, type, flags and stream.

/// The bytes of a frame's head.
pub const FRAME_HEAD_BYTES: usize = 9;

/// The largest payload that a client may send: the initial value, which is never raised (RFC 9113 section 6.5.2).
pub(crate) const PAYLOAD_BYTES_MAX: u32 = 16_384;

/// The preface of a client (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The type of a frame (RFC 9113 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Data = 0,
    Headers = 1,
    Priority = 2,
    ResetStream = 3,
    Settings = 4,
    PushPromise = 5,
    Ping = 6,
    GoAway = 7,
    WindowUpdate = 8,
    Continuation = 9,
    /// A type of an extension, which is ignored (RFC 9113 section 5.5).
    Unknown = 0xff,
}

impl Kind {
    fn of(byte: u8) -> Kind {
        match byte {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::ResetStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Unknown,
        }
    }
}

/// The flags of a frame.
pub(crate) mod flag {
    /// The last frame of a message (DATA, HEADERS).
    pub(crate) const END_STREAM: u8 = 0x1;
    /// An acknowledgement (SETTINGS, PING).
    pub(crate) const ACK: u8 = 0x1;
    /// The last frame of a header block (HEADERS, CONTINUATION).
    pub(crate) const END_HEADERS: u8 = 0x4;
    /// A payload with padding (DATA, HEADERS).
    pub(crate) const PADDED: u8 = 0x8;
    /// A payload with a priority (HEADERS).
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) length: u32,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl FrameHead {
    /// Whether this flag is set.
    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Reads a head as it stands on the wire.
    pub(crate) fn read(bytes: [u8; FRAME_HEAD_BYTES]) -> FrameHead {
        let [high, middle, low, kind, flags, stream @ ..] = bytes;
        FrameHead {
            length: u32::from_be_bytes([0, high, middle, low]),
            kind: Kind::of(kind),
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    /// Returns the head as it stands on the wire.
    pub(crate) fn bytes(self) -> [u8; FRAME_HEAD_BYTES] {
        let [_, high, middle, low] = self.length.to_be_bytes();
        let [first, second, third, fourth] = self.stream.to_be_bytes();
        [high, middle, low, self.kind as u8, self.flags, first, second, third, fourth]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let head = FrameHead { length: 0x01_0203, kind: Kind::Headers, flags: 0x25, stream: 0x7fff_fffe };
        assert_eq!(head.bytes(), [1, 2, 3, 1, 0x25, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(FrameHead::read(head.bytes()), head);
        assert_eq!(
            FrameHead::read([0, 0, 0, 0x77, 0, 0xff, 0, 0, 1]).stream,
            0x7f00_0001,
            "the reserved bit"
        );
    }
}
