//! When an upgraded connection closes: by an order to leave, for silence, because its client has vanished.
//!
//! ```text
//!            order                  Close inserted               both have closed,
//!   ┌──────┐ ────────▶ ┌─────────┐ ────────────────▶ ┌─────────┐ or time is up
//!   │ Open │           │ Leaving │                   │ Closing │ ──────────────────▶ end: closed
//!   └──────┘ ─────┐    └─────────┘                   └─────────┘
//!      │ silence  │         │ deadline                   ▲
//!      ▼          └─────────┼────────────────────────────┘
//!   end: cut                └──▶ end: cut
//! ```
//!
//! A Close of the proxy stands between two messages, as does a ping; whether the connection is there is the caller's to say. Other protocols than WebSocket have no such place and are cut. A connection that the client or the upstream closes
//! by itself is left to it until the deadline.

use std::time::Duration;

use podpin_time::Millis;

/// Pings without an answer after which a client has vanished.
const UNANSWERED_MAX: u8 = 2;
/// Least time for the answer to a Close at the very end of a drain.
const CLOSE_LEAST: Duration = Duration::from_millis(500);

/// Protocol of an upgraded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// WebSocket, whose frames are followed.
    WebSocket,
    /// Any other, of which nothing is known.
    Other,
}

/// Side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Client, which the proxy serves.
    Client,
    /// Upstream, whose client the proxy is.
    Upstream,
}

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Protocol that the connection was upgraded to.
    pub protocol: Protocol,
    /// Silence of both sides after which the connection ends; `None` if never.
    pub idle: Option<Duration>,
    /// Silence of the client after which it is pinged; `None` if never.
    pub ping: Option<Duration>,
    /// Time that both sides have for their answer to a Close.
    pub close_timeout: Duration,
}

/// Reason for which the proxy ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Endpoint that drains.
    Drain,
    /// Route that a reload removed.
    Withdrawn,
    /// Shutdown of the proxy.
    Shutdown,
    /// Silence of both sides.
    Idle,
    /// Client that left two pings unanswered.
    Vanished,
    /// Connection of one side that had ended, and silence of the other since.
    HalfClosed,
}

/// Order to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaveOrder {
    /// Reason of the order.
    pub cause: Cause,
    /// Moment from which a Close may be said.
    pub at: Millis,
    /// Last moment of a connection that cannot say it.
    pub by: Millis,
    /// Moment by which all connections of the drain have ended.
    pub deadline: Millis,
}

/// Frame of the proxy that is to stand between two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// Ping to the client.
    Ping,
    /// Close to the client. The upstream gets one once the client has answered, or the time for that is up.
    Close(Cause),
}

/// End that the session decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Reason of the end.
    pub cause: Cause,
    /// Whether it was announced.
    pub manner: Manner,
}

/// Manner of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// End behind a Close.
    Closed,
    /// End without a word.
    Cut,
}

/// State of one upgraded connection.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    state: State,
    /// Moment at which a byte last came, from whichever side.
    moved: Millis,
    /// Moment at which the client was last heard of, or pinged.
    heard: Millis,
    unanswered: u8,
    /// Whether the client has begun a Close of its own.
    client_closes: bool,
    /// Whether the upstream has begun one.
    upstream_closes: bool,
    /// Whether one side has ended its half of the connection.
    is_half_closed: bool,
    /// Side that began to end the connection by itself; `None` as long as neither has.
    first_to_end: Option<Side>,
}

/// Progress of a connection towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Leaving(LeaveOrder),
    Closing { cause: Cause, by: Millis, client_is_done: bool, upstream_is_done: bool },
}

impl Session {
    /// Returns the session of a connection that begins now.
    #[must_use]
    pub fn new(settings: Settings, now: Millis) -> Session {
        Session {
            settings,
            state: State::Open,
            moved: now,
            heard: now,
            unanswered: 0,
            client_closes: false,
            upstream_closes: false,
            is_half_closed: false,
            first_to_end: None,
        }
    }

