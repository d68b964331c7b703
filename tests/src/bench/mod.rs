//! The parts that all benches have: a line about the machine, what a process uses, and the end of the program.
//!
//! Owns neither figures nor arguments.

pub mod page;

use crate::wait::wait_until;
use anyhow::{Context as _, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

/// In this time memory that a process can give back becomes less.
const SETTLED: Duration = Duration::from_secs(4);

/// The machine's kernel, number of CPUs and present load. The figures apply to these only.
pub fn machine() -> Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "Linux {}, {} CPUs, load {}",
        rustix::system::uname().release().to_string_lossy(),
        online()?,
        load.split(' ').next().unwrap_or_default()
    ))
}

/// Processors of the machine. A bench may run on one of them only.
fn online() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let each = text.lines().filter(|line| line.starts_with("cpu"));
    // The first line is the sum of all.
    Ok(each.count().saturating_sub(1))
}

/// A number for a figure of a few digits.
#[expect(
    clippy::cast_precision_loss,
    reason = "figures have fewer digits than a double"
)]
pub fn float(number: u64) -> f64 {
    number as f64
}

/// Prints the error of a bench that failed. Returns the exit code of the program.
pub fn end(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// This thread and the processes that it starts run before others of the session, such as builds and other suites: their
/// nice value. The nice value of the session's autogroup (sched(7)) stays: it would put the session before the kernel's
/// threads too, and each wait for RCU would take 100 ms while both processors are busy. Dropping it ends that for this
/// thread.
#[derive(Debug)]
pub struct Precedence;

impl Precedence {
    /// From here on.
    pub fn take() -> Self {
        Self::set(-20);
        Self
    }

    fn set(nice: i32) {
        // Without it figures are less certain, not wrong.
        let _ = rustix::process::setpriority_process(None, nice);
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        Self::set(0);
    }
}

/// The processor time that a process used so far: utime and stime of proc_pid_stat(5), in ticks of 10 ms.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may contain spaces, so fields are counted from its closing bracket.
    let fields = text.rsplit_once(')').context("no name")?.1;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("no times")?.parse()?) };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// The resident memory of a process, in bytes (`VmRSS` of proc_pid_status(5)).
pub fn resident_of(pid: u32) -> Result<u64> {
    memory_of(pid, "VmRSS:")
}

/// The resident memory of a process once it no longer falls, in bytes. Free pages go back some seconds after they were
/// used.
pub fn settled(pid: u32, limit: Duration) -> Result<u64> {
    let mut last = resident_of(pid)?;
    wait_until("its memory settles", limit, || {
        sleep(SETTLED);
        let now = resident_of(pid).ok()?;
        let settled = now + now / 100 >= last;
        last = now;
        settled.then_some(now)
    })
}

/// The resident memory of a process that no file backs: what it allocated, without its program, in bytes (`RssAnon` of
/// proc_pid_status(5)).
pub fn anonymous_of(pid: u32) -> Result<u64> {
    memory_of(pid, "RssAnon:")
}

/// The largest resident memory that a process had so far, in bytes (`VmHWM` of proc_pid_status(5)).
pub fn peak_of(pid: u32) -> Result<u64> {
    memory_of(pid, "VmHWM:")
}

fn memory_of(pid: u32, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.with_context(|| format!("no {field}"))?.parse::<u64>()? << 10)
}

/// Lets the calling thread, and what it starts, run on one processor only.
pub fn pin_here(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets all present threads of a process, and what they start, run on one processor only.
pub fn pin(pid: u32, processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(thread), &set)?;
    }
    Ok(())
}
