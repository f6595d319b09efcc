//! `affinity.onUnavailable: wait`: who is served at once, who waits, and who is turned away.
//!
//! As HAProxy's users know it, where a request with a persistent server waits for that server and any other for whichever
//! is free first, and where a full queue means another server:
//!
//! * Whoever needs nothing that somebody waits for already is served at once, however long the queue is.
//! * Others wait, first come, first served among those who wait for the same.
//! * When the queue is full, a client that would wait for its own endpoint is moved to another one with a place, as
//!   `repin` does; without one it is refused.

use std::borrow::Cow;
use std::time::Duration;

use podpin_config::OnUnavailable;
use podpin_endpoints::{EndpointId, Permit, Phase};
use tokio::time::{Instant, sleep, sleep_until};

use crate::affinity::select::{Admission, Placement};
use crate::balance::queue::{Ahead, Want};
use crate::balance::service::Kind;
use crate::http::reply::Failure;

/// How often a request that waits for a place looks without being told to.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a request may be given.
pub(crate) struct Terms<'a> {
    /// It has tried these in vain.
    tried: &'a [EndpointId],
    /// Those who are to be served before it.
    pub ahead: Ahead,
    /// It would rather wait for its own endpoint than have another one.
    pub waits: bool,
}

impl<'a> Terms<'a> {
    /// Whatever there is; a pin that failed this very request is not waited for.
    pub(crate) fn after(tried: &'a [EndpointId]) -> Terms<'a> {
        Terms { tried, ahead: Ahead::default(), waits: tried.is_empty() }
    }

    /// Endpoints that are not to be chosen. A client's own is: why it is not to be had is its reason to move.
    pub(crate) fn left_out(&self, own: Option<EndpointId>) -> Cow<'a, [EndpointId]> {
        if self.ahead.endpoints.is_empty() {
            return Cow::Borrowed(self.tried);
        }
        let wanted = self.ahead.endpoints.iter().filter(|id| Some(**id) != own);
        Cow::Owned(self.tried.iter().chain(wanted).copied().collect())
    }
}

impl Admission {
    /// As [`Admission::place_stream`], waiting for a place where the service has a queue.
    ///
    /// # Errors
    /// [`Failure::QueueTimeout`] too.
    pub(crate) async fn await_stream(&self, tried: &[EndpointId]) -> Result<(Placement, Permit), Failure> {
        self.await_place(Kind::Stream, tried, |terms| self.place_stream_on(terms)).await
    }

    /// As [`Admission::place`] for an ordinary request, waiting for a place where the service has a queue.
    ///
    /// One that can only be answered with an event stream is not sent where there is no place for one: the pod would do
    /// all of the work before its client is refused. The place itself is taken when the answer has come.
    ///
    /// # Errors
    /// [`Failure::QueueTimeout`] and [`Failure::ClientLimit`] too.
    pub(crate) async fn await_request(&self, tried: &[EndpointId]) -> Result<Placement, Failure> {
        let mut kind = Kind::Request;
        if let Some(client) = self.only_streams_to {
            drop(self.client_permit_at(client)?);
            kind = Kind::Stream;
        }
        self.await_place(kind, tried, |terms| self.place_on(kind, terms)).await
    }

    pub(crate) async fn await_place<P>(
        &self,
        kind: Kind,
        tried: &[EndpointId],
        attempt: impl Fn(&Terms<'_>) -> Result<P, Failure>,
    ) -> Result<P, Failure> {
        let service = self.service();
        let OnUnavailable::Wait(limits) = service.configuration.affinity.on_unavailable else {
            return attempt(&Terms::after(tried));
        };
        // What is left after a failure is tried at once or not at all.
        if !tried.is_empty() {
            return attempt(&Terms::after(tried));
        }
        let queue = &service.queue;
        let mut terms = Terms { tried, ahead: self.ahead(kind), waits: true };
        match attempt(&terms) {
            Err(Failure::NoEndpoint | Failure::Full) => {}
            other => return other,
        }
        let Some(ticket) = queue.join(limits.length, self.want(kind)) else {
            if queue.is_closed() {
                return Err(Failure::QueueTimeout);
            }
            terms.waits = false;
            return attempt(&terms).map_err(|_| Failure::QueueTimeout);
        };
        let deadline = Instant::now() + limits.timeout;
        loop {
            tokio::select! {
                biased;
                () = ticket.turn() => {}
                () = sleep_until(deadline) => return Err(Failure::QueueTimeout),
                // What ends by itself, as an ejection does, tells nobody.
                () = sleep(LOOK_AGAIN) => {
                    queue.wake();
                    continue;
                }
            }
            match attempt(&Terms::after(&[])) {
                Err(Failure::NoEndpoint | Failure::Full) if queue.is_closed() => {
                    return Err(Failure::QueueTimeout);
                }
                Err(Failure::NoEndpoint | Failure::Full) => {
                    // Its own endpoint may be gone meanwhile.
                    ticket.wants(self.want(kind));
                    ticket.pass_on();
                }
                other => return other,
            }
        }
    }

    /// An ordinary request takes no place: whoever can be served passes by those who wait for one.
    pub(crate) fn ahead(&self, kind: Kind) -> Ahead {
        match kind {
            Kind::Stream => self.service().queue.ahead(),
            Kind::Request => Ahead::default(),
        }
    }

    pub(crate) fn want(&self, kind: Kind) -> Want {
        let view = self.service().view();
        let own = self.home(&view).and_then(|id| view.snapshot.get(&id));
        match (kind, own) {
            (Kind::Request, _) => Want::NoPlace,
            (Kind::Stream, Some(own)) if matches!(own.phase, Phase::Ready | Phase::NotReady) => {
                Want::PlaceAt(own.id)
            }
            // One that drains or is gone is not waited for.
            (Kind::Stream, _) => Want::AnyPlace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wait_for_is_left_out_but_not_a_clients_own() {
        let [one, other, tried] = [1, 2, 3].map(|byte| EndpointId::from_bytes([byte; 16]));
        let ahead = Ahead { any: false, endpoints: vec![one, other] };
        let terms = Terms { tried: &[tried], ahead, waits: true };
        assert_eq!(*terms.left_out(None), [tried, one, other]);
        assert_eq!(*terms.left_out(Some(one)), [tried, other]);
        assert_eq!(*Terms::after(&[tried]).left_out(Some(tried)), [tried], "it has failed this request");
    }
}
