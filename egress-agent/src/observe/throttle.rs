//! A rate limit of log lines about workloads. Counts the lines that it suppresses.

use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Allows a number of lines in a second, and two thirds of it to one workload, so that a neighbour has lines too. Lines
/// beyond it are counted, for a report after the second.
#[derive(Debug)]
pub struct Throttle {
    most: u32,
    since: Option<Instant>,
    said: BTreeMap<Option<CgroupId>, u32>,
    held_back: u64,
}

const WINDOW: Duration = Duration::from_secs(1);

impl Throttle {
    /// At most `most` in a second.
    pub const fn new(most: u32) -> Self {
        Self {
            most,
            since: None,
            said: BTreeMap::new(),
            held_back: 0,
        }
    }

    /// The most lines of a second about one workload.
    pub const fn share(&self) -> u32 {
        self.most.div_ceil(3) * 2
    }

    /// Whether one more line about this workload is allowed: if so, the number of suppressed lines to report before it.
    pub fn allows(&mut self, now: Instant, about: Option<CgroupId>) -> Option<u64> {
        if self.is_over(now) {
            self.since = Some(now);
            self.said.clear();
        }
        let room = self.most - self.said.values().sum::<u32>();
        let own = self.said.get(&about).copied().unwrap_or(0);
        if room > 0 && own < self.share() {
            self.said.insert(about, own + 1);
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

    const ONE: Option<CgroupId> = Some(CgroupId(1));

    #[test]
    fn what_goes_beyond_the_rate_is_counted_and_told_once() {
        let start = Instant::now();
        let mut throttle = Throttle::new(3);
        let abouts = [ONE, ONE, ONE, None, None];
        let said = abouts.map(|about| throttle.allows(start, about));
        assert_eq!(said, [Some(0), Some(0), None, Some(1), None]);
        assert_eq!(throttle.take(start), 0, "more may follow");
        assert_eq!(throttle.due(), Some(start + WINDOW));
        let later = start + WINDOW;
        assert_eq!(throttle.allows(later, ONE), Some(1));
        assert_eq!(throttle.allows(later, ONE), Some(0));
        assert_eq!(throttle.allows(later, ONE), None);
        assert_eq!(throttle.take(later + WINDOW), 1, "nothing followed");
        assert_eq!(throttle.take(later + WINDOW), 0);
        assert_eq!(throttle.due(), None);
        assert_eq!(throttle.allows(later + WINDOW, ONE), Some(0));
    }
}
