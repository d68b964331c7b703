//! The copy of the rules in force on disk, for the next agent. Does not know what a rule means.

use crate::sources::store;
use egress_core::istio::Object;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The file in which the rules in force outlive the agent.
pub(super) struct RulesFile {
    path: PathBuf,
    /// Number of the latest set.
    latest: Arc<AtomicU64>,
    /// One write at a time.
    writing: Arc<Mutex<()>>,
}

impl RulesFile {
    /// That of an agent with this admin socket. Reads nothing.
    pub(super) fn beside(admin_socket: &Path) -> Self {
        Self {
            path: store::beside(admin_socket),
            latest: Arc::default(),
            writing: Arc::default(),
        }
    }

    /// Writes a set, unless a later one comes before it is its turn.
    pub(super) fn keep(&self, objects: Vec<Arc<Object>>) {
        let own = self.latest.fetch_add(1, Ordering::Relaxed) + 1;
        let (latest, writing) = (Arc::clone(&self.latest), Arc::clone(&self.writing));
        let path = self.path.clone();
        // 10 000 rules take long enough to hold up the engine.
        tokio::task::spawn_blocking(move || {
            let _turn = writing.lock().unwrap_or_else(PoisonError::into_inner);
            if latest.load(Ordering::Relaxed) != own {
                return;
            }
            if let Err(error) = store::write(&path, &objects) {
                let (file, error) = (path.display(), format!("{error:#}"));
                tracing::warn!(%file, error, "cannot store the rules for the next agent");
            }
        });
    }
}
