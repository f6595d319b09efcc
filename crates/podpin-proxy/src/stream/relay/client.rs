//! The client's side of a relay's turn: what it takes, what it still sends, and whether it is there at all.

use std::task::Context;

use podpin_sse::session::{Client, Close};

use crate::balance::client_limit::Look;
use crate::clock;
use crate::stream::relay::Relay;
use crate::stream::upload::RestProgress;

impl Relay {
    /// Looks whether the client still acknowledges anything, when a newcomer would like to have its place. Returns the end of
    /// the stream if it does not.
    pub(super) fn poll_inquiry(&mut self, context: &mut Context<'_>) -> Option<Close> {
        let permit = self.permits.as_ref()?.of_client()?;
        if !permit.is_asked(context.waker()) {
            return None;
        }
        match permit.look(self.client.peer(), self.session.takes_comments(), clock::now()) {
            Look::Vanished => return self.session.on_client(Client::Gone),
            Look::Comment => self.keep_alive(context),
            Look::Nothing => {}
        }
        None
    }

    /// Sends the rest of the request. Returns the end of the stream if the client has broken it.
    pub(super) fn poll_request(&mut self, context: &mut Context<'_>) -> Option<Close> {
        let request = self.request.as_mut()?;
        match request.poll(context, &mut self.client, &mut self.upstream, &mut self.timer) {
            RestProgress::Open => None,
            RestProgress::Over => {
                self.request = None;
                None
            }
            RestProgress::Broken => self.session.on_client(Client::Gone),
        }
    }

    /// Writes what is left to write, and looks whether the client is still there. Returns the end of the stream if that
    /// is it.
    pub(super) fn poll_client(&mut self, context: &mut Context<'_>) -> Option<Close> {
        let flushed = self.client.flush(context);
        if flushed.took_bytes {
            self.session.on_taken(clock::now());
        }
        // A client that has taken all of a finished stream may leave.
        let is_finished = !self.session.has_upstream() && !self.session.is_opening();
        let is_read = self.request.as_ref().is_some_and(|request| request.reads_client());
        let client = match flushed.client {
            Client::Ready if !is_finished && !is_read => self.client.watch(context),
            client => client,
        };
        self.session.on_client(client)
    }
}
