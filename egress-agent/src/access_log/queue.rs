//! The lines that wait for the writer, and where they go. Bounded: what finds no room is lost and counted.

use crate::observe::counters::Counters;
use crate::observe::families::Own;
use std::mem;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most bytes that wait.
const ROOM: usize = 1 << 20;
/// Bytes that are written at once, without waiting for more.
const BATCH: usize = 64 * 1024;
/// How long the first line of a batch waits for more.
const GATHER: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// For the writer.
    came: Condvar,
    /// For [`Queue::finish`].
    written: Condvar,
    counters: Counters,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    target: Option<PathBuf>,
    /// Counts the calls that ask for the file to be opened again.
    version: u64,
    /// The writer has lines that are not written yet.
    writing: bool,
    /// Somebody waits for the end.
    ending: bool,
}

/// What the writer does next.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) lines: Vec<u8>,
    pub(super) target: Option<PathBuf>,
    pub(super) version: u64,
}

impl Queue {
    pub(super) fn new(counters: Counters) -> Self {
        Self {
            state: Mutex::default(),
            came: Condvar::new(),
            written: Condvar::new(),
            counters,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line, or counts it as lost. Does not wait.
    pub(super) fn push(&self, line: &str) {
        let mut state = self.state();
        let before = state.lines.len();
        let after = before + line.len();
        // A line that comes after the log was turned off has nowhere to go.
        if after > ROOM || state.target.is_none() {
            drop(state);
            return self.lost(1);
        }
        state.lines.extend_from_slice(line.as_bytes());
        drop(state);
        if before == 0 || (before < BATCH && after >= BATCH) {
            self.came.notify_one();
        }
    }

    /// Counts lines that are lost.
    pub(super) fn lost(&self, lines: u64) {
        self.counters.add(Own::AccessLogLost, lines);
    }

    /// Counts lines that are written.
    pub(super) fn wrote(&self, lines: u64) {
        self.counters.add(Own::AccessLogWritten, lines);
    }

    /// Sends the lines elsewhere from now on, also those that wait; nowhere once those are written.
    pub(super) fn target(&self, target: Option<PathBuf>) {
        let mut state = self.state();
        state.target = target;
        state.version += 1;
        drop(state);
        self.came.notify_one();
    }

    pub(super) fn reopen(&self) {
        self.state().version += 1;
        self.came.notify_one();
    }

    /// Waits for work: lines, or another version than this one.
    pub(super) fn next(&self, version: u64) -> Work {
        let idle = |state: &mut State| state.lines.is_empty() && state.version == version;
        let few = |state: &mut State| {
            state.lines.len() < BATCH && state.version == version && !state.ending
        };
        let mut state = self.state();
        state.writing = false;
        self.written.notify_all();
        let state = self.came.wait_while(state, idle);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let gathered = self.came.wait_timeout_while(state, GATHER, few);
        let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        Work {
            lines: mem::take(&mut state.lines),
            target: state.target.clone(),
            version: state.version,
        }
    }

    /// Whether the writer should leave what it waits for.
    pub(super) fn changed(&self, version: u64) -> bool {
        self.state().version != version
    }

    /// Waits until all lines are written, at most this long.
    pub(super) fn finish(&self, limit: Duration) {
        let mut state = self.state();
        state.ending = true;
        self.came.notify_one();
        let waits = |state: &mut State| {
            state.target.is_some() && (state.writing || !state.lines.is_empty())
        };
        drop(self.written.wait_timeout_while(state, limit, waits));
    }
}
