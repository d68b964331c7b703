//! A probe as a process: its start, its report, and its pause between two parts.

use super::Aim;
use super::sock::{Step, Stop};
use super::staged::READY;
use crate::agent::beside;
use crate::cgroup::Cgroup;
use crate::child::Guarded;
use crate::place::Place;
use anyhow::{Context as _, Result, bail};
use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};

pub(super) fn arguments(command: &mut Command, name: &str, aim: &Aim) {
    command
        .args(["try", name])
        .arg(aim.to.to_string())
        .arg(aim.listed.to_string())
        .arg(aim.proxied.to_string())
        .arg(aim.own.to_string())
        .arg(aim.proxy_port.to_string());
}

/// The last line of a probe: `ok`, or `stop ERRNO CALL`.
pub fn result_line(result: &Step) -> String {
    match result {
        Ok(()) => "ok".to_owned(),
        Err(stop) => format!("stop {} {}", stop.errno, stop.call),
    }
}

pub(super) fn read_result(stdout: &str) -> Option<Step> {
    let line = stdout.lines().last()?;
    if line == "ok" {
        return Some(Ok(()));
    }
    let (errno, call) = line.strip_prefix("stop ")?.split_once(' ')?;
    Some(Err(Stop {
        call: call.to_owned(),
        errno: errno.parse().ok()?,
    }))
}

/// The probe's program: `$EGRESS_ESCAPE_BIN`, else beside the running program's folder.
pub(super) fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("EGRESS_ESCAPE_BIN") {
        return Ok(path.into());
    }
    beside("escape")
}

/// A probe that is paused between its two parts. Dropping it ends it.
pub(super) struct Held {
    child: Guarded,
    output: BufReader<ChildStdout>,
}

impl Held {
    pub(super) fn start(place: &Place<'_>, name: &str, aim: &Aim) -> Result<Self> {
        let mut command = place.command(binary()?)?;
        arguments(&mut command, name, aim);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Guarded::spawn(&mut command).context("cannot run the probe")?;
        let output = child.stdout.take().context("a pipe")?;
        let mut held = Self {
            child,
            output: BufReader::new(output),
        };
        let mut line = String::new();
        held.output.read_line(&mut line)?;
        if line.trim() != READY {
            bail!("{name}: its first part ended with {line}");
        }
        Ok(held)
    }

    /// The probe's process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn move_to(&self, cgroup: &Cgroup) -> Result<()> {
        let file = cgroup.path().join("cgroup.procs");
        std::fs::write(file, self.child.id().to_string()).context("moving the probe")
    }

    pub(super) fn finish(mut self) -> Result<Step> {
        let mut input = self.child.stdin.take().context("a pipe")?;
        input.write_all(b"\n")?;
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        read_result(&rest).with_context(|| format!("the probe ended with {rest}"))
    }
}
