//! Locks a mutex. A panic while it is locked does not poison it: its value is whole between any two statements.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, whether or not another holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
