//! `/api/streams?service=&endpoint=&limit=`: open event streams and upgraded connections.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Json;
use podpin_proxy::shared::Shared;
use podpin_proxy::stream_registry::StreamRecord;
use serde::Serialize;

use crate::admin::problem::{Problem, refuse_unknown};
use crate::admin::views::StreamView;
use crate::readiness::Readiness;

/// Streams in one answer unless `limit` says otherwise; there may be a hundred thousand.
const LIMIT_DEFAULT: usize = 100;

/// Open streams that match a query.
#[derive(Serialize)]
pub(super) struct StreamList {
    /// The number of all that match.
    total: usize,
    /// The first of them.
    streams: Vec<StreamView>,
}

/// A query for streams; `None` matches all.
#[derive(Debug, PartialEq, Eq)]
struct StreamQuery {
    service: Option<String>,
    /// A name or a uid.
    endpoint: Option<String>,
    limit: usize,
}

impl StreamQuery {
    fn parse(mut parameters: HashMap<String, String>) -> Result<StreamQuery, Problem> {
        refuse_unknown(parameters.keys(), &["service", "endpoint", "limit"])?;
        let limit = match parameters.get("limit").map(|text| text.parse()) {
            None => LIMIT_DEFAULT,
            Some(Ok(limit)) => limit,
            Some(Err(_)) => return Err(Problem::bad_request("limit is not a number")),
        };
        let (service, endpoint) = (parameters.remove("service"), parameters.remove("endpoint"));
        Ok(StreamQuery { service, endpoint, limit })
    }

    fn matches(&self, record: &StreamRecord) -> bool {
        let endpoint = record.endpoint();
        let is_service = |name: &String| **name == *record.route.service.name;
        let is_endpoint =
            |name: &String| **name == *endpoint.name || endpoint.uid.as_deref() == Some(name.as_str());
        self.service.as_ref().is_none_or(is_service) && self.endpoint.as_ref().is_none_or(is_endpoint)
    }
}

/// Answers `GET /api/streams`.
pub(super) async fn list(
    State(readiness): State<Arc<Readiness>>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Json<StreamList>, Problem> {
    let query = StreamQuery::parse(parameters)?;
    Ok(Json(find(readiness.shared(), &query)))
}

fn find(shared: &Shared, query: &StreamQuery) -> StreamList {
    let mut found = StreamList { total: 0, streams: Vec::new() };
    shared.streams.for_each(|record| {
        if query.matches(record) {
            found.total += 1;
            if found.streams.len() < query.limit {
                found.streams.push(StreamView::new(record));
            }
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn parse(pairs: &[(&str, &str)]) -> Result<StreamQuery, Problem> {
        let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        StreamQuery::parse(owned.collect())
    }

    #[test]
    fn a_query_has_a_limit_and_no_parameter_that_is_unknown() {
        let all = StreamQuery { service: None, endpoint: None, limit: LIMIT_DEFAULT };
        assert_eq!(parse(&[]), Ok(all));
        let some = StreamQuery { service: Some("a".to_owned()), endpoint: None, limit: 7 };
        assert_eq!(parse(&[("service", "a"), ("limit", "7")]), Ok(some));
        assert_eq!(parse(&[("limit", "x")]), Err(Problem::bad_request("limit is not a number")));
        assert!(parse(&[("pod", "p")]).is_err());
    }

    #[test]
    fn a_process_without_streams_lists_none() {
        let shared = fixture::shared("{a: {discovery: {static: []}}}");
        let found = find(&shared, &parse(&[]).unwrap());
        assert_eq!(serde_json::to_value(found).unwrap(), serde_json::json!({ "total": 0, "streams": [] }));
    }
}
