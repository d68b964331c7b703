//! How long to wait before the next attempt: longer with each failure, and different on each node.

use super::problem::Problem;
use std::time::Duration;

/// The first pause, and the longest one while connections are refused or requests are not answered. A refused connection
/// costs the server nothing, and a server that is back must not wait for its clients.
const SHORT: Duration = Duration::from_millis(800);
/// The longest pause.
const LONG: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pause {
    failures: u32,
}

impl Pause {
    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The time to wait after a failure. `random` is from 0 to 1; half of the pause depends on it.
    pub fn after(&mut self, problem: &Problem, random: f64) -> Duration {
        let most = if problem.is_cheap() {
            // The first errors of a server that has come back are those of its start.
            self.failures = 0;
            SHORT
        } else {
            let most = SHORT.saturating_mul(1 << self.failures.min(6)).min(LONG);
            self.failures = self.failures.saturating_add(1);
            most
        };
        let pause = most.mul_f64(random.clamp(0.0, 1.0) / 2.0 + 0.5);
        match problem {
            Problem::Overloaded(_, Some(asked)) => pause.max((*asked).min(LONG)),
            _ => pause,
        }
    }
}

/// A random number from 0 to 1, which decides nothing that must be secret.
pub fn random() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let word = RandomState::new().hash_one(0_u8);
    f64::from(u32::try_from(word >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_start_anew_after_a_success() {
        let mut pause = Pause::default();
        let broken = Problem::Broken(String::new());
        let pauses: Vec<u128> = (0..8)
            .map(|_| pause.after(&broken, 1.0).as_millis())
            .collect();
        assert_eq!(pauses, [800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        pause.reset();
        assert_eq!(pause.after(&broken, 0.0), SHORT / 2);
    }

    #[test]
    fn a_server_that_is_away_is_tried_again_within_a_second_however_long_it_lasts() {
        let mut pause = Pause::default();
        let refused = Problem::Unreachable(String::new());
        let silent = Problem::Silent(Duration::from_secs(20));
        for problem in [&refused, &silent].into_iter().cycle().take(1000) {
            let next = pause.after(problem, 1.0);
            assert!(next <= SHORT && next >= SHORT / 2);
        }
        let starting = Problem::Overloaded(503, None);
        assert!(pause.after(&starting, 1.0) <= SHORT);
    }

    #[test]
    fn a_server_may_ask_for_more_time_but_not_for_ever() {
        let asks = |seconds| Problem::Overloaded(429, Some(Duration::from_secs(seconds)));
        assert_eq!(
            Pause::default().after(&asks(9), 0.0),
            Duration::from_secs(9)
        );
        assert_eq!(Pause::default().after(&asks(9999), 0.0), LONG);
    }

    #[test]
    fn random_numbers_differ_and_stay_in_their_range() {
        let numbers: Vec<f64> = (0..100).map(|_| random()).collect();
        assert!(numbers.iter().all(|n| (0.0..=1.0).contains(n)));
        assert!(numbers.iter().any(|n| *n < 0.5) && numbers.iter().any(|n| *n > 0.5));
    }
}
