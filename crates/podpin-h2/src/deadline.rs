//! The deadlines of a connection: unfinished frames, silence, acknowledgements that do not come.

use crate::settings::Config;
use podpin_time::Millis;

/// The time between two GOAWAYs, unless the PING behind the first is acknowledged before.
const GO_AWAY_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// The kind of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// A frame or header block is not finished, or no first one came.
    Unfinished,
    /// An acknowledgement of SETTINGS is missing.
    SettingsAck,
    /// There is no stream for too long.
    Idle,
    /// The connection has been silent for so long that a PING is sent.
    Ping,
    /// A PING was not answered.
    PingAck,
    /// The second GOAWAY is sent.
    GoAway,
}

/// The moments at which deadlines begin.
#[derive(Debug)]
pub(crate) struct Deadlines {
    opened: Millis,
    /// The first byte of a frame or header block that did not end.
    pub(crate) began: Option<Millis>,
    pub(crate) ping: Option<Millis>,
    /// The first of two GOAWAYs.
    pub(crate) go_away: Option<Millis>,
    /// The last bytes of the client.
    pub(crate) heard: Millis,
    /// The end of the last stream.
    pub(crate) idle: Millis,
    /// Milliseconds that the acknowledgement of SETTINGS took, 0 before it came.
    pub(crate) round_trip: u32,
    /// The client's SETTINGS came.
    pub(crate) has_settings: bool,
    /// The client did not acknowledge the SETTINGS that opened the connection.
    awaits_ack: bool,
}

/// The circumstances on which deadlines depend beside time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activity {
    pub(crate) open: usize,
    pub(crate) opened: u32,
    /// DATA is awaited, which has no deadline here.
    pub(crate) is_within_body: bool,
}

impl Deadlines {
    /// Returns the deadlines of a connection that begins, its SETTINGS sent.
    pub(crate) fn new(now: Millis) -> Deadlines {
        Deadlines {
            opened: now,
            began: None,
            ping: None,
            go_away: None,
            heard: now,
            idle: now,
            round_trip: 0,
            has_settings: false,
            awaits_ack: true,
        }
    }

    /// Takes the acknowledgement of SETTINGS; false if there is nothing to acknowledge.
    pub(crate) fn acknowledge_settings(&mut self, now: Millis) -> bool {
        if self.awaits_ack {
            self.round_trip = u32::try_from(now.since(self.opened).as_millis()).unwrap_or(u32::MAX);
        }
        std::mem::take(&mut self.awaits_ack)
    }

    /// Returns what is due first, and when.
    pub(crate) fn first(&self, config: &Config, activity: Activity) -> Option<(Millis, Due)> {
        let unfinished = if self.has_settings {
            self.began.filter(|_| !activity.is_within_body)
        } else {
            Some(self.opened)
        };
        let idle = (activity.open == 0).then(|| {
            let wait = if activity.opened == 0 { config.head_timeout } else { config.idle_timeout };
            (self.idle.after(wait), Due::Idle)
        });
        let ping = match self.ping {
            Some(sent) => Some((sent.max(self.heard).after(config.ping_timeout()), Due::PingAck)),
            None if activity.open > 0 => config.ping_interval.map(|wait| (self.heard.after(wait), Due::Ping)),
            None => None,
        };
        let all = [
            unfinished.map(|began| (began.after(config.head_timeout), Due::Unfinished)),
            self.awaits_ack.then(|| (self.opened.after(config.ack_timeout), Due::SettingsAck)),
            idle,
            ping,
            self.go_away.map(|sent| (sent.after(GO_AWAY_WAIT), Due::GoAway)),
        ];
        all.into_iter().flatten().min_by_key(|(moment, _)| *moment)
    }
}
