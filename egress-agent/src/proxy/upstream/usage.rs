//! What one workload has in use of a cluster: connections, requests that wait for one, requests and retries, against
//! the limits of `connectionPool`.
//!
//! It makes and closes nothing itself. Like sidecars, workloads do not count each other's.

use egress_core::traffic::ConnectionPool;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// See the module.
#[derive(Default)]
pub(in crate::proxy) struct Usage {
    counts: Mutex<Counts>,
    /// Notified when a connection ends or becomes idle.
    freed: Notify,
}

#[derive(Default)]
struct Counts {
    connections: u32,
    pending: u32,
    requests: u32,
    retries: u32,
    /// Idle connections, each once. The first has been idle for the longest time.
    idle: BTreeMap<u64, Weak<dyn Evict>>,
    /// The key of the next one.
    next: u64,
}

/// An idle connection that gives way to one that is needed.
pub(in crate::proxy) trait Evict: Send + Sync {
    /// Closes it. False if it is no longer idle.
    fn evict(&self) -> bool;
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Connection,
    Pending,
    Request,
    Retry,
}

impl Counts {
    fn of(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::Connection => &mut self.connections,
            Kind::Pending => &mut self.pending,
            Kind::Request => &mut self.requests,
            Kind::Retry => &mut self.retries,
        }
    }
}

/// One counted use. It ends when this is dropped.
pub(in crate::proxy) struct Permit {
    of: Arc<Usage>,
    kind: Kind,
}

impl Permit {
    /// Where it is counted.
    pub(super) fn usage(&self) -> Arc<Usage> {
        Arc::clone(&self.of)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.of.counts().of(self.kind) -= 1;
        if matches!(self.kind, Kind::Connection) {
            self.of.freed.notify_one();
        }
    }
}

/// The entry of an idle connection in the queue of those that give way. It ends when this is dropped.
pub(in crate::proxy) struct Queued {
    of: Arc<Usage>,
    at: u64,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.of.counts().idle.remove(&self.at);
    }
}

/// A limit was reached.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Overflow;

impl Usage {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, kind: Kind, most: Option<u32>) -> Option<Permit> {
        let mut counts = self.counts();
        let count = counts.of(kind);
        if most.is_some_and(|most| *count >= most) {
            return None;
        }
        *count += 1;
        let of = Arc::clone(self);
        Some(Permit { of, kind })
    }

    /// A request that has a connection.
    pub(in crate::proxy) fn request(
        self: &Arc<Self>,
        pool: &ConnectionPool,
    ) -> Result<Permit, Overflow> {
        self.take(Kind::Request, pool.requests).ok_or(Overflow)
    }

    /// A retry.
    pub(in crate::proxy) fn retry(
        self: &Arc<Self>,
        pool: &ConnectionPool,
    ) -> Result<Permit, Overflow> {
        let under_way = {
            let counts = self.counts();
            counts.requests + counts.pending
        };
        let most = pool.retries.map(|limit| limit.most(under_way));
        self.take(Kind::Retry, most).ok_or(Overflow)
    }

    /// A request that waits for a new connection.
    pub(in crate::proxy) fn pending(
        self: &Arc<Self>,
        pool: &ConnectionPool,
    ) -> Result<Permit, Overflow> {
        self.take(Kind::Pending, pool.pending).ok_or(Overflow)
    }

    /// A new connection, at once.
    pub(in crate::proxy) fn connection(
        self: &Arc<Self>,
        pool: &ConnectionPool,
    ) -> Result<Permit, Overflow> {
        self.take(Kind::Connection, pool.connections)
            .ok_or(Overflow)
    }

    /// Waits until a connection ends or becomes idle, from this call on.
    pub(in crate::proxy) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// A connection becomes idle, and stays so while it holds the result.
    pub(in crate::proxy) fn idle(self: &Arc<Self>, connection: Weak<dyn Evict>) -> Queued {
        let mut counts = self.counts();
        let at = counts.next;
        counts.next += 1;
        counts.idle.insert(at, connection);
        drop(counts);
        self.freed.notify_one();
        let of = Arc::clone(self);
        Queued { of, at }
    }

    /// The length of the queue of idle connections.
    #[cfg(test)]
    pub(super) fn idle_connections(&self) -> usize {
        self.counts().idle.len()
    }

    /// Closes the connection that is idle for the longest time. False if there is none.
    pub(in crate::proxy) fn evict_one(&self) -> bool {
        loop {
            let oldest = self.counts().idle.pop_first();
            let Some((_, oldest)) = oldest else {
                return false;
            };
            // Without the lock: its connection permit takes it.
            if oldest.upgrade().is_some_and(|idle| idle.evict()) {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Evict, Usage};
    use egress_core::traffic::{ConnectionPool, RetryLimit};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    fn pool() -> ConnectionPool {
        ConnectionPool {
            connections: Some(1),
            pending: Some(1),
            requests: Some(2),
            retries: Some(RetryLimit::Count(1)),
            ..ConnectionPool::default()
        }
    }

    #[test]
    fn each_kind_has_its_own_count_and_gives_it_back() {
        let (usage, pool) = (Arc::new(Usage::default()), pool());
        let held = (
            usage.connection(&pool).is_ok(),
            usage.pending(&pool).is_ok(),
            usage.retry(&pool).is_ok(),
        );
        assert_eq!(held, (true, true, true));
        let first = usage.request(&pool);
        let _second = usage.request(&pool);
        assert!(usage.request(&pool).is_err());
        drop(first);
        assert!(usage.request(&pool).is_ok());
    }

    struct Held(AtomicBool, Mutex<Option<super::Permit>>);

    impl Evict for Held {
        fn evict(&self) -> bool {
            self.0.store(true, Ordering::SeqCst);
            let permit = self.1.lock().expect("no panic").take();
            permit.is_some()
        }
    }

    #[tokio::test]
    async fn an_idle_connection_gives_way_to_a_request_that_waits() {
        let (usage, pool) = (Arc::new(Usage::default()), pool());
        let permit = usage.connection(&pool).ok();
        let waiting = {
            let (usage, pool) = (Arc::clone(&usage), pool.clone());
            tokio::spawn(async move {
                while usage.connection(&pool).is_err() {
                    let freed = usage.freed();
                    if !usage.evict_one() {
                        freed.await;
                    }
                }
            })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let held = Arc::new(Held(AtomicBool::new(false), Mutex::new(permit)));
        let weak = Arc::downgrade(&held);
        let _queued = usage.idle(weak);
        waiting.await.expect("it got its connection");
        assert!(held.0.load(Ordering::SeqCst));
    }
}
