//! The state that receiving and sending share: streams, windows, budgets, and how the connection ends.

use std::sync::Arc;

use crate::budget::{Budgets, Excess, Trust};
use crate::deadline::{Activity, Deadlines};
use crate::error::{Closed, ErrorCode};
use crate::flow::{ConnectionWindow, Pace, SendWindow, StreamWindow};
use crate::frame;
use crate::hpack::Encoder;
use crate::schedule::Schedule;
use crate::settings::{Config, INITIAL_WINDOW, PeerSettings, WINDOW_MAX};
use crate::stream::{Incoming, Outgoing, Stream, StreamId, Turn};
use crate::streams::Streams;
use podpin_time::Millis;

/// The payload of the PING that follows the first of two GOAWAYs.
const GO_AWAY_PING: [u8; 8] = *b"goodbye?";
/// The payload of the PING into silence.
const ALIVE_PING: [u8; 8] = *b"are you?";

/// A call into the connection: its moment, and the output that bytes to send are appended to.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) now: Millis,
    pub(crate) out: &'a mut Vec<u8>,
}

/// The progress of a connection towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// New streams are taken.
    Open,
    /// The first GOAWAY was sent: streams that are on their way are still taken.
    Leaving,
    /// The last GOAWAY was sent: streams above that number are ignored.
    Left(u32),
    /// The end: no input is taken, no output is produced.
    Closed(Closed),
}

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) phase: Phase,
    /// The client sent a GOAWAY.
    pub(crate) is_peer_leaving: bool,
    pub(crate) encoder: Encoder,
    pub(crate) peer: PeerSettings,
    pub(crate) send: SendWindow,
    pub(crate) receive: ConnectionWindow,
    pub(crate) streams: Streams,
    pub(crate) schedule: Schedule,
    pub(crate) budgets: Budgets,
    pub(crate) deadlines: Deadlines,
}

impl State {
    /// Begins a connection: SETTINGS and the connection's window.
    pub(crate) fn new(config: Arc<Config>, trust: Trust, call: &mut Call<'_>) -> State {
        frame::settings(call.out, &config.announced());
        let (receive, announced) = ConnectionWindow::new(&config);
        if announced > 0 {
            frame::window_update(call.out, 0, announced);
        }
        State {
            config,
            phase: Phase::Open,
            is_peer_leaving: false,
            encoder: Encoder::default(),
            peer: PeerSettings::new(),
            send: SendWindow::new(INITIAL_WINDOW),
            receive,
            streams: Streams::new(),
            schedule: Schedule::default(),
            budgets: Budgets::new(trust, call.now),
            deadlines: Deadlines::new(call.now),
        }
    }

    /// Returns what deadlines depend on.
    pub(crate) fn activity(&self, is_within_body: bool) -> Activity {
        Activity { open: self.streams.len(), opened: self.streams.opened(), is_within_body }
    }

    /// Whether a stream comes after the last one that the client was told is taken.
    pub(crate) fn ignores(&self, stream: u32) -> bool {
        matches!(self.phase, Phase::Left(last) if stream > last)
    }

    /// Ends the connection: a GOAWAY, and no stream any more.
    pub(crate) fn close(&mut self, closed: Closed, call: &mut Call<'_>) {
        if !matches!(self.phase, Phase::Closed(_)) {
            frame::go_away(call.out, self.streams.last(), closed.code);
            self.phase = Phase::Closed(closed);
            self.streams.clear();
            self.schedule.clear();
        }
    }

    /// Begins the end: the first GOAWAY, or the last one if the first was sent.
    pub(crate) fn leave(&mut self, call: &mut Call<'_>) {
        match self.phase {
            Phase::Open => {
                frame::go_away(call.out, WINDOW_MAX, ErrorCode::NO_ERROR);
                frame::ping(call.out, 0, GO_AWAY_PING);
                self.phase = Phase::Leaving;
                self.deadlines.go_away = Some(call.now);
            }
            Phase::Leaving => {
                frame::go_away(call.out, self.streams.last(), ErrorCode::NO_ERROR);
                self.phase = Phase::Left(self.streams.last());
                self.deadlines.go_away = None;
            }
            Phase::Left(_) | Phase::Closed(_) => {}
        }
    }

