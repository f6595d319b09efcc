//! Flow of bytes from the upstream to the client: when the last ones passed, where they ended, and the timers that run from
//! there in several states.

use std::time::Duration;

use podpin_time::Millis;

use super::input::{Client, Position};
use super::settings::{Content, Recovery, Settings, whole_millis};

/// Longest wait for the end of an event that passes through, since it is beyond `sse.eventBytesMax`, once the stream has to
/// end or leave; then it ends within the event.
pub(super) const BOUNDARY_WAIT: Duration = Duration::from_secs(5);
/// Largest share that jitter takes off `sse.maxDuration`, so that streams that began together do not end together.
const DURATION_JITTER: f64 = 0.1;
/// End of time, for moments that never come.
pub(super) const NEVER: Millis = Millis(u64::MAX);

/// Flow of one stream. Fields are public where an event does nothing but set them.
#[derive(Debug)]
pub(super) struct Flow {
    /// Last bytes of the upstream.
    pub(super) last_read: Millis,
    /// Last bytes that the client took or was given.
    pub(super) last_write: Millis,
    /// Moment of `sse.maxDuration`, jitter included.
    ends_at: Millis,
    keep_alive: Timeout,
    upstream_idle: Timeout,
    client_write: Timeout,
    pub(super) content: Content,
    pub(super) position: Position,
    pub(super) client: Client,
    /// Ability of the client to go on after an early end.
    pub(super) return_of_client: Return,
}

/// Ability of a client to go on after an early end, so that the end need not look like a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    /// By a new request, as `EventSource` sends it.
    Unasked,
    /// By the last event id, if the client knows how.
    ByEventId,
    /// None: the response has shown no id.
    Impossible,
}

/// Limit of a silence in whole milliseconds; off if it is `u32::MAX`. Four bytes where an `Option<Duration>` is sixteen.
#[derive(Clone, Copy, Debug)]
struct Timeout(u32);

impl Flow {
    pub(super) fn new(settings: &Settings, draw: f64, now: Millis) -> Self {
        let share = 1.0 - draw.clamp(0.0, 1.0) * DURATION_JITTER;
        Self {
            last_read: now,
            last_write: now,
            ends_at: settings.max_duration.map_or(NEVER, |limit| now.after(limit.mul_f64(share))),
            keep_alive: Timeout::new(settings.keep_alive),
            upstream_idle: Timeout::new(settings.upstream_idle),
            client_write: Timeout::new(settings.client_write),
            content: settings.content,
            position: Position::of(settings.content == Content::Events),
            client: Client::Ready,
            return_of_client: match settings.recovery {
                Recovery::Reconnects => Return::Unasked,
                Recovery::NeedsEventId => Return::Impossible,
            },
        }
    }

    /// Returns when a comment is to be sent: only between events, and to a client that takes it.
    #[inline]
    pub(super) fn keep_alive_due(&self) -> Millis {
        if self.takes_comments() { self.keep_alive.after(self.last_write) } else { NEVER }
    }

    /// Whether the client takes bytes, and the last ones ended between events.
    #[inline]
    pub(super) fn takes_comments(&self) -> bool {
        (self.client, self.position) == (Client::Ready, Position::Boundary)
    }

    /// Returns when an upstream that is read counts as dead.
    #[inline]
    pub(super) fn idle_due(&self) -> Millis {
        match self.client {
            Client::Ready => self.upstream_idle.after(self.last_read),
            Client::Blocked | Client::Gone => NEVER,
        }
    }

    /// Returns when a blocked client counts as dead.
    #[inline]
    pub(super) fn client_due(&self) -> Millis {
        match self.client {
            Client::Blocked => self.client_write.after(self.last_write),
            Client::Ready | Client::Gone => NEVER,
        }
    }

    /// Returns when the stream has lasted long enough. Within an event the end waits for its boundary, but not for ever.
    #[inline]
    pub(super) fn duration_due(&self) -> Millis {
        match (self.content, self.position) {
            (Content::Encoded, _) | (Content::Events, Position::Boundary) => self.ends_at,
            (Content::Events, Position::WithinEvent) => self.ends_at.after(BOUNDARY_WAIT),
        }
    }
}

impl Timeout {
    const OFF: u32 = u32::MAX;

    fn new(limit: Option<Duration>) -> Self {
        Self(limit.map_or(Self::OFF, whole_millis))
    }

    #[inline]
    fn after(self, from: Millis) -> Millis {
        if self.0 == Self::OFF { NEVER } else { Millis(from.0.saturating_add(u64::from(self.0))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_takes_a_tenth_at_most() {
        let settings = Settings { max_duration: Some(Duration::from_secs(1_000)), ..Settings::default() };
        for (draw, ends_at) in
            [(0.0, 1_000_005), (0.5, 950_005), (1.0, 900_005), (7.0, 900_005), (-1.0, 1_000_005)]
        {
            assert_eq!(Flow::new(&settings, draw, Millis(5)).duration_due(), Millis(ends_at), "{draw}");
        }
    }

    #[test]
    fn a_timer_that_is_off_never_runs_out() {
        let mut flow = Flow::new(&Settings::default(), 0.5, Millis(5));
        for client in [Client::Ready, Client::Blocked, Client::Gone] {
            for position in [Position::Boundary, Position::WithinEvent] {
                (flow.client, flow.position) = (client, position);
                let dues = [flow.keep_alive_due(), flow.idle_due(), flow.client_due(), flow.duration_due()];
                assert_eq!(dues, [NEVER; 4]);
            }
        }
    }
}
