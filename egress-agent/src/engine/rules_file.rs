//! The copy of the rules in force on disk, for the next agent. Does not know what a rule means.

use crate::sources::Objects;
use crate::sources::store::{Store, beside};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The file in which the rules in force outlive the agent.
pub(super) struct RulesFile {
    /// Number of the latest set.
    latest: Arc<AtomicU64>,
    /// One write at a time.
    store: Arc<Mutex<Store>>,
}

impl RulesFile {
    /// That of an agent with this admin socket. Reads nothing.
    pub(super) fn beside(admin_socket: &Path) -> Self {
        Self {
            latest: Arc::default(),
            store: Arc::new(Mutex::new(Store::new(beside(admin_socket)))),
        }
    }

    /// Writes what is different in a set, unless a later one comes before it is its turn.
    pub(super) fn keep(&self, objects: Objects) {
        let own = self.latest.fetch_add(1, Ordering::Relaxed) + 1;
        let (latest, store) = (Arc::clone(&self.latest), Arc::clone(&self.store));
        // Many rules take long enough to hold up the engine.
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
