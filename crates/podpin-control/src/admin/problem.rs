//! An error of the admin API: a status and one sentence, as JSON.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

/// A request to the admin API that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    error: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into() }
    }

    /// Describes parameters that do not make sense.
    pub(super) fn bad_request(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, error)
    }

    /// Refuses a request that would be right from elsewhere.
    pub(super) fn forbidden(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, error)
    }

    /// Returns the sentence.
    pub(super) fn reason(&self) -> &str {
        &self.error
    }

    pub(super) fn not_found(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error }))).into_response()
    }
}

/// Refuses parameters that are not among the known ones.
///
/// # Errors
/// Names the first unknown parameter, and the known ones.
pub(super) fn refuse_unknown<'a>(
    mut names: impl Iterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), Problem> {
    match names.find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Problem::bad_request(format!("unknown parameter `{name}`: {}", known.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_parameter_is_refused_with_the_known_ones() {
        let names = ["pod".to_owned(), "pods".to_owned()];
        assert_eq!(refuse_unknown(names.iter().take(1), &["pod", "timeout"]), Ok(()));
        let expected = Problem::bad_request("unknown parameter `pods`: pod, timeout");
        assert_eq!(refuse_unknown(names.iter(), &["pod", "timeout"]), Err(expected));
    }
}
