//! Waits for a time that may not be set.

use std::future;
use std::time::Instant;

/// Returns at `due`. Without a time, does not return.
pub async fn until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => future::pending().await,
    }
}
