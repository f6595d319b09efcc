//! An event stream request that no pod will serve: what its client is told, and what is counted and logged of it.

use std::sync::Arc;

use http::header;
use podpin_config::Unavailable;
use podpin_time::Millis;

use crate::affinity::select::Admission;
use crate::clock;
use crate::downstream::pending::Exchange;
use crate::http::reply::{self, Failure};
use crate::shared::Shared;
use crate::stream::open::{Opening, protocol_name};
use crate::telemetry::access_log::Record;
use crate::telemetry::labels::{MethodLabel, RefusalKind};
use podpin_wire::client::Client;
use podpin_wire::http1::request_head::RequestHead;

/// Answers a request that no pod will, and accounts for it.
pub(crate) async fn refuse(
    (shared, head, client): (&Arc<Shared>, &RequestHead, &Client),
    opening: Option<&Opening<'_>>,
    (failure, began): (Failure, Millis),
    exchange: Exchange,
) {
    let admission = opening.map(|opening| opening.admission);
    let invitation = admission.and_then(|admission| invitation(admission, failure));
    let mut answer = invitation.as_ref().map(|(_, answer)| answer.clone()).or_else(|| failure.answer());
    if let (Some(answer), Some(admission)) = (&mut answer, admission) {
        admission.route.treatment.cross_origin(&head.headers, &mut answer.lines);
    }
    let code = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
    let (service, route) = admission.map_or(("", ""), |known| (&*known.service().name, &*known.route.name));
    shared.metrics.requests.inc(service, route, MethodLabel::Get, code);
    if let Some(admission) = admission {
        admission.count(None);
        let invited = invitation.as_ref().map(|(kind, _)| *kind);
        if let Some(kind) = invited.or_else(|| failure.refusal()) {
            admission.service().refused(kind);
        }
    }
    if shared.is_logging() {
        let mut log = request_record(head, client, began);
        log.kind = "stream";
        log.status = code;
        log.route = admission.map(|known| known.route.name.to_string());
        log.service = admission.map(|known| known.service().name.to_string());
        log.affinity = admission.map(|known| known.decision(None));
        log.session = admission.map(|known| known.session.to_string());
        log.endpoint =
            opening.and_then(|opening| opening.asked.as_ref()).map(|placed| placed.endpoint.name.to_string());
        log.retries = opening.map_or(0, |opening| opening.retries);
        log.reason = if invitation.is_some() { "refused" } else { failure.log_reason() };
        log.error = Some(failure.to_string());
        log.duration_ms = clock::duration_millis(clock::now().since(began));
        shared.log(&log);
    }
    if let Some(answer) = answer {
        exchange.answer(answer).await;
    }
}

/// Gives the answer that a route has for a request by itself, and accounts for it.
pub(crate) async fn tell(
    (shared, head, client): (&Arc<Shared>, &RequestHead, &Client),
    admission: &Admission,
    (answer, began): (reply::Answer, Millis),
    exchange: Exchange,
) {
    let (service, route) = (&*admission.service().name, &*admission.route.name);
    shared.metrics.requests.inc(service, route, MethodLabel::Get, answer.status.as_u16());
    if shared.is_logging() {
        let mut log = request_record(head, client, began);
        log.kind = "request";
        log.status = answer.status.as_u16();
        log.route = Some(route.to_owned());
        log.service = Some(service.to_owned());
        log.reason = "complete";
        log.duration_ms = clock::duration_millis(clock::now().since(began));
        shared.log(&log);
    }
    exchange.answer(answer).await;
}

/// The answer that brings an event stream client back, where the service wants that and it may help.
fn invitation(admission: &Admission, failure: Failure) -> Option<(RefusalKind, reply::Answer)> {
    let sse = &admission.service().configuration.sse;
    let kind = failure.passing().filter(|_| sse.unavailable == Unavailable::Retry)?;
    let retry = &sse.retry;
    let (min, max) = (clock::duration_millis(retry.drain_min), clock::duration_millis(retry.drain_max));
    Some((kind, failure.invitation(fastrand::u64(min..=max.max(min)))))
}

pub(crate) fn request_record(head: &RequestHead, client: &Client, began: Millis) -> Record {
    let mut log = Record::begun("stream", began);
    log.client = Some(client.address);
    log.method = head.method.to_string();
    log.host.clone_from(&head.authority);
    log.path.clone_from(&head.target);
    log.protocol = protocol_name(head.version);
    log.user_agent =
        head.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
    log
}
