//! The copy on disk of the rules in force, for the next agent. Does not know what a rule means.

use crate::sources::Objects;
use crate::sources::store::{Store, beside};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The file that keeps the rules in force for the next agent.
pub(super) struct RulesFile {
    /// Number of the latest set.
    latest: Arc<AtomicU64>,
    /// One write at a time.
    store: Arc<Mutex<Store>>,
}

impl RulesFile {
    /// The file of an agent with this admin socket. Does not read it.
    pub(super) fn beside(admin_socket: &Path) -> Self {
        Self {
            latest: Arc::default(),
            store: Arc::new(Mutex::new(Store::new(beside(admin_socket)))),
        }
    }

    /// Writes the changes of a set, in another thread. Skips a set if a later one is waiting.
    pub(super) fn keep(&self, objects: Objects) {
        let own = self.latest.fetch_add(1, Ordering::Relaxed) + 1;
        let (latest, store) = (Arc::clone(&self.latest), Arc::clone(&self.store));
        // Writing many rules takes long enough to delay the engine.
        tokio::task::spawn_blocking(move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            if latest.load(Ordering::Relaxed) != own {
                return;
            }
            if let Err(error) = store.keep(&objects) {
                let (file, error) = (store.path().display(), format!("{error:#}"));
                tracing::warn!(%file, error, "cannot store the rules for the next agent");
            }
        });
    }
}
