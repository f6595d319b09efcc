//! How long a reflector waits: after failures, between lists, and when a server asks it to.

use std::time::Duration;

use crate::kube::failure::Failure;

/// The first and the longest wait after failures; drawn evenly between the first and a bound that doubles. Short enough
/// that an API server which is back is followed again within 3 s.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(2_500);

/// Longest `Retry-After` that is honoured: API priority and fairness asks for seconds, and a minute without news is enough.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Drawn from a tenth around `interval`, so that replicas which started together do not ask together for ever.
pub(super) fn around(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// How long to wait after the `failures`th failure in a row, at most `most`; `draw` is from 0 to 1.
pub(super) fn backoff(failures: u32, most: Duration, draw: f64) -> Duration {
    let bound = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(failures.min(8))).min(most);
    BACKOFF_MIN + bound.saturating_sub(BACKOFF_MIN).mul_f64(draw)
}

/// Returns how long a server asks to wait that throttles or is overloaded, up to a minute, and up to a tenth more: replicas
/// that were refused together do not come back together. Zero if it does not ask; `draw` is from 0 to 1.
pub(super) fn asked_wait(failure: &Failure, draw: f64) -> Duration {
    let asked = failure.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
    asked + asked.mul_f64(0.1 * draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        for failures in 1..100 {
            let of = |failures, draw| backoff(failures, BACKOFF_MAX, draw);
            let (least, most) = (of(failures, 0.0), of(failures, 1.0));
            assert_eq!(least, BACKOFF_MIN);
            assert!(most <= BACKOFF_MAX && most >= of(failures - 1, 1.0), "{failures}: {most:?}");
        }
        assert_eq!(backoff(1, BACKOFF_MAX, 1.0), Duration::from_millis(400));
        assert_eq!(backoff(u32::MAX, BACKOFF_MAX, 1.0), BACKOFF_MAX);
        let patient = Duration::from_secs(30);
        assert_eq!(backoff(1, patient, 1.0), Duration::from_millis(400));
        assert_eq!(backoff(u32::MAX, patient, 1.0), patient);
    }

    #[test]
    fn a_server_that_asks_to_wait_is_left_alone_for_up_to_a_minute() {
        let refused = |code, seconds: Option<u64>| {
            Failure::of_status(code, "", "list", &crate::kube::slices::SLICES)
                .asking_to_wait(seconds.map(Duration::from_secs))
        };
        let cases = [
            (refused(429, Some(7)), 7),
            (refused(503, Some(60)), 60),
            (refused(503, Some(86_400)), 60),
            (refused(429, None), 0),
            (refused(429, Some(0)), 0),
            (refused(403, Some(7)), 0),
            (Failure::Expired, 0),
        ];
        for (failure, seconds) in cases {
            let (least, most) = (asked_wait(&failure, 0.0), asked_wait(&failure, 1.0));
            assert_eq!(least, Duration::from_secs(seconds), "{failure}");
            assert_eq!(most, least.mul_f64(1.1), "{failure}");
        }
    }

    #[test]
    fn replicas_do_not_list_in_step() {
        for _ in 0..100 {
            let interval = around(Duration::from_secs(300));
            assert!((270..=330).contains(&interval.as_secs()), "{interval:?}");
        }
    }
}
