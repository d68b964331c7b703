//! What all connections of the server share: the objects, the running watches, and what to do wrong.

use super::asked::{Asked, Verb};
use super::faults::{Decide, Fault};
use super::store::Store;
use super::watching::{Running, Told};
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::task::AbortHandle;

type Counts = BTreeMap<(Verb, String), usize>;

/// What all connections share.
pub(super) struct Shared {
    store: Mutex<Store>,
    changed: watch::Sender<u64>,
    fault: Mutex<Option<Decide>>,
    counts: Mutex<Counts>,
    of_cache: Mutex<BTreeMap<String, usize>>,
    running: Mutex<Vec<Running>>,
    tasks: Mutex<Vec<AbortHandle>>,
    pub(super) open: AtomicUsize,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) token: &'static str,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(store: Store, tls: Option<Arc<ServerConfig>>, token: &'static str) -> Self {
        Self {
            store: Mutex::new(store),
            changed: watch::channel(0).0,
            fault: Mutex::default(),
            counts: Mutex::default(),
            of_cache: Mutex::default(),
            running: Mutex::default(),
            tasks: Mutex::default(),
            open: AtomicUsize::new(0),
            tls,
            token,
        }
    }

    /// Reads the objects.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        read(&lock(&self.store))
    }

    /// Changes the objects and wakes the watches.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let outcome = change(&mut lock(&self.store));
        self.changed.send_modify(|n| *n += 1);
        outcome
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn set_fault(&self, fault: Option<Decide>) {
        *lock(&self.fault) = fault;
    }

    /// What to do wrong with a request.
    pub(super) fn fault(&self, asked: &Asked) -> Option<Fault> {
        lock(&self.fault).as_ref().and_then(|decide| decide(asked))
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }

    /// Lists that were answered from the cache, by kind.
    pub(super) fn of_cache(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        lock(&self.of_cache)
    }

    pub(super) fn watching(&self, watch: Running) {
        let mut running = lock(&self.running);
        running.retain(|watch| !watch.tell.is_closed());
        running.push(watch);
    }

    pub(super) fn watches(&self, plural: &str) -> usize {
        let mut running = lock(&self.running);
        running.retain(|watch| !watch.tell.is_closed());
        running
            .iter()
            .filter(|watch| watch.plural == plural)
            .count()
    }

    pub(super) fn bookmark(&self) {
        for watch in lock(&self.running).iter() {
            let _ = watch.tell.send(Told::Bookmark);
        }
    }

    pub(super) fn inject(&self, plural: &str, bytes: &str) {
        for watch in lock(&self.running).iter().filter(|w| w.plural == plural) {
            let _ = watch.tell.send(Told::Bytes(bytes.to_owned()));
        }
    }

    /// Notes the task of a connection.
    pub(super) fn serving(&self, task: AbortHandle) {
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    pub(super) fn cut(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}
