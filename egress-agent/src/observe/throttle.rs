//! A rate limit of log lines. Counts the lines that it suppresses.

use std::time::{Duration, Instant};

/// Allows a number of lines in a second. Lines beyond it are counted, for a report after the second.
#[derive(Debug)]
pub struct Throttle {
    most: u32,
    since: Option<Instant>,
    said: u32,
    held_back: u64,
}

const WINDOW: Duration = Duration::from_secs(1);

impl Throttle {
    /// At most `most` in a second.
    pub fn new(most: u32) -> Self {
        Self {
            most,
            since: None,
            said: 0,
            held_back: 0,
        }
    }

    /// Whether one more line is allowed: if so, the number of suppressed lines to report before it.
    pub fn allows(&mut self, now: Instant) -> Option<u64> {
        if self.is_over(now) {
            self.since = Some(now);
            self.said = 0;
        }
        if self.said < self.most {
            self.said += 1;
            return Some(std::mem::take(&mut self.held_back));
        }
        self.held_back += 1;
        None
    }

    /// The number of suppressed lines to report now, although no line follows; 0 until the second is over.
    pub fn take(&mut self, now: Instant) -> u64 {
        if self.is_over(now) {
            std::mem::take(&mut self.held_back)
        } else {
            0
        }
    }

    /// When [`Self::take`] returns a number above 0; `None` if no line is suppressed.
    pub fn due(&self) -> Option<Instant> {
        self.since
            .filter(|_| self.held_back > 0)
            .map(|since| since + WINDOW)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.since
            .is_none_or(|since| now.saturating_duration_since(since) >= WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_beyond_the_rate_is_counted_and_told_once() {
        let start = Instant::now();
        let mut throttle = Throttle::new(2);
        let said: Vec<_> = (0..5).map(|_| throttle.allows(start)).collect();
        assert_eq!(said, [Some(0), Some(0), None, None, None]);
        assert_eq!(throttle.take(start), 0, "more may follow");
        assert_eq!(throttle.due(), Some(start + WINDOW));
        let later = start + WINDOW;
        assert_eq!(throttle.allows(later), Some(3));
        assert_eq!(throttle.allows(later), Some(0));
        assert_eq!(throttle.allows(later), None);
        assert_eq!(throttle.take(later + WINDOW), 1, "nothing followed");
        assert_eq!(throttle.take(later + WINDOW), 0);
        assert_eq!(throttle.due(), None);
        assert_eq!(throttle.allows(later + WINDOW), Some(0));
    }
}
