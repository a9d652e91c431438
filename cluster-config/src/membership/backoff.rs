//! How long to wait before the next attempt.
//!
//! Doubles from half a second; bounded lower while the peer is announced, since someone is then
//! likely to be waiting for it.

use std::time::Duration;

/// The wait after `failures` failures in a row, the first being 1.
pub(super) fn delay(failures: u32, announced: bool) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let bound = if announced { ANNOUNCED_MOST } else { SILENT_MOST };
    (FIRST * 2_u32.pow(doublings)).min(bound)
}

const FIRST: Duration = Duration::from_millis(500);
const ANNOUNCED_MOST: Duration = Duration::from_secs(5);
const SILENT_MOST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_never_overflow() {
        let waits: Vec<_> =
            [1, 2, 3, 4, 5, u32::MAX].map(|failures| delay(failures, true).as_millis()).into();
        assert_eq!(waits, [500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(delay(u32::MAX, false), Duration::from_secs(30));
    }
}
