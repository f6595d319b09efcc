//! Drives the handovers of one stream: requests successors, and keeps one that has answered until the session decides.
//!
//! ```text
//! Action::Open ──▶ begin ──▶ the request is polled with the relay ──▶ Answer ──▶ Session::on_answer ──▶ take_successor
//!                                                                                   └▶ cancel
//! ```
//!
//! When to open, to swap and to give up is decided by [`podpin_sse::session`]; which endpoint is requested, by
//! `successor.rs`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use podpin_sse::session::{Answer, Eligibility};

use crate::routing::route::Route;
use crate::stream::successor::{ResumePlan, Successor, SuccessorResult, SuccessorTarget, allows_handover};

/// Handovers of one stream.
pub(crate) struct HandoverDriver {
    plan: ResumePlan,
    /// Request under way.
    request: Option<Pin<Box<dyn Future<Output = SuccessorResult> + Send>>>,
    /// Successor that has answered with an event stream.
    successor: Option<Box<Successor>>,
}

impl HandoverDriver {
    /// Returns the driver of a stream that may be handed over.
    pub(crate) fn new(plan: ResumePlan) -> HandoverDriver {
        HandoverDriver { plan, request: None, successor: None }
    }

    /// Begins to request a successor for what follows `last_event_id`. The task has to poll afterwards.
    pub(crate) fn begin(&mut self, route: &Arc<Route>, last_event_id: Vec<u8>, target: SuccessorTarget) {
        let request = self.plan.request(route, last_event_id);
        self.request = Some(Box::pin(request.send(target)));
    }

    /// Returns the answer of the successor once there is one; `None` if nothing has changed.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Option<Answer> {
        let request = self.request.as_mut()?;
        let Poll::Ready(result) = request.as_mut().poll(context) else { return None };
        self.request = None;
        Some(match result {
            SuccessorResult::Stream(successor) => {
                let may_move_again = allows_handover(&successor.response.start.head.headers);
                self.successor = Some(successor);
                Answer::EventStream(if may_move_again {
                    Eligibility::Eligible
                } else {
                    Eligibility::Ineligible
                })
            }
            SuccessorResult::NoContent => Answer::NoContent,
            SuccessorResult::Refused => Answer::Refused,
            SuccessorResult::Failed => Answer::Failed,
        })
    }

    /// Takes the successor that has answered; `None` if none has.
    pub(crate) fn take_successor(&mut self) -> Option<Successor> {
        self.successor.take().map(|successor| *successor)
    }

    /// Drops the request that is under way, and a successor that is not wanted any more.
    pub(crate) fn cancel(&mut self) {
        (self.request, self.successor) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use podpin_affinity::SessionId;
    use podpin_endpoints::EndpointId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::balance::service::Operation;
    use crate::testing::{Scene, nowhere};

    fn driver(scene: &Scene) -> HandoverDriver {
        let head = b"GET / HTTP/1.1\r\nhost: x\r\n".to_vec();
        HandoverDriver::new(ResumePlan::new(Arc::clone(&scene.shared), SessionId::from_bytes([1; 16]), head))
    }

    async fn answer(handover: &mut HandoverDriver) -> Answer {
        poll_fn(|context| handover.poll(context).map_or(Poll::Pending, Poll::Ready)).await
    }

    #[tokio::test]
    async fn an_answer_says_whether_the_stream_goes_on_and_may_move_again() {
        let stream = "200 OK\r\nContent-Type: text/event-stream";
        let vetoed = format!("{stream}\r\nX-Podpin-Handover: no");
        let table = [
            (stream, Answer::EventStream(Eligibility::Eligible)),
            (&*vetoed, Answer::EventStream(Eligibility::Ineligible)),
            ("204 No Content", Answer::NoContent),
            ("200 OK\r\nContent-Type: text/html", Answer::Refused),
            ("503 Service Unavailable", Answer::Refused),
        ];
        for (head, expected) in table {
            let successors = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let scene = Scene::new(&[("b", successors.local_addr().unwrap())]);
            let mut handover = driver(&scene);
            let from = SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80));
            handover.begin(&scene.route, b"7".to_vec(), from);
            let serve = async {
                let (mut socket, _) = successors.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert!(socket.read_buf(&mut request).await.unwrap() > 0);
                }
                socket.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await.unwrap();
                socket
            };
            let (answered, _socket) = tokio::join!(answer(&mut handover), serve);
            assert_eq!(answered, expected, "{head}");
            let successor = handover.take_successor();
            assert_eq!(successor.is_some(), matches!(expected, Answer::EventStream(_)), "{head}");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_does_not_answer_is_a_failure() {
        let scene = Scene::new(&[("b", nowhere())]);
        let mut handover = driver(&scene);
        handover.begin(&scene.route, b"7".to_vec(), SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80)));
        assert_eq!(answer(&mut handover).await, Answer::Failed);
        assert!(handover.take_successor().is_none());
    }

    #[tokio::test]
    async fn a_stream_that_flows_does_not_go_on_at_an_endpoint_that_leaves_as_well() {
        let successors = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scene = Scene::new(&[("a", nowhere()), ("b", successors.local_addr().unwrap())]);
        let [a, b] = ["a", "b"].map(|name| EndpointId::of_pod(name, 80));
        let mut handover = driver(&scene);
        let service = &scene.route.service;
        service.operate(&a, Operation::Drain).unwrap();
        service.operate(&b, Operation::Drain).unwrap();
        handover.begin(&scene.route, b"7".to_vec(), SuccessorTarget::AwayFrom(a));
        assert_eq!(answer(&mut handover).await, Answer::Failed, "nobody is ready");
        service.operate(&b, Operation::Undrain).unwrap();
        handover.begin(&scene.route, b"7".to_vec(), SuccessorTarget::AwayFrom(a));
        let accepted = async { drop(successors.accept().await.unwrap()) };
        assert_eq!(tokio::join!(answer(&mut handover), accepted).0, Answer::Failed, "it was asked, and left");
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_has_no_answer() {
        let scene = Scene::new(&[("b", nowhere())]);
        let mut handover = driver(&scene);
        handover.begin(&scene.route, b"7".to_vec(), SuccessorTarget::PinnedTo(EndpointId::of_pod("a", 80)));
        handover.cancel();
        let polled = poll_fn(|context| Poll::Ready(handover.poll(context))).await;
        assert_eq!(polled, None);
    }
}
