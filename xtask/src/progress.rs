//! Shows steps to a person: one line each, with the seconds that it took.
//!
//! Owns how a long command is run and shown. It does not know what the commands do.

use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a running step reports that it still runs, if the output is a file.
const QUIET: Duration = Duration::from_secs(30);

/// How many lines of a failed command are shown.
const SHOWN: usize = 25;

/// Runs `command` as one step: its output goes to a log file, and one line names the step and its duration. On failure
/// the error includes the end of the log.
pub fn step(what: &str, mut command: Command) -> Result<()> {
    let start = Instant::now();
    let log = LogFile::create()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.file.try_clone()?)
        .stderr(log.file.try_clone()?)
        .spawn()
        .with_context(|| format!("{what}: cannot run {}", command.get_program().display()))?;
    let live = std::io::stderr().is_terminal();
    say(what, start, live, "...");
    let mut next = QUIET;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(200));
        if live || start.elapsed() >= next {
            say(what, start, live, "...");
            next += QUIET;
        }
    };
    if status.success() {
        finish(what, start, live, "done");
        return Ok(());
    }
    finish(what, start, live, "FAILED");
    let text = fs::read(&log.path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    bail!(
        "{what} failed ({status}):\n{}",
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    )
}

/// Runs `work` as one step.
pub fn step_fn<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let live = std::io::stderr().is_terminal();
    say(what, start, live, "...");
    let result = work();
    finish(
        what,
        start,
        live,
        if result.is_ok() { "done" } else { "FAILED" },
    );
    result
}

fn say(what: &str, start: Instant, live: bool, state: &str) {
    let seconds = start.elapsed().as_secs_f32();
    if live {
        eprint!("\r\x1b[Kxtask: {what} {state} {seconds:.0} s");
        let _ = std::io::stderr().flush();
    } else {
        eprintln!("xtask: {what} {state} {seconds:.0} s");
    }
}

fn finish(what: &str, start: Instant, live: bool, state: &str) {
    let seconds = start.elapsed().as_secs_f32();
    let begin = if live { "\r\x1b[K" } else { "" };
    eprintln!("{begin}xtask: {what}: {state} in {seconds:.1} s");
}

/// A log that is removed when the step ends.
struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    fn create() -> Result<Self> {
        let dir = crate::ebpf::tools_dir()?;
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("step-{}.log", std::process::id()));
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
