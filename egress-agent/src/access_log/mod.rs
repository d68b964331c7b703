//! The access log: a line for each request and connection that the proxy finished, to a file or a standard stream.
//!
//! Flows put lines into a bounded queue and never wait. A thread of its own writes them, so that a slow disk or a reader
//! that has stopped costs lines, which are counted, and nothing else. `egress_core::access_log` makes the lines.

mod queue;
mod sink;
mod writer;

use crate::config::AccessLog as Config;
use crate::observe::counters::Counters;
use crate::proxy::{AccessRecord, Origin};
use arc_swap::ArcSwapOption;
use egress_core::access_log::AccessFormat;
use queue::Queue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

/// How long the end of the agent waits for the file.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The access log, at first off.
#[derive(Debug)]
pub struct AccessLog {
    /// Whether there is a format. Cheaper to read.
    on: AtomicBool,
    format: ArcSwapOption<AccessFormat>,
    queue: Arc<Queue>,
    writing: Once,
}

impl AccessLog {
    /// Counts lines here.
    pub fn new(counters: Counters) -> Self {
        Self {
            on: AtomicBool::new(false),
            format: ArcSwapOption::empty(),
            queue: Arc::new(Queue::new(counters)),
            writing: Once::new(),
        }
    }

    /// The format, while it is on.
    pub fn format(&self) -> Option<Arc<AccessFormat>> {
        if self.on.load(Ordering::Relaxed) {
            self.format.load_full()
        } else {
            None
        }
    }

    /// Writes the line of a finished flow, if it is on.
    pub fn write(&self, origin: &Origin, record: &AccessRecord) {
        if let Some(format) = self.format() {
            let line = format.line(&record.entry(origin, SystemTime::now()));
            self.queue.push(&line);
        }
    }

    /// Follows the config. Opens the file again, also if the config is the same.
    ///
    /// The first call that turns it on starts the thread, with the capabilities of the calling one.
    pub fn apply(&self, config: Option<&Config>) {
        self.format
            .store(config.map(|config| Arc::clone(&config.format)));
        self.on.store(config.is_some(), Ordering::Relaxed);
        self.queue.target(config.map(|config| config.file.clone()));
        if config.is_some() {
            self.writing.call_once(|| writer::start(&self.queue));
        }
    }

    /// Opens the file again.
    pub fn reopen(&self) {
        self.queue.reopen();
    }

    /// Waits until the lines so far are written, for a short time at most.
    pub fn finish(&self) {
        self.queue.finish(LAST_LINES);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
