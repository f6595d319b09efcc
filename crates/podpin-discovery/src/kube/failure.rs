//! Why a list or a watch did not work, in words that say what to do about it.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use crate::kube::resource::Resource;

/// Words of an error that are repeated in the log.
const MESSAGE_CHARS_MAX: usize = 300;

/// The kind of a failed list or watch, for metrics and pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No connection, a broken one, or no answer in time.
    Unreachable,
    /// 403: rights are missing.
    Forbidden,
    /// 401: the credentials are refused.
    Unauthorized,
    /// 429, or 503 with `Retry-After`.
    Throttled,
    /// An answer that cannot be read.
    Malformed,
    /// Any other refusal.
    Refused,
}

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The version or the continue token is too old (410 Gone).
    #[error("the resource version is too old (410)")]
    Expired,
    /// The API server said no.
    #[error("the API server answers {verb} with {code}: {message}{}", hint(*code, resource))]
    Refused {
        /// `list` or `watch`.
        verb: &'static str,
        /// Resource of the request.
        resource: &'static Resource,
        /// HTTP status.
        code: u16,
        /// Message of the API server or the client.
        message: String,
        /// How long the server asks to wait before the next request; `None` if it does not.
        retry_after: Option<Duration>,
    },
    /// No connection, or a broken one.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// Connected, but no answer within this time.
    #[error("the API server has not answered {verb} within {after:?}")]
    Silent {
        /// `list` or `watch`.
        verb: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// Credentials that the API server refuses, and no others to show.
    #[error("the API server answers 401: {0}")]
    Plugin(Arc<str>),
    /// An answer that is no list.
    #[error("the API server's answer cannot be read: {0}")]
    Garbled(String),
}

fn hint(code: u16, resource: &Resource) -> String {
    match code {
        401 => " (is the token valid for this cluster?)".to_owned(),
        403 => {
            let group = match resource.group {
                "" => "the core API group (\"\")".to_owned(),
                group => format!("the API group {group}"),
            };
            let resource = resource.plural;
            format!(
                " (a Role in that namespace must grant the verbs list and watch on the resource {resource} of {group})"
            )
        }
        _ => String::new(),
    }
}

impl Failure {
    /// Returns the kind of the failure.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Failure::Unreachable(_) | Failure::Silent { .. } => FailureKind::Unreachable,
            Failure::Plugin(_) | Failure::Refused { code: 401, .. } => FailureKind::Unauthorized,
            Failure::Refused { code: 403, .. } => FailureKind::Forbidden,
            Failure::Refused { code: 429, .. } | Failure::Refused { code: 503, retry_after: Some(_), .. } => {
                FailureKind::Throttled
            }
            Failure::Garbled(_) => FailureKind::Malformed,
            Failure::Refused { .. } | Failure::Expired => FailureKind::Refused,
        }
    }

    /// Returns the words for a refusal by a server that has accepted the same before and may be starting.
    pub(crate) fn passing_words(&self) -> String {
        match self {
            Failure::Refused { verb, code, message, .. } => format!(
                "the API server answers {verb} with {code}, which it did not before: {message} (one that has just started \
                 does so for some seconds)"
            ),
            other => other.to_string(),
        }
    }

    /// Whether a person who has read about one need not read about the other.
    pub(crate) fn resembles(&self, other: &Failure) -> bool {
        match (self, other) {
            (Failure::Refused { verb, code, .. }, Failure::Refused { verb: other, code: other_code, .. }) => {
                (verb, code) == (other, other_code)
            }
            // A server that starts is now refused, now silent.
            (
                Failure::Unreachable(_) | Failure::Silent { .. },
                Failure::Unreachable(_) | Failure::Silent { .. },
            ) => true,
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        }
    }

    /// The same failure of a server that asks to wait so long.
    pub(crate) fn asking_to_wait(self, asked: Option<Duration>) -> Failure {
        match self {
            Failure::Refused { verb, resource, code, message, retry_after: _ } => {
                Failure::Refused { verb, resource, code, message, retry_after: asked }
            }
            other => other,
        }
    }

    /// Returns how long the server asks to wait; `None` if it does not, or is in no position to: only throttling and
    /// overload (429, 503) are.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Refused { code: 429 | 503, retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Classifies a status with this code, the answer to `verb`.
    pub(crate) fn of_status(
        code: u16,
        message: &str,
        verb: &'static str,
        resource: &'static Resource,
    ) -> Failure {
        match code {
            410 => Failure::Expired,
            _ => Failure::Refused { verb, resource, code, message: excerpt(message), retry_after: None },
        }
    }
}

/// An error and what it came from; the outermost words alone are "client error (Connect)".
pub(crate) fn with_sources(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    excerpt(&text)
}

/// The beginning of a text, in one line.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::pods::Pod;
    use crate::kube::slices::SLICES;
    use crate::kube::wire::Object;

    fn refusal(code: u16, message: &str, verb: &'static str) -> Failure {
        Failure::of_status(code, message, verb, &SLICES)
    }

    #[test]
    fn a_refusal_says_what_the_role_lacks() {
        let refused = refusal(403, "endpointslices is forbidden: User \"x\" cannot list", "list");
        let words = refused.to_string();
        for part in ["list with 403", "cannot list", "list and watch", "endpointslices", "discovery.k8s.io"] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        let pods = Failure::of_status(403, "", "watch", Pod::RESOURCE).to_string();
        assert!(pods.contains("list and watch on the resource pods of the core API group"), "{pods}");
        assert!(refusal(401, "", "list").to_string().contains("token"));
        assert_eq!(refusal(410, "", "watch"), Failure::Expired);
    }

    #[test]
    fn a_failure_has_its_kind_and_a_refusal_that_may_pass_names_no_role() {
        let asked = |code, asked| refusal(code, "", "list").asking_to_wait(asked).kind();
        let second = Some(Duration::from_secs(1));
        let kinds = [
            (refusal(403, "", "list").kind(), FailureKind::Forbidden),
            (refusal(401, "", "list").kind(), FailureKind::Unauthorized),
            (Failure::Plugin("".into()).kind(), FailureKind::Unauthorized),
            (asked(429, None), FailureKind::Throttled),
            (asked(503, second), FailureKind::Throttled),
            (asked(503, None), FailureKind::Refused),
            (Failure::Garbled(String::new()).kind(), FailureKind::Malformed),
            (Failure::Unreachable(String::new()).kind(), FailureKind::Unreachable),
        ];
        for (kind, expected) in kinds {
            assert_eq!(kind, expected);
        }
        let words = refusal(403, "no", "watch").passing_words();
        assert!(words.contains("watch with 403") && !words.contains("Role"), "{words}");
    }

    #[test]
    fn a_line_is_logged_once_for_what_a_reader_takes_for_the_same() {
        let silent = Failure::Silent { verb: "list", after: Duration::from_secs(10) };
        let unreachable = Failure::Unreachable("refused".into());
        let forbidden = refusal(403, "a", "list");
        assert!(silent.resembles(&unreachable) && unreachable.resembles(&silent));
        assert!(forbidden.resembles(&refusal(403, "b", "list")));
        assert!(!forbidden.resembles(&refusal(403, "a", "watch")));
        assert!(!forbidden.resembles(&refusal(401, "a", "list")));
        assert!(!forbidden.resembles(&silent) && !silent.resembles(&forbidden));
    }
}
