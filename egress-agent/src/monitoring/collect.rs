//! The current values for scrapes and probes: asks the engine at most once a second, whatever the number of clients, and
//! keeps the last answer for the case that the engine is busy.

use crate::operate::ask::Detail;
use crate::operate::reporter::Reporter;
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
pub struct Collector {
    /// The source of the values.
    pub reporter: Arc<Reporter>,
    latest: watch::Sender<Option<Snapshot>>,
    wanted: Notify,
    /// When the question that the engine has not answered yet was asked.
    asked: Mutex<Option<Instant>>,
}

impl Collector {
    /// Knows nothing yet.
    pub fn new(reporter: Arc<Reporter>) -> Self {
        Self {
            reporter,
            latest: watch::Sender::new(None),
            wanted: Notify::new(),
            asked: Mutex::default(),
        }
    }

    fn asked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<Snapshot> {
        self.latest.borrow().clone().filter(Snapshot::is_fresh)
    }

    /// Asks the engine when an answer is wanted. Does not return.
    pub async fn run(&self) {
        loop {
            self.wanted.notified().await;
            if self.fresh().is_some() {
                continue;
            }
            *self.asked() = Some(Instant::now());
            let Some(status) = self.reporter.status(Detail::Numbers).await else {
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
