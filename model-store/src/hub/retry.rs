//! How long to wait before asking again, and when to stop asking.
//!
//! Pure arithmetic; callers sleep and count.

use std::time::Duration;

const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A hub that asks for more is reported rather than waited for.
const LONGEST_OBEYED: Duration = Duration::from_secs(90);

/// Bounded exponential back-off that gives way to a server's own wish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryPolicy {
    pub(crate) max_retries: u32,
    pub(crate) first_backoff: Duration,
}

impl RetryPolicy {
    /// The pause before the attempt after failure number `failure` (from 1), or `None` to stop.
    pub(crate) fn pause(&self, failure: u32, retry_after: Option<Duration>) -> Option<Duration> {
        if failure > self.max_retries {
            return None;
        }
        if let Some(asked) = retry_after {
            return (asked <= LONGEST_OBEYED).then_some(asked);
        }
        let doubled = self.first_backoff.saturating_mul(1 << (failure - 1).min(16));
        Some(doubled.min(LONGEST_BACKOFF))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy { max_retries: 3, first_backoff: Duration::from_secs(4) };

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses = [1, 2, 3].map(|failure| POLICY.pause(failure, None));
        let seconds = [4, 8, 10].map(|s| Some(Duration::from_secs(s)));
        assert_eq!(pauses, seconds);
    }

    #[test]
    fn attempts_are_bounded() {
        assert_eq!(POLICY.pause(4, None), None);
        assert_eq!(POLICY.pause(4, Some(Duration::ZERO)), None);
    }

    #[test]
    fn the_servers_wish_replaces_the_back_off() {
        let asked = Duration::from_secs(33);
        assert_eq!(POLICY.pause(1, Some(asked)), Some(asked));
    }

    #[test]
    fn a_wish_for_too_long_a_wait_ends_the_attempts() {
        assert_eq!(POLICY.pause(1, Some(Duration::from_secs(3600))), None);
    }
}
