//! Logs the first event of a kind, and its repeats as a count. [`super::throttle`] bounds the
//! number of different kinds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time within which a repeat is not logged, as in the kernel programs (`REPEAT_NS`).
pub const WINDOW: Duration = Duration::from_secs(1);

/// The kinds that were logged recently. Their number is limited: each event of a kind that finds no room is
/// logged.
#[derive(Debug)]
pub struct Repeats<K> {
    most: usize,
    seen: BTreeMap<K, Seen>,
}

#[derive(Debug)]
struct Seen {
    told: Instant,
    repeated: u64,
}

impl Seen {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.told) >= WINDOW
    }
}

impl<K: Ord> Repeats<K> {
    /// Remembers at most `most` kinds.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            seen: BTreeMap::new(),
        }
    }

    /// Returns whether this event is logged: if so, the number of its kind that were suppressed since the
    /// last one.
    pub fn tells(&mut self, now: Instant, kind: K) -> Option<u64> {
        if let Some(seen) = self.seen.get_mut(&kind) {
            if !seen.is_over(now) {
                seen.repeated += 1;
                return None;
            }
            seen.told = now;
            return Some(std::mem::take(&mut seen.repeated));
        }
        if self.seen.len() >= self.most {
            self.seen
                .retain(|_, seen| seen.repeated > 0 || !seen.is_over(now));
        }
        if self.seen.len() < self.most {
            let seen = Seen {
                told: now,
                repeated: 0,
            };
            self.seen.insert(kind, seen);
        }
        Some(0)
    }

    /// Forgets kinds that were not logged within [`WINDOW`]. Returns those with repeats that were not
    /// logged yet, and their number.
    pub fn ended(&mut self, now: Instant) -> Vec<(K, u64)> {
        let over: Vec<(K, Seen)> = self
            .seen
            .extract_if(.., |_, seen| seen.is_over(now))
            .collect();
        let repeated = over.into_iter().filter(|(_, seen)| seen.repeated > 0);
        repeated.map(|(kind, seen)| (kind, seen.repeated)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_within_a_second_are_a_number_on_the_next_one() {
        let start = Instant::now();
        let mut repeats = Repeats::new(8);
        assert_eq!(repeats.tells(start, 'a'), Some(0));
        assert_eq!(repeats.tells(start, 'b'), Some(0), "another kind");
        for _ in 0..3 {
            assert_eq!(repeats.tells(start, 'a'), None);
        }
        assert_eq!(repeats.tells(start + WINDOW, 'a'), Some(3));
        assert_eq!(repeats.tells(start + WINDOW, 'a'), None);
    }

    #[test]
    fn repeats_after_which_nothing_came_are_told_at_the_end() {
        let start = Instant::now();
        let mut repeats = Repeats::new(8);
        for kind in ['a', 'a', 'a', 'b'] {
            repeats.tells(start, kind);
        }
        assert_eq!(repeats.ended(start), [], "more may follow");
        assert_eq!(repeats.ended(start + WINDOW), [('a', 2)]);
        assert_eq!(repeats.ended(start + WINDOW), []);
        assert_eq!(repeats.tells(start + WINDOW, 'a'), Some(0));
    }

    #[test]
    fn more_kinds_than_there_is_room_for_are_told_and_take_no_memory() {
        let start = Instant::now();
        let mut repeats = Repeats::new(2);
        for kind in 0..100 {
            assert_eq!(repeats.tells(start, kind), Some(0));
        }
        assert_eq!(repeats.tells(start, 99), Some(0), "not remembered");
        assert_eq!(repeats.seen.len(), 2);
        repeats.tells(start + WINDOW, 100);
        assert_eq!(repeats.tells(start + WINDOW, 100), None, "room again");
    }
}
