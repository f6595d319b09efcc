//! One ordinary request of an HTTP/2 connection as Pingora's pipeline sees it: Pingora's own session, with deadlines.
//!
//! Pingora's HTTP/2 session has no time limit for the body of a request, and nothing that looks at the clock while it
//! waits for a pod. Both are added where the pipeline waits for the client, as `io.rs` does it for HTTP/1.1, so that a
//! pod that takes too long is a 504 with its line in the log and not a stream that is reset without a word.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::http::v2::server::HttpSession;
use pingora::protocols::l4::socket::SocketAddr;

use crate::io::Progress;

/// Messages beside the body, which HTTP/2 does not have.
type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// A request and its deadlines.
pub(super) struct H2Request {
    session: HttpSession,
    progress: Arc<Progress>,
    body_timeout: Option<Duration>,
}

impl H2Request {
    pub(super) fn new(session: HttpSession, progress: Arc<Progress>) -> H2Request {
        H2Request { session, progress, body_timeout: None }
    }
}

/// What `work` gives, unless the client takes longer than `limit`.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = limit else { return work.await };
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Error::e_explain(ErrorType::ReadTimedout, "the body of a request stalls"),
    }
}

#[async_trait]
impl CustomSession for H2Request {
    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        within(self.body_timeout, self.session.read_body_bytes()).await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let body_expected = !no_body_expected && !self.session.is_body_done();
        let limit = self.body_timeout.filter(|_| body_expected);
        tokio::select! {
            biased;
            read = within(limit, self.session.read_body_or_idle(no_body_expected)) => read,
            () = self.progress.expired() => {
                let cause = io::Error::from(io::ErrorKind::TimedOut);
                Error::e_because(ErrorType::ReadError, "the request's time is up", cause)
            }
        }
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.body_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.body_timeout
    }

    // The rest is Pingora's as it is.

    fn req_header(&self) -> &RequestHeader {
        self.session.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.session.req_header_mut()
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.session.drain_request_body().await
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.session.write_response_header(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.session.write_response_header_ref(head, end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        // An empty piece that ends nothing is nothing to send.
        if data.is_empty() && !end {
            return Ok(());
        }
        self.session.write_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.session.write_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.session.response_duplex_vec(tasks).await
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.session.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.session.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.session.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.session.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.session.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.session.response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.session.shutdown();
    }

    fn is_body_done(&mut self) -> bool {
        self.session.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.session.finish()
    }

    fn is_body_empty(&mut self) -> bool {
        self.session.is_body_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.session.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.session.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.session.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.session.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.session.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.session.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.session.pseudo_raw_h1_request_header()
    }

    fn enable_retry_buffering(&mut self) {
        self.session.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.session.retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.session.get_retry_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        self.session.finish()
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
