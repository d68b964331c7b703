//! A client that runs beside the test and reports lines of JSON.

use crate::child::Guarded;
use crate::wait::wait_until;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long the process may take to end after it was asked to.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A running client. It ends when its standard input ends. Dropping it kills it.
#[derive(Debug)]
pub struct Background {
    child: Guarded,
    lines: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts a command, whose standard error is that of the test.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Guarded::spawn(&mut command).context("starting a background client")?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(value);
            }
        });
        Ok(Self {
            child,
            lines,
            reader: Some(reader),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Value>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that it reported so far.
    pub fn lines(&self) -> Vec<Value> {
        self.lock().clone()
    }

    /// Writes to its standard input.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("its input is a pipe")?;
        Ok(input.write_all(text.as_bytes())?)
    }

    /// Waits for a report that `fits`.
    pub fn wait_line(
        &self,
        what: &str,
        limit: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait_until(what, limit, || {
            self.lock().iter().find(|line| fits(line)).cloned()
        })
    }

    /// Ends it and returns its last report.
    pub fn end(mut self) -> Result<Value> {
        drop(self.child.stdin.take());
        wait_until("the background client ends", ENDS_WITHIN, || {
            self.child.try_wait().ok().flatten()
        })?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.lock()
            .last()
            .cloned()
            .context("the background client said nothing")
    }
}
