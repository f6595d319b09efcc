//! Settings: those that this side announces and enforces, and those of the client (RFC 9113 section 6.5).

use std::time::Duration;

use crate::error::{Closed, ErrorCode};

/// The initial window of every stream and connection (RFC 9113 section 6.9.2).
pub(crate) const INITIAL_WINDOW: u32 = 65_535;
/// The largest window (RFC 9113 section 6.9.1).
pub(crate) const WINDOW_MAX: u32 = 0x7fff_ffff;

/// Less output than this would not hold a small write and a frame's head.
const OUTPUT_BYTES_MIN: usize = 4096;

/// Identifiers of settings.
pub(crate) mod id {
    pub(crate) const ENABLE_PUSH: u16 = 0x2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    /// RFC 8441 section 3.
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
    /// RFC 9218 section 2.1.
    pub(crate) const NO_RFC7540_PRIORITIES: u16 = 0x9;
}

/// A setting as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) id: u16,
    pub(crate) value: u32,
}

/// The bounds of a connection, shared by all connections of a listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes that a head may have as text (names, values, four more for each field); default 32 KiB.
    pub head_bytes_max: u32,
    /// Fields that a head may have, each cookie crumb counted, pseudo-header fields left out; default 100.
    pub head_fields_max: u16,
    /// Streams that may be open at once; default 100.
    pub streams_max: u32,
    /// Bytes of bodies that all streams together may have sent and the caller not consumed; default 16 MiB, never
    /// less than 65,535.
    pub connection_window: u32,
    /// The same of one stream when it begins; default 65,535.
    pub stream_window: u32,
    /// The same of one stream whose consumer keeps up; default 1 MiB. Streams grow only as long as all others could
    /// still send what their windows allow, so that a stalled one never stops another.
    pub stream_window_max: u32,
    /// Unsent bytes of output behind which bodies wait; default 64 KiB, never less than 4 KiB.
    pub output_bytes_max: usize,
    /// The time that a preface, a frame other than DATA, a header block and the first request may take; default 10 s.
    pub head_timeout: Duration,
    /// The time that a connection without streams is kept; default 60 s.
    pub idle_timeout: Duration,
    /// The time that an acknowledgement of SETTINGS or PING may take at most; default 30 s.
    pub ack_timeout: Duration,
    /// The silence of a connection with open streams after which a PING asks whether it lives; `None` if it never
    /// does. The answer may take as long again, `ack_timeout` at most, from the last byte that came.
    pub ping_interval: Option<Duration>,
    /// Whether extended CONNECT is announced and taken (RFC 8441); default no.
    pub extended_connect: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            head_bytes_max: 32 << 10,
            head_fields_max: 100,
            streams_max: 100,
            connection_window: 16 << 20,
            stream_window: INITIAL_WINDOW,
            stream_window_max: 1 << 20,
            output_bytes_max: 64 << 10,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            ack_timeout: Duration::from_secs(30),
            ping_interval: None,
            extended_connect: false,
        }
    }
}

impl Config {
    /// Returns the size of a header list that is announced and enforced (RFC 9113 section 6.5.2: 32 bytes more for
    /// each field), which a head within the other two bounds does not pass.
    #[must_use]
    pub fn header_list_bytes_max(&self) -> u32 {
        let fields = u32::from(self.head_fields_max).saturating_add(PSEUDO_FIELDS);
        self.head_bytes_max.saturating_add(fields.saturating_mul(FIELD_OVERHEAD))
    }

    /// Whether a connection with the other configuration may have this one without another SETTINGS.
    pub(crate) fn announces_as(&self, other: &Config) -> bool {
        let announced = |config: &Config| {
            let windows = (config.connection_window, config.stream_window, config.stream_window_max);
            (windows, config.streams_max, config.extended_connect)
        };
        announced(self) == announced(other)
    }

    /// Returns this configuration with what the other has announced.
    pub(crate) fn as_announced_by(&self, other: &Config) -> Config {
        Config {
            streams_max: other.streams_max,
            connection_window: other.connection_window,
            stream_window: other.stream_window,
            stream_window_max: other.stream_window_max,
            extended_connect: other.extended_connect,
            ..self.clone()
        }
    }

