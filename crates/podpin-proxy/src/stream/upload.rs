//! The rest of a request whose event stream has begun already: an endpoint may answer before it has read the body, and a client
//! may send for as long as it likes.

use std::task::Context;
use std::time::Duration;

use crate::clock;
use crate::http::reply::ErrorReply;
use crate::stream::account::Failure;
use crate::stream::client_writer::ClientWriter;
use crate::stream::timer::Timer;
use crate::stream::upstream_reader::UpstreamReader;
use crate::upstream::upload::{BlockedOn, Upload};

/// The rest of the request of a stream.
pub(crate) struct RequestRest {
    upload: Upload,
    /// `limits.requestBodyTimeout`.
    limit: Duration,
    blocked_on: BlockedOn,
    /// The reason why the stream has to end; `None` if the client did not break its request.
    broken: Option<ErrorReply>,
}

/// Progress of the rest of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestProgress {
    /// There is more to send.
    Open,
    /// Nothing more is to be sent.
    Over,
    /// The client left, or what it sent is no request.
    Broken,
}

impl RequestRest {
    /// Returns the rest of a request; `None` if all of it was sent.
    pub(crate) fn new(upload: Upload, limit: Duration) -> Option<Box<RequestRest>> {
        let rest = RequestRest { upload, limit, blocked_on: BlockedOn::Client, broken: None };
        (!rest.upload.is_over()).then(|| Box::new(rest))
    }

    /// Sends what there is, and looks whether the client has been silent for too long within its body.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        client: &mut ClientWriter,
        upstream: &mut UpstreamReader,
        timer: &mut Timer,
    ) -> RestProgress {
        let (Some(body), Some(transport)) = (client.request_body(), upstream.transport()) else {
            return RestProgress::Over;
        };
        match self.upload.poll(context, body, transport) {
            Ok(BlockedOn::Neither) => return RestProgress::Over,
            Ok(blocked_on) => self.blocked_on = blocked_on,
            Err(reply) => return self.break_off(reply),
        }
        let (due, now) = (self.upload.moved().after(self.limit), clock::now());
        if self.reads_client() && due <= now {
            return self.break_off(ErrorReply::BodyTimeout);
        }
        if self.reads_client() {
            timer.wake_by(context, due, now);
        }
        RestProgress::Open
    }

    /// Whether the client's bytes are read as its body, which notices its leaving as well.
    pub(crate) fn reads_client(&self) -> bool {
        self.blocked_on == BlockedOn::Client
    }

    fn break_off(&mut self, reply: ErrorReply) -> RestProgress {
        self.broken = Some(reply);
        RestProgress::Broken
    }

    /// Returns the failure that the stream ends with; `None` if the client left, or broke nothing.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.broken.filter(|reply| *reply != ErrorReply::ClientGone).map(Failure::Request)
    }
}
