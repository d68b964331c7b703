//! What the metrics are made of at one scrape.

use super::process::Process;
use crate::observe::counters::Registry;
use crate::operate::reporter::Readiness;
use crate::operate::status::Status;
use std::time::{Duration, SystemTime};

/// See the module.
pub struct Values<'a> {
    /// The counters, and everything else that is counted.
    pub registry: &'a Registry,
    /// Whether the agent is ready.
    pub readiness: &'a Readiness,
    /// The current values and their age; `None` until the engine has answered once.
    pub status: Option<(&'a Status, Duration)>,
    /// The agent's process.
    pub process: &'a Process,
    /// The present time.
    pub now: SystemTime,
}

impl Values<'_> {
    /// The time since 1970 in seconds, that long ago.
    pub fn timestamp(&self, ago: Duration) -> f64 {
        let since = self.now.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default().saturating_sub(ago);
        since.as_secs_f64()
    }
}
