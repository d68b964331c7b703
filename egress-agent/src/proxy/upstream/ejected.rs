//! Which connections were made before outlier detection ejected their endpoint. As in Envoy, they get no further
//! request, not even when the endpoint comes back.
//!
//! It closes nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Of a connection: whether its endpoint was ejected since it was made.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct Mark(Arc<AtomicBool>);

impl Mark {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The marks of the open connections of one workload to the endpoints of one cluster.
#[derive(Default)]
pub(super) struct Marks(Mutex<BTreeMap<SocketAddr, Weak<AtomicBool>>>);

impl Marks {
    /// The mark of a connection to this endpoint that is made now.
    pub(super) fn of(&self, endpoint: SocketAddr) -> Mark {
        let mut marks = self.marks();
        if let Some(mark) = marks.get(&endpoint).and_then(Weak::upgrade) {
            return Mark(mark);
        }
        marks.retain(|_, mark| mark.strong_count() > 0);
        let mark = Mark::default();
        marks.insert(endpoint, Arc::downgrade(&mark.0));
        mark
    }

    /// Sets the marks of the connections to this endpoint.
    pub(super) fn eject(&self, endpoint: SocketAddr) {
        let mark = self.marks().remove(&endpoint);
        if let Some(mark) = mark.and_then(|mark| mark.upgrade()) {
            mark.store(true, Ordering::Release);
        }
    }

    fn marks(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Weak<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Marks;

    #[test]
    fn an_ejection_marks_the_connections_of_its_endpoint_that_were_made_before() {
        let marks = Marks::default();
        let [a, b] = ["192.0.2.1:80", "192.0.2.2:80"].map(|at| at.parse().expect("an address"));
        let before = [marks.of(a), marks.of(a)];
        let other = marks.of(b);
        marks.eject(a);
        let after = marks.of(a);
        assert!(before.iter().all(super::Mark::is_set));
        assert!(!other.is_set() && !after.is_set());
        drop((before, other, after));
        let last = marks.of(b);
        assert_eq!(marks.marks().len(), 1, "closed connections leave nothing");
        assert!(!last.is_set());
    }
}
