//! Whether the client of an HTTP/2 connection resets too many of its requests before they are answered.
//!
//! The proxy says when a request is over, and which are reset so.

use std::time::Duration;

/// Requests after which most must not be reset (Envoy's `overload.premature_reset_total_stream_count`). Half as many
/// resets end the connection before.
const REQUESTS: u64 = 500;

/// A reset after this time is not premature (Envoy's `overload.premature_reset_min_stream_lifetime_seconds`).
pub const PREMATURE: Duration = Duration::from_secs(1);

/// The requests of one connection that are over.
#[derive(Debug, Default)]
pub struct ResetLimit {
    over: u64,
    premature: u64,
}

impl ResetLimit {
    /// A request is over. False if the connection has to be closed.
    pub fn over(&mut self, is_premature: bool) -> bool {
        self.over += 1;
        self.premature += u64::from(is_premature);
        2 * self.premature < self.over.max(REQUESTS)
    }
}

#[cfg(test)]
mod tests {
    use super::ResetLimit;

    #[test]
    fn half_of_five_hundred_or_more_requests_end_a_connection() {
        let mut limit = ResetLimit::default();
        let first = (1..10_000).find(|_| !limit.over(true));
        assert_eq!(first, Some(250));
        let mut limit = ResetLimit::default();
        assert!((0..1000).all(|_| limit.over(false)));
        let first = (1..10_000).find(|_| !limit.over(true));
        assert_eq!(first, Some(1000));
        let mut limit = ResetLimit::default();
        assert!((0..100_000).all(|number| limit.over(number % 5 < 2)));
    }
}
