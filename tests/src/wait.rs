//! Waits for a condition with a deadline. Ctrl-C stops all waits.
//!
//! Owns no condition. Nothing in the harness sleeps for a fixed time; it checks again until the deadline.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The pause between two checks.
const REST: Duration = Duration::from_millis(5);

/// Set by a signal that asks the process to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How many times slower this machine is than an ordinary one: `$EGRESS_TEST_SLOW`, for emulated machines.
fn slowness() -> u32 {
    std::env::var("EGRESS_TEST_SLOW")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1)
}

/// Checks `condition` until it gives a value. After `limit` it fails and names `what`.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    let limit = limit * slowness();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if interrupted() {
            bail!("interrupted while waiting: {what}");
        }
        if start.elapsed() >= limit {
            bail!("not within {limit:?}: {what}");
        }
        thread::sleep(REST);
    }
}

/// Whether the process was asked to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From now on, SIGINT and SIGTERM end every wait instead of the process, so that the guards
/// clean up.
pub fn end_waits_on_signals() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = note;
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_gives_its_value() {
        let mut left = 3;
        let value = wait_until("three looks", Duration::from_secs(5), || {
            left -= 1;
            (left == 0).then_some("there")
        });
        assert_eq!(value.unwrap(), "there");
    }

    #[test]
    fn a_condition_that_never_holds_fails_and_says_what_was_awaited() {
        let error = wait_until("the moon", Duration::from_millis(20), || None::<()>).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }
}
