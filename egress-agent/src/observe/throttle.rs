//! A bound on how often something is said. Counts what it holds back.

use std::time::{Duration, Instant};

/// So many a second; what goes beyond is counted and can be told once the second is over.
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

    /// Whether one more may be said.
    pub fn allows(&mut self, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|since| now.duration_since(since) >= WINDOW)
        {
            self.since = Some(now);
            self.said = 0;
        }
        if self.said < self.most {
            self.said += 1;
            return true;
        }
        self.held_back += 1;
        false
    }

    /// How many were held back since the last call; 0 while more may follow.
    pub fn take(&mut self, now: Instant) -> u64 {
        let over = self
            .since
            .is_some_and(|since| now.duration_since(since) >= WINDOW);
        if over {
            std::mem::take(&mut self.held_back)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_beyond_the_rate_is_counted_and_told_once() {
        let start = Instant::now();
        let mut throttle = Throttle::new(2);
        let said = (0..5).filter(|_| throttle.allows(start)).count();
        assert_eq!(said, 2);
        assert_eq!(throttle.take(start), 0, "more may follow");
        let later = start + WINDOW;
        assert_eq!(throttle.take(later), 3);
        assert_eq!(throttle.take(later), 0);
        assert!(throttle.allows(later));
    }
}
