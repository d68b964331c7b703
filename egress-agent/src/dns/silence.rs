//! Whether a name server is silent: it let a question wait, and nothing arrived from it meanwhile.
//!
//! Owns when a server counts as silent, and when it is tried again. Atomics only, because every question reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A server that sends nothing for this long while a question waits is silent.
pub(super) const SILENT: Duration = Duration::from_millis(700);
/// How long a silent server is left alone before one question tries it again.
const PAUSE: Duration = Duration::from_secs(5);

/// See the module. Times are in milliseconds after `made`, and never 0.
#[derive(Debug)]
pub(super) struct Silence {
    made: Instant,
    /// When an answer arrived last; 0 if none did.
    heard: AtomicU64,
    /// When a silent server is tried again; 0 if it is not silent.
    again: AtomicU64,
}

impl Silence {
    pub(super) fn new(made: Instant) -> Self {
        Self {
            made,
            heard: AtomicU64::new(0),
            again: AtomicU64::new(0),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let millis = at.saturating_duration_since(self.made).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.again.load(Ordering::Relaxed) != 0
    }

    /// A question of `asked` has an answer. A late one does not end the silence: the next question would wait too.
    pub(super) fn answered(&self, asked: Instant, now: Instant) {
        self.heard.store(self.millis(now), Ordering::Relaxed);
        if self.is_silent() && now.saturating_duration_since(asked) < SILENT {
            self.again.store(0, Ordering::Relaxed);
        }
    }

    /// A question of `asked` has no answer. A server that answered others meanwhile is only slow for this one.
    pub(super) fn unanswered(&self, asked: Instant, now: Instant) {
        let waited = now.saturating_duration_since(asked) >= SILENT;
        if waited && self.heard.load(Ordering::Relaxed) < self.millis(asked) {
            self.again
                .store(self.millis(now + PAUSE), Ordering::Relaxed);
        }
    }

    /// Whether the caller is to try a silent server again. Only one caller in each pause is.
    pub(super) fn claim(&self, now: Instant) -> bool {
        let again = self.again.load(Ordering::Relaxed);
        let due = again != 0 && again <= self.millis(now);
        let next = self.millis(now + PAUSE);
        let exchange = || {
            self.again
                .compare_exchange(again, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        due && exchange().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, PAUSE, SILENT, Silence};

    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn a_server_that_lets_a_question_wait_is_silent_until_it_answers_in_time() {
        let start = Instant::now();
        let silence = Silence::new(start);
        silence.unanswered(start, start + SOON);
        assert!(!silence.is_silent(), "it failed at once");
        silence.unanswered(start, start + SILENT);
        assert!(silence.is_silent());
        silence.answered(start, start + 2 * SILENT);
        assert!(silence.is_silent(), "late");
        let asked = start + 3 * SILENT;
        silence.answered(asked, asked + SOON);
        assert!(!silence.is_silent());
    }

    #[test]
    fn a_server_that_answers_others_meanwhile_is_not_silent() {
        let start = Instant::now();
        let silence = Silence::new(start);
        silence.answered(start + SOON, start + 2 * SOON);
        silence.unanswered(start, start + SILENT);
        assert!(!silence.is_silent());
        silence.unanswered(start + 3 * SOON, start + 3 * SOON + SILENT);
        assert!(silence.is_silent());
    }

    #[test]
    fn one_caller_in_each_pause_tries_a_silent_server() {
        let start = Instant::now();
        let silence = Silence::new(start);
        assert!(!silence.claim(start + PAUSE), "it is not silent");
        silence.unanswered(start, start + SILENT);
        let due = start + SILENT + PAUSE;
        assert!(!silence.claim(start + PAUSE));
        assert!(silence.claim(due));
        assert!(!silence.claim(due + SOON));
        assert!(silence.claim(due + PAUSE));
    }
}
