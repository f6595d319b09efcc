//! What comes of a request for another protocol: the pod's answer made ours, our own answer to a failure, the line in the log.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;

use crate::affinity::select::{Admission, Placement};
use crate::clock;
use crate::http::filters::{Side, Treatment};
use crate::http::reply::{Answer, Failure};
use crate::shared::Shared;
use crate::stream::open::protocol_name;
use crate::telemetry::access_log::Record;
use crate::upgrade::pipeline::Request;
use crate::upstream::rewrite::{self, Affinity};
use podpin_wire::client::Client;
use podpin_wire::headers;

/// Takes out of a response what only means something between the pod and us, and what only we may say.
pub(crate) fn strip_response(
    response: &mut ResponseHeader,
    upgrade: bool,
    sets_ours: impl Fn(&HeaderValue) -> bool,
) -> Result<()> {
    let framing = |name: &HeaderName| *name == header::TRANSFER_ENCODING || *name == header::CONTENT_LENGTH;
    let kept = headers::response_lines(response.headers.clone(), sets_ours);
    let gone: Vec<HeaderName> = response
        .headers
        .keys()
        .filter(|name| !kept.contains_key(*name) && !framing(name))
        .filter(|name| !(upgrade && matches!(**name, header::CONNECTION | header::UPGRADE)))
        .cloned()
        .collect();
    for name in gone {
        response.remove_header(&name);
    }
    single_length(response)?;
    response.remove_header(&header::SET_COOKIE);
    for line in kept.get_all(header::SET_COOKIE) {
        response.append_header(header::SET_COOKIE, line.clone())?;
    }
    Ok(())
}

/// Tells the client where it belongs: by the cookie, and by the session id that the pod gave it.
pub(crate) fn write_affinity(
    shared: &Shared,
    (known, client): ((&Admission, &Placement), &Client),
    response: &mut ResponseHeader,
) -> Result<()> {
    let Affinity { replaced, cookie } = rewrite::affinity(shared, known, client, &response.headers);
    for (name, value) in replaced {
        response.insert_header(name, value)?;
    }
    if let Some(cookie) = cookie {
        response.append_header(header::SET_COOKIE, cookie)?;
    }
    Ok(())
}

/// One `Content-Length` at most, and none with 204 (RFC 9110 section 8.6).
fn single_length(response: &mut ResponseHeader) -> Result<()> {
    let lengths: Vec<_> = response.headers.get_all(header::CONTENT_LENGTH).iter().cloned().collect();
    if response.status == StatusCode::NO_CONTENT {
        response.remove_header(&header::CONTENT_LENGTH);
    } else if let [first, _, ..] = lengths.as_slice() {
        response.insert_header(header::CONTENT_LENGTH, first.clone())?;
    }
    Ok(())
}

/// Host and port as the client asked for them.
pub(crate) fn authority(head: &RequestHeader) -> &str {
    let host = || head.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    head.uri.authority().map(http::uri::Authority::as_str).or_else(host).unwrap_or_default()
}

/// What an error that is not the pod's means for the client.
pub(crate) fn downstream_failure(error: &Error) -> Failure {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Failure::BodyTimeout,
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::ConnectionClosed
            | ErrorType::WriteTimedout,
        ) => Failure::ClientGone,
        (ErrorSource::Downstream, _) => Failure::Body,
        (ErrorSource::Upstream, _) => Failure::UpstreamReset,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Failure::Internal,
    }
}

