//! Asks from time to time which addresses running connections use, so that their DNS leases do not end.
//!
//! Owns when. [`super::ending`] lists the connections; the state machine keeps the leases.

use super::ending::Ending;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Shortest and longest time between two lists: each lists all connections of all namespaces.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const MAX_INTERVAL: Duration = Duration::from_mins(1);

/// See the module.
pub(super) struct Used {
    /// When to ask; `None` while a list is made.
    due: Option<Instant>,
    found: mpsc::UnboundedSender<BTreeSet<IpAddr>>,
    inbox: mpsc::UnboundedReceiver<BTreeSet<IpAddr>>,
}

impl Used {
    /// Asks for the first time after the shortest time.
    pub(super) fn new(now: Instant) -> Self {
        let (found, inbox) = mpsc::unbounded_channel();
        Self {
            due: Some(now + MIN_INTERVAL),
            found,
            inbox,
        }
    }

    /// When [`Self::look`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Makes a list. The leases last for `grace` after their TTL; without `leases` there is nothing to keep.
    pub(super) fn look(&mut self, now: Instant, grace: Duration, leases: usize, ending: &Ending) {
        if leases == 0 {
            self.due = Some(now + pause(grace));
            return;
        }
        self.due = None;
        ending.look_for_used(self.found.clone());
    }

    /// Waits for a list. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> BTreeSet<IpAddr> {
        // It ends only once every sender is gone, and `self` keeps one.
        self.inbox.recv().await.unwrap_or_default()
    }

    /// A list was taken. Returns the time within which the next one comes.
    pub(super) fn taken(&mut self, now: Instant, grace: Duration) -> Duration {
        self.due = Some(now + pause(grace));
        // A list of many connections on a busy node takes a while.
        pause(grace) * 3
    }
}

/// The time between two lists.
fn pause(grace: Duration) -> Duration {
    (grace / 3).clamp(MIN_INTERVAL, MAX_INTERVAL)
}
