//! Parts of a relay that begins.

use std::sync::Arc;

use podpin_sse::session::Settings;

use crate::downstream::body::Downstream;
use crate::stream::account::Permits;
use crate::stream::body::Body;
use crate::stream::handover::HandoverDriver;
use crate::stream::upload::RequestRest;
use crate::stream::upstream_reader::UpstreamReader;
use crate::stream_registry::{StreamRecord, StreamRegistry};

/// Parts of a relay that begins.
pub(crate) struct Start {
    /// Response body of the client.
    pub downstream: Downstream,
    /// Response head of an HTTP/1 client, still to be written.
    pub head: Vec<u8>,
    /// Response body of the upstream.
    pub upstream: UpstreamReader,
    /// Content of the body.
    pub body: Body,
    /// Timeouts and limits.
    pub settings: Settings,
    /// Registry that `record` is in.
    pub streams: Arc<StreamRegistry>,
    /// Record of the stream.
    pub record: Arc<StreamRecord>,
    /// Places that it holds until it ends.
    pub permits: Option<Permits>,
    /// Rest of the request; `None` if the response began behind it.
    pub request: Option<Box<RequestRest>>,
    /// Handovers; `None` if the stream stays at one endpoint.
    pub handover: Option<Box<HandoverDriver>>,
}
