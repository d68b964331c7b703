//! Counts the entries that a question to the index visits, for tests: the count must not grow with
//! the rules.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static LOOKS: Cell<usize> = const { Cell::new(0) };
}

/// One name, host or service is looked at.
#[cfg_attr(
    not(test),
    expect(clippy::missing_const_for_fn, reason = "counts in tests")
)]
pub(super) fn note() {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
}

/// Looks of this thread since the last call.
#[cfg(test)]
pub(super) fn take() -> usize {
    LOOKS.take()
}
