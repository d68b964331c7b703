//! Starts, watches and ends the real `egress-agent`.
//!
//! Owns the process and its log. It looks for three things in the log, each in one function: that the gate is closed,
//! that rules were applied, and what a test asks for.

use crate::bench::{cpu_of, resident_of};
use crate::place::Place;
use crate::wait::wait_until;
use anyhow::{Context as _, Result, bail};
use std::env;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the agent may take to close the gate.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long a change of the rules may take to be applied.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);

/// How long the agent may take to end after SIGTERM.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// How long the last lines of an agent that ended may take through its pipes.
const PIPES: Duration = Duration::from_secs(1);
/// How many lines of the log an error shows.
const SHOWN: usize = 30;

/// Whether the line says that the kernel enforces the rules.
fn says_ready(line: &str) -> bool {
    line.contains("ready: the gate is ")
}

/// Whether the line says that changed rules are in force.
fn says_applied(line: &str) -> bool {
    line.contains("rules applied")
}

/// The agent's binary: `$EGRESS_AGENT_BIN`, else beside the running program's folder.
pub fn binary() -> Result<PathBuf> {
    match env::var_os("EGRESS_AGENT_BIN") {
        Some(path) => Ok(path.into()),
        None => beside("egress-agent"),
    }
}

/// Another build of the agent for upgrades: `$EGRESS_AGENT_NEXT_BIN`, else beside the running program's folder.
pub fn next_binary() -> Result<PathBuf> {
    match env::var_os("EGRESS_AGENT_NEXT_BIN") {
        Some(path) => Ok(path.into()),
        None => beside("egress-agent-next"),
    }
}

/// A program of the workspace, in the running program's folder or above it, where cargo puts them.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    own.ancestors()
        .skip(1)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no {name} beside this program: run `cargo xtask setup` and `cargo xtask build`"
            )
        })
}

/// A running agent. Dropping it kills it. Its pins remain.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: Arc<Log>,
}

/// Everything that the agent wrote, by line.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Vec<String>>,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, stream: Option<impl Read + Send + 'static>) {
        let log = Arc::clone(self);
        let echo = env::var_os("EGRESS_TEST_LOG").is_some();
        thread::spawn(move || {
            let Some(stream) = stream else { return };
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if echo {
                    eprintln!("agent: {line}");
                }
                log.lock().push(line);
            }
        });
    }
}

impl Agent {
    /// Starts an agent's `binary` with `arguments` in `place` and waits until the gate is closed.
    pub fn start(place: &Place<'_>, binary: &Path, arguments: &[OsString]) -> Result<Self> {
        let mut agent = Self::spawn(place, binary, arguments)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// The same without waiting.
    pub fn spawn(place: &Place<'_>, binary: &Path, arguments: &[OsString]) -> Result<Self> {
        let mut command = place.command(binary)?;
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run egress-agent")?;
        let log = Arc::new(Log::default());
        log.follow(child.stdout.take());
        log.follow(child.stderr.take());
        Ok(Self { child, log })
    }

    /// Waits until the agent reports that the gate is closed. Fails at once if the agent ends.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_ready_for(READY_WITHIN)
    }

    /// The same, for an agent that reads many rules.
    pub fn wait_ready_for(&mut self, limit: Duration) -> Result<()> {
        let child = &mut self.child;
        let log = &self.log;
        let outcome = wait_until("the agent closes the gate", limit, || {
            if log.lock().iter().any(|line| says_ready(line)) {
                return Some(Ok(()));
            }
            child.try_wait().ok().flatten().map(Err)
        });
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                self.read_out();
                bail!(
                    "the agent ended before the gate was closed ({status}):\n{}",
                    self.tail()
                )
            }
            Err(error) => bail!("{error}:\n{}", self.tail()),
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processor time that it used so far: utime and stime of proc_pid_stat(5), in ticks of
    /// 10 ms.
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.pid())
    }

    /// Its resident memory, in bytes (`VmRSS` of proc_pid_status(5)).
    pub fn resident(&self) -> Result<u64> {
        resident_of(self.pid())
    }

    /// The same without pages of its own program file, which is several times larger in a debug build (proc_pid_smaps(5)).
    pub fn resident_beside_program(&self) -> Result<u64> {
        let folder = format!("/proc/{}", self.pid());
        let program = std::fs::read_link(format!("{folder}/exe"))?;
        let program = program.to_str().context("the program's path")?;
        let smaps = std::fs::read_to_string(format!("{folder}/smaps"))?;
        let (mut of_program, mut bytes) = (false, 0);
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // A mapping begins with its range, and ends with its file.
                Some(range) if range.contains('-') => of_program = line.ends_with(program),
                Some("Rss:") if !of_program => {
                    let kib: u64 = words.next().context("a size")?.parse()?;
                    bytes += kib << 10;
                }
                _ => {}
            }
        }
        Ok(bytes)
    }

    /// The memory of BPF maps that it has mapped, in bytes (proc_pid_maps(5)): nearly all of it are rule tables.
    pub fn mapped_maps(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/maps", self.pid()))?;
        let length = |line: &str| {
            let (from, to) = line.split_whitespace().next()?.split_once('-')?;
            Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
        };
        let maps = text.lines().filter(|line| line.ends_with("bpf-map"));
        Ok(maps.filter_map(length).sum())
    }

    /// A place in the log: its length now.
    pub fn mark(&self) -> usize {
        self.log.lock().len()
    }

    /// The lines since a mark.
    pub fn log_since(&self, mark: usize) -> Vec<String> {
        self.log.lock().get(mark..).unwrap_or_default().to_vec()
    }

    /// The last lines, for an error.
    pub fn tail(&self) -> String {
        let lines = self.log.lock();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }

    /// Waits for a line since `mark` that `fits`, and returns it.
    pub fn wait_line(
        &self,
        mark: usize,
        limit: Duration,
        what: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String> {
        wait_until(what, limit, || {
            self.log_since(mark).into_iter().find(|line| fits(line))
        })
        .with_context(|| format!("the agent's log ends with:\n{}", self.tail()))
    }

    /// Waits until the agent reports after `mark` that rules were applied.
    pub fn wait_applied(&self, mark: usize) -> Result<()> {
        self.wait_applied_for(mark, APPLIED_WITHIN)
    }

    /// The same, for many rules.
    pub fn wait_applied_for(&self, mark: usize, limit: Duration) -> Result<()> {
        self.wait_line(mark, limit, "the agent applies the rules", says_applied)
            .map(drop)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .context("a process id")?;
        rustix::process::kill_process(pid, signal).context("cannot signal the agent")
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        self.wait_end(ENDS_WITHIN).context("after SIGTERM")
    }

    /// Waits until it ends, and until all that it wrote is in its log.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        let status = wait_until("the agent ends", limit, || child.try_wait().ok().flatten())?;
        self.read_out();
        Ok(status)
    }

    /// Waits until all that an ended agent wrote is in its log.
    fn read_out(&self) {
        // The threads that read the pipes keep the log. A program that the agent left may keep the pipes.
        let read = || (Arc::strong_count(&self.log) == 1).then_some(());
        let _ = wait_until("its log ends", PIPES, read);
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the agent's log ends with:\n{}", self.tail());
        }
    }
}

/// One of the agent's other verbs (`check`, `detach`, `exec`), ready to run in `place`.
pub fn verb(place: &Place<'_>, arguments: &[&str]) -> Result<Command> {
    let mut command = place.command(binary()?)?;
    command.args(arguments);
    Ok(command)
}
