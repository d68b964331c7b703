//! Whether the Lease of the election is free at once: its holder has released it, or it is gone.
//!
//! A hint only, which spares the time until the next look. Who holds the Lease is decided by the one who writes it.

use crate::kubernetes::{ApiClient, Kind, Metadata, News, Object, Selection, Standings, follow};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

/// Changes that wait.
const MAX_PENDING: usize = 4;

#[derive(Deserialize)]
struct Lease {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    holder_identity: Option<String>,
}

impl Object for Lease {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// See the module. Dropping it ends the watch.
pub(super) struct Released {
    free: watch::Receiver<bool>,
    _tasks: JoinSet<()>,
}

impl Released {
    /// Watches the Lease with this name. Must be called within a tokio runtime.
    pub(super) fn follow(api: &ApiClient, name: &'static str) -> Self {
        let selection = Selection {
            namespace: Some(api.namespace().to_owned()),
            fields: Some(format!("metadata.name={name}")),
            ..Selection::all(Kind::LEASES)
        };
        let (send, mut news) = mpsc::channel::<News<Lease>>(MAX_PENDING);
        let (set, free) = watch::channel(false);
        let standing = Standings::default().add(name);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(api.clone(), selection, standing, send));
        tasks.spawn(async move {
            while let Some(news) = news.recv().await {
                let free = match news {
                    News::Put(lease) => lease.spec.holder_identity.unwrap_or_default().is_empty(),
                    News::Removed { .. } => true,
                    News::Synced | News::NotServed => continue,
                };
                set.send_replace(free);
            }
        });
        Self {
            free,
            _tasks: tasks,
        }
    }

    /// Waits until the Lease becomes free, and stays so for this time. Each change counts once: an agent that cannot take a
    /// free Lease does not try again and again.
    pub(super) async fn for_long(&mut self, time: Duration) {
        loop {
            if self.free.changed().await.is_err() {
                return std::future::pending().await;
            }
            if !*self.free.borrow_and_update() {
                continue;
            }
            tokio::select! {
                () = sleep(time) => return,
                // A change before the end of the time is looked at in the next turn.
                changed = self.free.changed() => {
                    if changed.is_ok() {
                        self.free.mark_changed();
                    }
                }
            }
        }
    }
}
