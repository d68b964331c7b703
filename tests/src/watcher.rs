//! A client that connects again and again, and tells when the outcome changed.
//!
//! Owns how the verb `watch` of the program `busy` is run and read.

use crate::agent::beside;
use crate::background::Background;
use crate::lab::Lab;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long an outcome may take to be seen.
const SOON: Duration = Duration::from_secs(90);

/// A running client. Dropping it kills it.
#[derive(Debug)]
pub struct Watcher(Background);

impl Watcher {
    /// Starts a client of the lab.
    pub fn start(lab: &Lab, to: SocketAddr) -> Result<Self> {
        let mut command = lab.command(&beside("busy")?.to_string_lossy())?;
        command.args(["watch", &to.to_string()]);
        Ok(Self(Background::start(command)?))
    }

    /// When the client first saw a connection after `since`, by [`now`].
    pub fn connected(&self, since: u64) -> Result<u64> {
        self.seen("connected", since)
    }

    /// The same for a denial.
    pub fn denied(&self, since: u64) -> Result<u64> {
        self.seen("PermissionDenied", since)
    }

    fn seen(&self, outcome: &str, since: u64) -> Result<u64> {
        let fits = |line: &Value| {
            line["outcome"] == outcome && line["at"].as_u64().is_some_and(|at| at > since)
        };
        let line = self.0.wait_line(outcome, SOON, fits)?;
        line["at"].as_u64().context("a time")
    }

    /// Ends it.
    pub fn end(self) -> Result<()> {
        self.0.end().map(drop)
    }
}

/// Microseconds since 1970, which all processes share.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default().as_micros();
    u64::try_from(since).unwrap_or_default()
}