/// Whether `io.rs` says through Pingora that the pod took too long.
pub(crate) fn is_overdue(error: &Error) -> bool {
    let cause = error.cause.as_deref().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

/// The answer to a request that its route has by itself.
pub(crate) fn own_answer(admission: &Admission, session: &Session, secure: bool) -> Option<Answer> {
    let head = session.req_header();
    let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    admission.route.treatment.answer((&head.method, authority(head), target), &head.headers, secure)
}

/// What the route changes of a request; `cookies` are its cookie lines, which are written later.
pub(crate) fn treat_request(
    treatment: &Treatment,
    asked: &RequestHeader,
    upstream: &mut RequestHeader,
    cookies: &mut HeaderMap,
) -> Result<()> {
    let named: Vec<HeaderName> = treatment.edited(Side::Request).cloned().collect();
    let mut lines = taken(&named, &upstream.headers);
    lines.extend(std::mem::take(cookies));
    treatment.edit_request(&mut lines);
    for name in &named {
        upstream.remove_header(name);
    }
    for (name, value) in &lines {
        if *name == header::COOKIE {
            cookies.append(name.clone(), value.clone());
        } else {
            upstream.append_header(name.clone(), value.clone())?;
        }
    }
    if let Some(host) = treatment.hostname() {
        upstream.insert_header(header::HOST, host.clone())?;
    }
    let target = asked.uri.path_and_query().and_then(|target| treatment.target(target.as_str()));
    target.map_or(Ok(()), |target| upstream.set_raw_path(target.as_bytes()))
}

/// What the route changes of a pod's response.
pub(crate) fn treat_response(
    treatment: &Treatment,
    asked: &HeaderMap,
    response: &mut ResponseHeader,
) -> Result<()> {
    let named: Vec<HeaderName> = treatment.edited(Side::Response).cloned().collect();
    let mut lines = taken(&named, &response.headers);
    treatment.edit_response(asked, &mut lines);
    for name in &named {
        response.remove_header(name);
    }
    for (name, value) in &lines {
        response.append_header(name.clone(), value.clone())?;
    }
    Ok(())
}

/// The lines of these names.
fn taken(names: &[HeaderName], of: &HeaderMap) -> HeaderMap {
    let lines = of.iter().filter(|(name, _)| names.contains(name));
    lines.map(|(name, value)| (name.clone(), value.clone())).fold(
        HeaderMap::new(),
        |mut map, (name, value)| {
            map.append(name, value);
            map
        },
    )
}

/// Answers with a failure of ours.
pub(crate) async fn write_failure(
    session: &mut Session,
    failure: Failure,
    admission: Option<&Admission>,
) -> Result<()> {
    let Some(mut answer) = failure.answer() else { return Ok(()) };
    if let Some(admission) = admission {
        admission.route.treatment.cross_origin(&session.req_header().headers, &mut answer.lines);
    }
    write_answer(session, answer).await
}

/// Gives an answer of ours.
pub(crate) async fn write_answer(session: &mut Session, answer: Answer) -> Result<()> {
    let mut head = ResponseHeader::build(answer.status, Some(5 + answer.lines.len()))?;
    for (name, value) in answer.own_lines().iter().chain(&answer.lines) {
        head.append_header(name.clone(), value.clone())?;
    }
    let with_body = session.req_header().method != Method::HEAD && !answer.body.is_empty();
    session.write_response_header(Box::new(head), !with_body).await?;
    if with_body {
        session.write_response_body(Some(answer.body.into()), true).await?;
    }
    Ok(())
}

pub(crate) fn record(session: &Session, error: Option<&Error>, request: &Request, status: u16) -> Record {
    let head = session.req_header();
    let kind = if session.was_upgraded() { "upgrade" } else { "request" };
    let mut log = Record::begun(kind, request.began);
    log.client = request.client.as_ref().map(|client| client.address);
    log.method = head.method.to_string();
    log.host = authority(head).to_owned();
    log.path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    log.protocol = protocol_name(head.version);
    log.status = status;
    log.user_agent = head.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).map(str::to_owned);
    if let Some(admission) = &request.admission {
        admission.write_down(request.placement.as_ref(), request.answered, &mut log);
    }
    log.reason = match (error.is_some(), request.failure) {
        (false, _) => "complete",
        (true, failure) => failure.map_or("error", Failure::log_reason),
    };
    log.error = error.and(request.failure).map(|failure| failure.to_string());
    log.bytes = u64::try_from(session.body_bytes_sent()).unwrap_or(0);
    log.duration_ms = clock::duration_millis(clock::now().since(request.began));
    log.connect_ms = request.connect_millis;
    log.retries = request.retries;
    log
}