    /// Asks the client whether it lives.
    pub(crate) fn ask_alive(&mut self, call: &mut Call<'_>) {
        frame::ping(call.out, 0, ALIVE_PING);
        self.deadlines.ping = Some(call.now);
    }

    /// Takes an acknowledged PING; false if none was outstanding.
    pub(crate) fn acknowledge_ping(&mut self, payload: [u8; 8], call: &mut Call<'_>) -> bool {
        match payload {
            GO_AWAY_PING if self.phase == Phase::Leaving => {
                self.leave(call);
                true
            }
            ALIVE_PING => self.deadlines.ping.take().is_some(),
            _ => false,
        }
    }

    /// Resets a stream, which is charged where the client is to blame for it.
    pub(crate) fn reset(&mut self, id: StreamId, code: ErrorCode, call: &mut Call<'_>) -> Result<(), Excess> {
        frame::reset(call.out, id.0, code);
        self.streams.remember(id.0);
        self.remove(id, call);
        if code.blames_peer() { self.budgets.charge_provoked(call.now) } else { Ok(()) }
    }

    /// Removes a stream; what it held of the connection's window is given back.
    pub(crate) fn remove(&mut self, id: StreamId, call: &mut Call<'_>) {
        let Some(mut stream) = self.streams.find(id).and_then(|place| self.streams.remove(place)) else {
            return;
        };
        self.schedule.set(&mut stream, Turn::Content);
        self.receive.release_growth(stream.receive.growth(self.config.stream_window));
        self.give_back(stream.receive.held(), call);
        if self.streams.len() == 0 {
            self.deadlines.idle = call.now;
        }
    }

    /// Removes a stream that is over; one whose request is no longer wanted is over with its response.
    pub(crate) fn settle(&mut self, id: StreamId, call: &mut Call<'_>) {
        let Some(stream) = self.streams.get(id) else { return };
        let code = match stream.incoming {
            // RFC 9113 section 8.1: the rest of the request is not needed. NO_ERROR blames no side.
            Incoming::Discarded => Some(ErrorCode::NO_ERROR),
            // RFC 9113 section 8.1.1: the answer goes before the error of the stream, which was charged before.
            Incoming::Malformed => Some(ErrorCode::PROTOCOL_ERROR),
            Incoming::Open | Incoming::Ended => None,
        };
        if stream.outgoing == Outgoing::Ended
            && let Some(code) = code
        {
            frame::reset(call.out, id.0, code);
            self.streams.remember(id.0);
            self.remove(id, call);
        } else if stream.is_over() {
            self.remove(id, call);
        }
    }

    /// Gives bytes of the connection's window back.
    pub(crate) fn give_back(&mut self, bytes: u32, call: &mut Call<'_>) {
        let update = self.receive.give_back(bytes);
        if update > 0 {
            frame::window_update(call.out, 0, update);
        }
    }

    /// Consumes bytes of a stream: its window and the connection's are given back.
    pub(crate) fn consume(&mut self, id: StreamId, bytes: u32, call: &mut Call<'_>) {
        let pace = Pace {
            now: call.now,
            round_trip: self.deadlines.round_trip.into(),
            size_max: self.config.stream_window_max,
        };
        let Some(stream) = self.streams.get(id) else { return };
        let bytes = stream.receive.consume(bytes);
        if stream.incoming == Incoming::Open {
            let update = stream.receive.update(pace, &mut self.receive);
            if update > 0 {
                frame::window_update(call.out, id.0, update);
            }
        }
        self.give_back(bytes, call);
    }

    /// Adds the stream of a request.
    pub(crate) fn open(&mut self, id: StreamId, incoming: Incoming, now: Millis) -> Option<&mut Stream> {
        let stream = Stream {
            id,
            incoming,
            outgoing: Outgoing::Head,
            turn: Turn::Content,
            urgency: 3,
            send: SendWindow::new(self.peer.initial_window),
            receive: StreamWindow::new(self.config.stream_window, now),
            body_left: None,
        };
        self.streams.push(stream);
        self.streams.get(id)
    }
}
