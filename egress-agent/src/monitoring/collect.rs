//! The current values for scrapes and probes: asks the engine at most once a second, whatever the number of clients, and
//! keeps the last answer for the case that the engine is busy.

use crate::operate::status::Status;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// An answer of the engine is used for so long.
const FRESH: Duration = Duration::from_secs(1);

/// An answer of the engine.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The status, numbers only.
    pub status: Arc<Status>,
    /// When it was gathered.
    pub at: Instant,
}

impl Snapshot {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH
    }
}

/// See the module.
#[derive(Default)]
pub struct Collector {
    latest: watch::Sender<Option<Snapshot>>,
    wanted: Notify,
    /// When the question that the engine has not answered yet was asked.
    asked: Mutex<Option<Instant>>,
}

impl Collector {
    fn asked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<Snapshot> {
        self.latest.borrow().clone().filter(Snapshot::is_fresh)
    }

    /// Calls `ask`, which waits for the engine, when an answer is wanted. Does not return.
    pub async fn run<F>(&self, ask: impl Fn() -> F)
    where
        F: Future<Output = Option<Status>>,
    {
        loop {
            self.wanted.notified().await;
            if self.fresh().is_some() {
                continue;
            }
            *self.asked() = Some(Instant::now());
            let Some(status) = ask().await else {
                // The agent stops.
                return std::future::pending().await;
            };
            *self.asked() = None;
            self.latest.send_replace(Some(Snapshot {
                status: Arc::new(status),
                at: Instant::now(),
            }));
        }
    }

    /// Values that are at most a second old. Waits for them, but not longer than `patience`.
    pub async fn fresh_within(&self, patience: Duration) -> Option<Snapshot> {
        let mut latest = self.latest.subscribe();
        if let Some(fresh) = self.fresh() {
            return Some(fresh);
        }
        self.wanted.notify_one();
        let came = latest.wait_for(|latest| latest.as_ref().is_some_and(Snapshot::is_fresh));
        let came = timeout(patience, came).await.ok()?.ok()?;
        came.clone()
    }

    /// The last values, however old.
    pub fn last(&self) -> Option<Snapshot> {
        self.latest.borrow().clone()
    }

    /// How long the engine has not answered a question.
    pub fn unanswered(&self) -> Duration {
        self.asked().map_or(Duration::ZERO, |at| at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(10);

    /// A collector whose engine answers as often as the semaphore has permits, and the number of questions.
    fn collector() -> (Arc<Collector>, Arc<Semaphore>, Arc<AtomicUsize>) {
        let (collector, engine) = (Arc::<Collector>::default(), Arc::new(Semaphore::new(0)));
        let questions = Arc::<AtomicUsize>::default();
        let (own, answers, asked) = (
            Arc::clone(&collector),
            Arc::clone(&engine),
            Arc::clone(&questions),
        );
        tokio::spawn(async move {
            let ask = || async {
                asked.fetch_add(1, Ordering::Relaxed);
                answers.acquire().await.ok()?.forget();
                Some(Status::default())
            };
            own.run(ask).await;
        });
        (collector, engine, questions)
    }

    #[tokio::test]
    async fn many_clients_cost_the_engine_one_question_a_second() {
        let (collector, engine, questions) = collector();
        engine.add_permits(100);
        let first = collector.fresh_within(LONG).await.unwrap();
        while first.is_fresh() {
            // Another second may have begun since the check.
            if let Some(other) = collector.fresh_within(LONG).await
                && other.at != first.at
            {
                break;
            }
            assert_eq!(questions.load(Ordering::Relaxed), 1);
            tokio::task::yield_now().await;
        }
        let next = collector.fresh_within(LONG).await.unwrap();
        assert!(next.at > first.at);
        assert_eq!(questions.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_busy_engine_keeps_nobody_waiting_and_its_silence_is_known() {
        let (collector, engine, questions) = collector();
        assert_eq!(collector.unanswered(), Duration::ZERO);
        for _ in 0..3 {
            assert!(collector.fresh_within(SHORT).await.is_none());
        }
        assert!(collector.unanswered() >= SHORT && collector.last().is_none());
        engine.add_permits(1);
        collector.fresh_within(LONG).await.unwrap();
        assert_eq!(questions.load(Ordering::Relaxed), 1, "one question waited");
        assert_eq!(collector.unanswered(), Duration::ZERO);
        assert!(collector.last().is_some());
    }
}
