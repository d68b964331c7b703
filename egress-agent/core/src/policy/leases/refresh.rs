//! When a name is asked for again: before its TTL is over, and not together with all other names.
//!
//! Owns the schedule. Makes its random numbers from a given seed.

use super::LeaseSettings;
use std::time::Duration;

/// A name is asked for again when at most one part in this many of its TTL is left.
const EARLIEST: u32 = 10;

/// The result of a question, as far as the time of the next one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The first answer of a name, or the first after a failure, with its TTL. Many names can have theirs at the
    /// same moment: after a start, with new rules, or when a name server works again.
    First(Duration),
    /// A further answer, with its TTL.
    Again(Duration),
    /// Another failure, after this number of failures in a row.
    Failure(u32),
}

/// The pauses between questions.
#[derive(Clone, Debug)]
pub(super) struct Refresh {
    /// SplitMix64's state.
    random: u64,
}

impl Refresh {
    /// Schedules with the same seed are the same.
    pub(super) fn new(seed: u64) -> Self {
        Self { random: seed }
    }

    /// The time from a result to the next question.
    ///
    /// After a first answer it is a random time up to the TTL, so that names which were answered together are
    /// spread over the TTL. After further answers it is 90 to 100 % of the TTL, so the names stay spread. It is
    /// never longer than the TTL: when other resolvers return a new address, the agent must already list it.
    pub(super) fn pause(&mut self, heard: Heard, settings: &LeaseSettings) -> Duration {
        match heard {
            Heard::First(ttl) => {
                // As if the previous question had been at a random time within one such pause.
                let whole = self.in_turn(ttl, settings);
                self.between(Duration::ZERO, whole)
            }
            Heard::Again(ttl) => self.in_turn(ttl, settings),
            Heard::Failure(before) => {
                let doubled = 2_u32.saturating_pow(before.min(16));
                let most = settings.min_retry.saturating_mul(doubled);
                let most = most.min(settings.max_retry);
                self.between(most / 2, most)
            }
        }
    }

    /// The pause after a further answer.
    fn in_turn(&mut self, ttl: Duration, settings: &LeaseSettings) -> Duration {
        let whole = ttl.clamp(settings.min_refresh, settings.max_refresh);
        let least = settings.min_refresh.min(whole);
        self.between(least.max(whole.saturating_sub(whole / EARLIEST)), whole)
    }

    /// A random time between two, all equally likely.
    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let range = to.saturating_sub(from).as_nanos();
        let part = range.saturating_mul(self.next().into()) >> u64::BITS;
        from + Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
    }

    /// The next number of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
