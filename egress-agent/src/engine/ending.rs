//! Ends running flows that a rules change no longer lists, off the async threads. Which flows these
//! are, the kernel's tables say.

use crate::kernel::Live;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nothing to end flows by where running ones are kept.
pub(super) struct Ending {
    live: Option<Arc<Live>>,
    ended: Arc<AtomicU64>,
}

impl Ending {
    /// `live` is none where running flows outlive their rule.
    pub(super) fn new(live: Option<Live>) -> Self {
        Self {
            live: live.map(Arc::new),
            ended: Arc::default(),
        }
    }

    /// Flows that were ended since the start.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends what the tables no longer list, a moment from now.
    pub(super) fn end_unlisted(&self) {
        let Some(live) = self.live.clone() else {
            return;
        };
        let ended = Arc::clone(&self.ended);
        tokio::task::spawn_blocking(move || match live.end_unlisted() {
            Ok(flows) => {
                for flow in &flows {
                    tracing::info!(
                        destination = %flow.destination,
                        pid = flow.pid,
                        cgroup = flow.cgroup,
                        proxied = flow.proxied,
                        "ended: the rule that listed it was removed"
                    );
                }
                ended.fetch_add(flows.len() as u64, Ordering::Relaxed);
            }
            // Their packets are refused all the same.
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "flows of removed rules could not be ended; they stall"
            ),
        });
    }
}
