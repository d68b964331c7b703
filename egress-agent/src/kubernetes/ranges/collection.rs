//! The ranges that several tasks collect, and the notice that they changed.

use super::collected::Collected;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The collected ranges. Clones share the state.
#[derive(Clone)]
pub(super) struct Collection {
    collected: Arc<Mutex<Collected>>,
    changed: Arc<Notify>,
}

impl Collection {
    /// Begins with these.
    pub(super) fn new(collected: Collected) -> Self {
        Self {
            collected: Arc::new(Mutex::new(collected)),
            changed: Arc::default(),
        }
    }

    /// Returns when they were changed since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Changes them.
    pub(super) fn change(&self, change: impl FnOnce(&mut Collected)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    /// The ranges as they are.
    pub(super) fn lock(&self) -> MutexGuard<'_, Collected> {
        self.collected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