    /// Returns the time that an acknowledgement of a PING may take.
    pub(crate) fn ping_timeout(&self) -> Duration {
        self.ping_interval.map_or(self.ack_timeout, |interval| interval.min(self.ack_timeout))
    }

    /// Returns the room for bodies behind `pending` bytes of output.
    pub(crate) fn output_room(&self, pending: usize) -> usize {
        self.output_bytes_max.max(OUTPUT_BYTES_MIN).saturating_sub(pending)
    }

    /// Returns the SETTINGS of this side.
    pub(crate) fn announced(&self) -> Vec<Setting> {
        let mut settings = vec![
            Setting { id: id::MAX_CONCURRENT_STREAMS, value: self.streams_max },
            Setting { id: id::MAX_HEADER_LIST_SIZE, value: self.header_list_bytes_max() },
            Setting { id: id::NO_RFC7540_PRIORITIES, value: 1 },
        ];
        if self.stream_window != INITIAL_WINDOW {
            settings.push(Setting { id: id::INITIAL_WINDOW_SIZE, value: self.stream_window.min(WINDOW_MAX) });
        }
        if self.extended_connect {
            settings.push(Setting { id: id::ENABLE_CONNECT_PROTOCOL, value: 1 });
        }
        settings
    }
}

/// The size of a field beside name and value (RFC 9113 section 6.5.2).
pub(crate) const FIELD_OVERHEAD: u32 = 32;
/// Pseudo-header fields that a request has at most.
const PSEUDO_FIELDS: u32 = 5;

/// The settings of the client that matter to a server that pushes nothing and indexes nothing.
#[derive(Debug)]
pub(crate) struct PeerSettings {
    /// The window that streams begin with.
    pub(crate) initial_window: u32,
    /// A window that a SETTINGS frame has named and that takes effect at its end: however many it names, streams are
    /// visited once.
    pub(crate) next_window: Option<u32>,
    pub(crate) frame_bytes_max: u32,
}

impl PeerSettings {
    /// Returns the settings before any came.
    pub(crate) fn new() -> PeerSettings {
        PeerSettings { initial_window: INITIAL_WINDOW, next_window: None, frame_bytes_max: 16_384 }
    }

    /// Takes one setting.
    pub(crate) fn take(&mut self, setting: Setting) -> Result<(), Closed> {
        let value = setting.value;
        match setting.id {
            id::ENABLE_PUSH | id::ENABLE_CONNECT_PROTOCOL | id::NO_RFC7540_PRIORITIES if value > 1 => {
                return Err(Closed::protocol("a setting is neither 0 nor 1"));
            }
            id::INITIAL_WINDOW_SIZE if value > WINDOW_MAX => {
                return Err(Closed::framing(ErrorCode::FLOW_CONTROL_ERROR, "an initial window is too large"));
            }
            id::INITIAL_WINDOW_SIZE => self.next_window = Some(value),
            id::MAX_FRAME_SIZE if !(16_384..=0xff_ffff).contains(&value) => {
                return Err(Closed::protocol("a frame size is out of range"));
            }
            id::MAX_FRAME_SIZE => self.frame_bytes_max = value,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_end_the_connection() {
        let refused = [
            (id::ENABLE_PUSH, 2, ErrorCode::PROTOCOL_ERROR),
            (id::ENABLE_CONNECT_PROTOCOL, 2, ErrorCode::PROTOCOL_ERROR),
            (id::INITIAL_WINDOW_SIZE, 0x8000_0000, ErrorCode::FLOW_CONTROL_ERROR),
            (id::MAX_FRAME_SIZE, 16_383, ErrorCode::PROTOCOL_ERROR),
            (id::MAX_FRAME_SIZE, 0x100_0000, ErrorCode::PROTOCOL_ERROR),
        ];
        for (id, value, code) in refused {
            let taken = PeerSettings::new().take(Setting { id, value });
            assert_eq!(taken.map_err(|closed| closed.code), Err(code), "{id} = {value}");
        }
        for (id, value) in
            [(0x1, u32::MAX), (id::ENABLE_PUSH, 0), (0xabcd, u32::MAX), (id::MAX_FRAME_SIZE, 16_384)]
        {
            PeerSettings::new().take(Setting { id, value }).unwrap();
        }
    }
}