    /// Takes an order to leave; it changes nothing for a connection that is closing.
    pub fn on_order(&mut self, order: LeaveOrder) {
        if !self.is_closing() {
            self.state = State::Leaving(order);
        }
    }

    /// Notes that bytes came from this side.
    pub fn on_bytes(&mut self, side: Side, now: Millis) {
        self.moved = now;
        if side == Side::Client {
            self.heard = now;
            self.unanswered = 0;
        }
    }

    /// Notes that a Close frame came from this side.
    pub fn on_close(&mut self, side: Side) {
        self.first_to_end.get_or_insert(side);
        if let State::Closing { .. } = self.state {
            self.on_end(side);
            return;
        }
        match side {
            Side::Client => self.client_closes = true,
            Side::Upstream => self.upstream_closes = true,
        }
    }

    /// Notes that nothing more comes from this side.
    pub fn on_end(&mut self, side: Side) {
        self.first_to_end.get_or_insert(side);
        self.is_half_closed = true;
        if let State::Closing { client_is_done, upstream_is_done, .. } = &mut self.state {
            match side {
                Side::Client => *client_is_done = true,
                Side::Upstream => *upstream_is_done = true,
            }
        }
    }

    /// Returns whether a Close of the proxy was inserted.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. })
    }

    /// Returns the side that began to end the connection by itself; `None` if neither has.
    #[must_use]
    pub fn first_to_end(&self) -> Option<Side> {
        self.first_to_end
    }

    /// Returns whether the client has answered the Close, or will not.
    #[cfg(test)]
    fn client_is_done(&self) -> bool {
        matches!(self.state, State::Closing { client_is_done: true, .. })
    }

    /// Returns the frame to insert at a boundary between two messages to the client; `None` if there is none.
    #[must_use]
    pub fn insertion(&self, now: Millis) -> Option<Insertion> {
        let may_insert = self.settings.protocol == Protocol::WebSocket
            && !self.client_closes
            && !self.upstream_closes
            && !self.is_half_closed
            && !self.is_closing();
        if !may_insert {
            return None;
        }
        match self.state {
            State::Leaving(order) if order.at <= now => Some(Insertion::Close(order.cause)),
            State::Open if self.idle_at().is_some_and(|at| at <= now) => Some(Insertion::Close(Cause::Idle)),
            _ if self.ping_at().is_some_and(|at| at <= now) && self.unanswered < UNANSWERED_MAX => {
                Some(Insertion::Ping)
            }
            _ => None,
        }
    }

    /// Notes that a frame was inserted.
    pub fn on_inserted(&mut self, insertion: Insertion, now: Millis) {
        match insertion {
            Insertion::Ping => {
                self.heard = now;
                self.unanswered = self.unanswered.saturating_add(1);
            }
            Insertion::Close(cause) => {
                let last = match self.state {
                    State::Leaving(order) => order.deadline.max(order.by).max(now.after(CLOSE_LEAST)),
                    State::Open | State::Closing { .. } => Millis(u64::MAX),
                };
                let by = now.after(self.settings.close_timeout).min(last);
                let (client_is_done, upstream_is_done) = (false, false);
                self.state = State::Closing { cause, by, client_is_done, upstream_is_done };
            }
        }
    }

    /// Returns the end of the connection, if the moment has come. A frame that can be inserted now comes first.
    #[must_use]
    pub fn end(&self, now: Millis) -> Option<End> {
        let is_announced = self.client_closes || self.upstream_closes;
        let manner = if is_announced { Manner::Closed } else { Manner::Cut };
        match self.state {
            State::Closing { cause, by, client_is_done, upstream_is_done } => {
                let is_over = by <= now || (client_is_done && upstream_is_done);
                is_over.then_some(End { cause, manner: Manner::Closed })
            }
            State::Leaving(order) if order.by <= now => Some(End { cause: order.cause, manner }),
            _ if self.half_closed_until().is_some_and(|until| until <= now) => {
                Some(End { cause: Cause::HalfClosed, manner: Manner::Closed })
            }
            _ if self.idle_at().is_some_and(|at| at <= now) => Some(End { cause: Cause::Idle, manner }),
            _ if self.unanswered >= UNANSWERED_MAX && self.ping_at().is_some_and(|at| at <= now) => {
                Some(End { cause: Cause::Vanished, manner: Manner::Cut })
            }
            State::Leaving(_) | State::Open => None,
        }
    }

    /// Returns the moment behind `now` at which something may be due; `None` if bytes or orders come first.
    #[must_use]
    pub fn due(&self, now: Millis) -> Option<Millis> {
        let moments = match self.state {
            State::Closing { by, .. } => [Some(by), None],
            State::Leaving(order) => [Some(order.at), Some(order.by)],
            State::Open => [None, None],
        };
        let silence = [self.idle_at(), self.ping_at(), self.half_closed_until()];
        let silence = silence.into_iter().filter(|_| !self.is_closing());
        moments.into_iter().chain(silence).flatten().filter(|moment| *moment > now).min()
    }

    /// Returns the moment at which the connection has been idle for too long.
    fn idle_at(&self) -> Option<Millis> {
        self.settings.idle.map(|limit| self.moved.after(limit))
    }

    /// Returns the moment at which the half of a WebSocket that is still open has been silent for too long: no message can be
    /// answered there any more.
    fn half_closed_until(&self) -> Option<Millis> {
        let is_over = self.is_half_closed && self.settings.protocol == Protocol::WebSocket;
        is_over.then(|| self.moved.after(self.settings.close_timeout))
    }

    /// Returns the moment at which the client has been silent for too long.
    fn ping_at(&self) -> Option<Millis> {
        let limit = self.settings.ping.filter(|_| self.settings.protocol == Protocol::WebSocket);
        limit.map(|limit| self.heard.after(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Millis = Millis(1_000);
    const ORDER: LeaveOrder =
        LeaveOrder { cause: Cause::Drain, at: Millis(3_000), by: Millis(20_000), deadline: Millis(20_000) };

    fn session(protocol: Protocol) -> Session {
        let close_timeout = Duration::from_secs(5);
        Session::new(Settings { protocol, idle: None, ping: None, close_timeout }, START)
    }

    fn end(cause: Cause, manner: Manner) -> Option<End> {
        Some(End { cause, manner })
    }

    #[test]
    fn a_close_is_said_at_its_moment_and_awaited_for_so_long() {
        let mut session = session(Protocol::WebSocket);
        assert_eq!((session.insertion(START), session.due(START)), (None, None));
        session.on_order(ORDER);
        assert_eq!((session.insertion(START), session.due(START)), (None, Some(ORDER.at)));
        let now = ORDER.at;
        // Within a message it has to wait.
        assert_eq!((session.due(now), session.end(now)), (Some(ORDER.by), None));
        assert_eq!(session.insertion(now), Some(Insertion::Close(Cause::Drain)));
        session.on_inserted(Insertion::Close(Cause::Drain), now);
        assert_eq!((session.insertion(now), session.due(now)), (None, Some(Millis(8_000))));
        assert_eq!(session.end(Millis(7_999)), None);
        assert_eq!(session.end(Millis(8_000)), end(Cause::Drain, Manner::Closed));
        session.on_close(Side::Client);
        assert!(session.client_is_done() && session.end(now).is_none());
        session.on_end(Side::Upstream);
        assert_eq!(session.end(now), end(Cause::Drain, Manner::Closed), "both have answered");
    }

    #[test]
    fn an_answer_is_not_awaited_past_the_deadline_but_for_a_moment() {
        let mut session = session(Protocol::WebSocket);
        session.on_order(ORDER);
        let late = Millis(18_000);
        session.on_inserted(Insertion::Close(Cause::Drain), late);
        assert_eq!(session.due(late), Some(ORDER.deadline));
        let mut last = self::session(Protocol::WebSocket);
        last.on_order(ORDER);
        last.on_inserted(Insertion::Close(Cause::Drain), ORDER.by);
        assert_eq!(last.due(ORDER.by), Some(ORDER.by.after(CLOSE_LEAST)));
    }

    #[test]
    fn within_a_message_the_deadline_cuts_and_another_protocol_has_only_that() {
        for protocol in [Protocol::WebSocket, Protocol::Other] {
            let mut session = session(protocol);
            session.on_order(ORDER);
            assert_eq!(session.insertion(ORDER.at).is_some(), protocol == Protocol::WebSocket);
            assert_eq!(session.end(Millis(19_999)), None);
            assert_eq!(session.end(ORDER.by), end(Cause::Drain, Manner::Cut));
        }
    }

    #[test]
    fn a_connection_that_closes_by_itself_is_left_to_that() {
        for side in [Side::Client, Side::Upstream] {
            let mut session = session(Protocol::WebSocket);
            session.on_close(side);
            session.on_order(ORDER);
            assert_eq!(session.insertion(ORDER.by), None);
            assert_eq!(session.end(ORDER.by), end(Cause::Drain, Manner::Closed));
        }
    }

    #[test]
    fn a_second_order_changes_nothing_once_the_close_is_said() {
        let mut session = session(Protocol::WebSocket);
        session.on_order(ORDER);
        session.on_inserted(Insertion::Close(Cause::Drain), ORDER.at);
        session.on_order(LeaveOrder { cause: Cause::Shutdown, by: ORDER.at, ..ORDER });
        assert_eq!(session.end(ORDER.at), None);
    }

    #[test]
    fn silence_ends_a_connection_with_a_close_where_there_is_a_place_for_it() {
        let idle = Some(Duration::from_secs(10));
        for protocol in [Protocol::WebSocket, Protocol::Other] {
            let mut session = session(protocol);
            session.settings.idle = idle;
            session.on_bytes(Side::Upstream, Millis(2_000));
            assert_eq!((session.due(START), session.insertion(Millis(11_999))), (Some(Millis(12_000)), None));
            let close = Some(Insertion::Close(Cause::Idle)).filter(|_| protocol == Protocol::WebSocket);
            assert_eq!(session.insertion(Millis(12_000)), close);
            assert_eq!(session.end(Millis(12_000)), end(Cause::Idle, Manner::Cut));
        }
    }

    #[test]
    fn a_client_that_answers_no_ping_has_vanished() {
        let mut session = session(Protocol::WebSocket);
        session.settings.ping = Some(Duration::from_secs(30));
        session.on_bytes(Side::Upstream, Millis(9_000));
        let moments = [31_000, 61_000, 91_000].map(Millis);
        assert_eq!(session.due(START), Some(moments[0]));
        for moment in &moments[..2] {
            assert_eq!((session.insertion(*moment), session.end(*moment)), (Some(Insertion::Ping), None));
            session.on_inserted(Insertion::Ping, *moment);
        }
        assert_eq!(session.insertion(moments[2]), None);
        assert_eq!(session.end(moments[2]), end(Cause::Vanished, Manner::Cut));
        session.on_bytes(Side::Client, Millis(90_999));
        assert_eq!((session.end(moments[2]), session.due(moments[2])), (None, Some(Millis(120_999))));
    }

    #[test]
    fn half_of_a_websocket_is_left_for_a_while_and_half_of_another_protocol_for_ever() {
        for (protocol, due) in [(Protocol::WebSocket, Some(Millis(6_000))), (Protocol::Other, None)] {
            let mut session = session(protocol);
            session.on_end(Side::Client);
            assert_eq!((session.due(START), session.end(Millis(5_999))), (due, None));
            assert_eq!(session.end(Millis(6_000)).is_some(), due.is_some());
            session.on_order(ORDER);
            assert_eq!(session.insertion(ORDER.at), None, "nothing can answer");
        }
    }

    #[test]
    fn another_protocol_is_not_pinged() {
        let mut session = session(Protocol::Other);
        session.settings.ping = Some(Duration::from_secs(30));
        assert_eq!((session.due(START), session.insertion(Millis(99_000))), (None, None));
    }
}
