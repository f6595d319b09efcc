//! The rest of a request whose event stream has begun already: an endpoint may answer before it has read the body, and a client
//! may send for as long as it likes.

use std::task::Context;
use std::time::Duration;

use podpin_time::Millis;

use crate::clock;
use crate::http::reply::ErrorReply;
use crate::stream::account::Failure;
use crate::stream::client_writer::ClientWriter;
use crate::stream::timer::Timer;
use crate::stream::upstream_reader::{UpstreamReader, UpstreamWriter};
use crate::upstream::pod_upload::PodUpload;
use crate::upstream::upload::{BlockedOn, Upload};

/// The rest of the request of a stream.
pub(crate) struct RequestRest {
    upload: Rest,
    /// `limits.requestBodyTimeout`.
    limit: Duration,
    blocked_on: BlockedOn,
    /// The reason why the stream has to end; `None` if the client did not break its request.
    broken: Option<ErrorReply>,
}

/// A request, as far as it was sent, by the protocol of its endpoint.
pub(crate) enum Rest {
    /// HTTP/1.1.
    Http1(Upload),
    /// HTTP/2.
    Http2(PodUpload),
}

impl Rest {
    fn is_over(&self) -> bool {
        match self {
            Rest::Http1(upload) => upload.is_over(),
            Rest::Http2(upload) => upload.is_over(),
        }
    }

    fn moved(&self) -> Millis {
        match self {
            Rest::Http1(upload) => upload.moved(),
            Rest::Http2(upload) => upload.moved(),
        }
    }
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
    pub(crate) fn new(upload: Rest, limit: Duration) -> Option<Box<RequestRest>> {
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
        let (Some(body), Some(writer)) = (client.request_body(), upstream.writer()) else {
            return RestProgress::Over;
        };
        let blocked_on = match (&mut self.upload, writer) {
            (Rest::Http1(upload), UpstreamWriter::Http1(transport)) => upload.poll(context, body, transport),
            (Rest::Http2(upload), UpstreamWriter::Http2(pod)) => upload.poll(context, body, pod),
            // A stream with such a rest stays where it is.
            (Rest::Http1(_), UpstreamWriter::Http2(_)) | (Rest::Http2(_), UpstreamWriter::Http1(_)) => {
                return RestProgress::Over;
            }
        };
        match blocked_on {
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
