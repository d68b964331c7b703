//! Returns free memory to the system.
//!
//! Owns when that is done. The C library keeps what the program has freed, for example the rules before a change, if
//! something behind it is in use.

use std::time::Duration;

/// Time between two checks whether memory has become free.
const EVERY: Duration = Duration::from_secs(1);
/// How many of these checks pass until the free memory is summed up, which takes time in the number of its pieces.
const SUM_AFTER: u32 = 5;
/// Bytes that are returned together: less is soon used again.
const MANY: usize = 16 << 20;

/// Checks whether memory has become free until it is dropped. `ended` says that much has ended since its last call.
pub async fn give_back(ended: impl Fn() -> bool + Send) {
    let mut free = Free::default();
    for check in 1_u32.. {
        tokio::time::sleep(EVERY).await;
        // Loading the programs and the first rules has freed some megabytes.
        let started = check == 1;
        let sums = check.is_multiple_of(SUM_AFTER);
        let due = ended() || started || sums && free.grew(heap::free());
        if !due {
            continue;
        }
        let Ok(rest) = tokio::task::spawn_blocking(heap::trim).await else {
            return;
        };
        free.returned(rest);
    }
}

/// The memory that the C library keeps.
#[derive(Debug, Default)]
struct Free {
    /// The least of it since it was returned last. What was returned counts in it, because it remains free.
    least: usize,
}

impl Free {
    /// Whether there is much more than before.
    fn grew(&mut self, now: usize) -> bool {
        self.least = self.least.min(now);
        now - self.least >= MANY
    }

    fn returned(&mut self, rest: usize) {
        self.least = rest;
    }
}

#[cfg(target_env = "gnu")]
mod heap {
    /// Free bytes of all arenas. Wraps at 4 GiB, because `mallinfo2` is not in all versions of the C library.
    pub(super) fn free() -> usize {
        // SAFETY: it takes the allocator's own locks, and any thread may call it at any time (mallinfo(3)).
        let info = unsafe { libc::mallinfo() };
        info.fordblks.cast_unsigned() as usize
    }

    /// Returns free memory to the system. Returns [`free`].
    pub(super) fn trim() -> usize {
        // SAFETY: it takes the allocator's own locks, and any thread may call it at any time (malloc_trim(3)).
        unsafe { libc::malloc_trim(0) };
        free()
    }
}

/// Other allocators return large blocks themselves.
#[cfg(not(target_env = "gnu"))]
mod heap {
    pub(super) fn free() -> usize {
        0
    }

    pub(super) fn trim() -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_returned_when_much_more_is_free_than_was_left() {
        let mut free = Free::default();
        assert!(!free.grew(MANY - 1));
        assert!(free.grew(MANY));
        free.returned(MANY);
        assert!(!free.grew(MANY + 1), "what was returned is still free");
        assert!(!free.grew(10), "it is used again");
        assert!(free.grew(MANY + 10));
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_was_freed_behind_something_in_use_is_counted() {
        let many: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 50_000]).collect();
        let last = vec![1_u8; 50_000];
        let before = heap::free();
        drop(many);
        assert!(heap::free().wrapping_sub(before) > 40_000_000);
        drop(last);
    }
}
