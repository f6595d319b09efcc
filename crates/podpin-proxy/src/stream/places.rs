//! Places of a stream under `limits.streamsPerEndpoint` and `limits.streamsPerClient`, for requests whose response may turn
//! out to be one.
//!
//! A request that names `text/event-stream` or offers another protocol takes its places before an endpoint is asked: refused
//! afterwards, the endpoint would have done its work in vain. Any other request takes them once its response is a stream.

use std::net::IpAddr;

use podpin_wire::http1::request_head;

use crate::affinity::routed_request::RoutedRequest;
use crate::affinity::selected::Selected;
use crate::http::reply::ErrorReply;
use crate::request_context::RequestContext;
use crate::stream::account::Permits;
use crate::upstream::attempts::Attempts;

/// Places that a request holds until its response is there.
#[derive(Default)]
pub(crate) struct Places {
    /// Whether the places are taken before an endpoint is asked.
    is_early: bool,
    permits: Option<Permits>,
}

impl Places {
    /// Returns the places of a request, none of them taken yet.
    pub(crate) fn for_request(request: &RequestContext) -> Places {
        let is_early = request.offer.is_some() || request_head::names_event_streams(&request.head.fields);
        Places { is_early, permits: None }
    }

    /// Returns the places of a request that is a stream whatever is answered, none of them taken yet.
    pub(crate) fn for_stream() -> Places {
        Places { is_early: true, permits: None }
    }

    /// Selects the endpoint of the next attempt, with a place at it if the request takes that early.
    ///
    /// # Errors
    /// As [`Attempts::select_request`], and [`ErrorReply::ClientLimit`].
    pub(crate) async fn select(&mut self, attempts: &mut Attempts, client: IpAddr) -> Result<(), ErrorReply> {
        if !self.is_early {
            return attempts.select_request().await;
        }
        // The place at an endpoint that failed is free again before another one is taken; that of the client is kept.
        let of_client = match self.permits.take() {
            Some(mut before) => before.take_client(),
            None => attempts.request.claim_client_permit(client).await?,
        };
        let permit = attempts.select_stream().await?;
        self.permits = Some(Permits::new(permit, of_client, attempts.service()));
        Ok(())
    }

    /// Returns the permits of a response that is a stream.
    ///
    /// # Errors
    /// [`ErrorReply::ClientLimit`] or [`ErrorReply::Full`], unless the places were taken before.
    pub(crate) fn into_permits(
        self,
        request: &RoutedRequest,
        selected: &Selected,
        client: IpAddr,
    ) -> Result<Permits, ErrorReply> {
        if let Some(permits) = self.permits {
            return Ok(permits);
        }
        let service = request.service();
        let of_client = request.client_permit(client)?;
        let limit = service.configuration.limits.streams_per_endpoint;
        let of_endpoint = selected.endpoint.load.try_open(limit).ok_or(ErrorReply::Full)?;
        Ok(Permits::new(of_endpoint, of_client, service))
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, HeaderMap, HeaderValue};
    use podpin_endpoints::EndpointId;

    use super::*;
    use crate::testing::{Scene, nowhere};
    use crate::upstream::attempts::Purpose;
    use crate::upstream::error::UpstreamError;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn places(scene: &Scene, accept: &'static str) -> Places {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        Places::for_request(&scene.context(headers))
    }

    #[tokio::test]
    async fn a_request_that_names_event_streams_takes_its_places_first_and_any_other_with_the_response() {
        let limits = "limits: {streamsPerEndpoint: 1, streamsPerClient: 1}";
        let scene = Scene::with(limits, &[("a", nowhere())]);
        let other = || Attempts::new(scene.pinned_to("a"), Purpose::Request);
        let (mut named, mut attempts) = (places(&scene, "application/json, text/event-stream"), other());
        named.select(&mut attempts, CLIENT).await.unwrap();
        let refused = places(&scene, "text/event-stream").select(&mut other(), CLIENT).await;
        assert_eq!(refused.err(), Some(ErrorReply::ClientLimit));
        let (mut wildcard, mut later) = (places(&scene, "*/*"), other());
        wildcard.select(&mut later, CLIENT).await.unwrap();
        let answered = wildcard.into_permits(&later.request, later.selected().unwrap(), CLIENT);
        assert_eq!(answered.err(), Some(ErrorReply::ClientLimit));
        // The stream keeps both.
        let permits = named.into_permits(&attempts.request, attempts.selected().unwrap(), CLIENT).unwrap();
        assert!(scene.pinned_to("a").client_permit(CLIENT).is_err());
        drop(permits);
        let mut next = places(&scene, "text/event-stream");
        next.select(&mut other(), CLIENT).await.unwrap();
        drop(next);
        assert!(scene.pinned_to("a").client_permit(CLIENT).is_ok(), "given back");
    }

    #[tokio::test]
    async fn another_attempt_keeps_the_place_of_the_client_and_frees_that_of_the_endpoint() {
        let limits = "limits: {streamsPerEndpoint: 1, streamsPerClient: 1}";
        let scene = Scene::with(limits, &[("a", nowhere()), ("b", nowhere())]);
        let mut attempts = Attempts::new(scene.pinned_to("a"), Purpose::Request);
        let mut places = places(&scene, "text/event-stream");
        places.select(&mut attempts, CLIENT).await.unwrap();
        attempts.failed(&UpstreamError::ConnectTimeout);
        places.select(&mut attempts, CLIENT).await.unwrap();
        let open =
            |name| scene.route.service.endpoint(&EndpointId::of_pod(name, 80)).unwrap().load.open_streams();
        assert_eq!((open("a"), open("b")), (0, 1));
        assert_eq!(scene.pinned_to("a").client_permit(CLIENT).err(), Some(ErrorReply::ClientLimit));
    }
}
