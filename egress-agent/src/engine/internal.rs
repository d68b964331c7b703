//! The ranges that every workload may reach without a rule: `internal` of the config, and those that the agent
//! finds in its cluster.

use crate::kubernetes::Ranges;
use ipnet::IpNet;
use std::sync::Arc;
use tokio::sync::watch;

/// See the module.
pub(super) struct Internal {
    config: Vec<IpNet>,
    cluster: watch::Receiver<Arc<Ranges>>,
}

impl Internal {
    /// Those of the config, and the present ones of the cluster.
    pub(super) fn new(config: &[IpNet], cluster: watch::Receiver<Arc<Ranges>>) -> Self {
        Self {
            config: config.to_vec(),
            cluster,
        }
    }

    /// Replaces those of the config.
    pub(super) fn configure(&mut self, config: &[IpNet]) {
        self.config = config.to_vec();
    }

    /// Returns when those of the cluster changed. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) {
        if self.cluster.changed().await.is_err() {
            // There is no cluster.
            std::future::pending::<()>().await;
        }
    }

    /// All of them.
    pub(super) fn all(&mut self) -> Vec<IpNet> {
        let config = std::mem::take(&mut self.config);
        let all = self.with(&config);
        self.config = config;
        all
    }

    /// All of them with another config.
    pub(super) fn with(&mut self, config: &[IpNet]) -> Vec<IpNet> {
        let mut all = self.cluster.borrow_and_update().all();
        all.extend_from_slice(config);
        all.sort_unstable();
        all.dedup();
        all
    }
}
