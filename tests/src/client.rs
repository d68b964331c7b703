//! Clients: a program run to its end with a deadline, and curl in particular.
//!
//! Owns how a client runs, and which output is kept. `place` decides where it runs.

use crate::child::Guarded;
use crate::place::Place;
use crate::wait::wait_until;
use anyhow::{Context as _, Result, bail};
use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longer than any answer of the hosts.
const CURL_LIMIT: Duration = Duration::from_secs(20);

/// Separates the body from curl's report about the transfer. No host sends it.
const MARK: &str = "\n\u{1e}";

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; 128 plus the signal's number if a signal ended it, as in a shell.
    pub exit: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// From its start to its end.
    pub elapsed: Duration,
}

/// Runs a program to its end. Kills it after `limit` and then fails.
pub fn run(mut command: Command, limit: Duration) -> Result<Finished> {
    let name = command.get_program().display().to_string();
    let start = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Guarded::spawn(&mut command).with_context(|| format!("cannot run {name}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait_until(&format!("{name} ends"), limit, || {
        child.try_wait().ok().flatten()
    })?;
    let elapsed = start.elapsed();
    Ok(Finished {
        exit: status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
        elapsed,
    })
}

fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// What curl got.
#[derive(Debug, Clone)]
pub struct Reply {
    /// curl's exit code: 0 an answer, 6 no such host, 7 no connection, 35 no TLS, 52 and 56
    /// closed without an answer.
    pub exit: i32,
    /// The HTTP status, 0 if there was none.
    pub code: u16,
    /// The body.
    pub body: String,
    /// The time of the transfer by curl's own clock, name resolution included.
    pub elapsed: Duration,
    /// The address to which it connected; empty if it did not.
    pub remote: String,
    /// What curl complained about.
    pub stderr: String,
}

impl Reply {
    /// Whether the connection or the name was refused.
    pub fn refused(&self) -> bool {
        matches!(self.exit, 6 | 7)
    }
}

/// Runs curl with `arguments` in `place`. Its configuration file and any proxy are ignored.
pub fn curl(place: &Place<'_>, arguments: &[&str]) -> Result<Reply> {
    let mut command = place.command("curl")?;
    command
        .args(["-q", "--silent", "--show-error", "--noproxy", "*"])
        .arg("--write-out")
        .arg(format!(
            "{MARK}%{{http_code}} %{{time_total}} %{{remote_ip}}"
        ))
        .args(arguments);
    let ended = run(command, CURL_LIMIT)?;
    let Some((body, facts)) = ended.stdout.rsplit_once(MARK) else {
        bail!(
            "curl said nothing of the transfer: exit {}, {}",
            ended.exit,
            ended.stderr.trim()
        );
    };
    let mut facts = facts.split(' ');
    let mut fact = || facts.next().context("curl's facts are incomplete");
    Ok(Reply {
        exit: ended.exit,
        code: fact()?.parse()?,
        elapsed: Duration::from_secs_f64(fact()?.parse()?),
        remote: fact()?.to_owned(),
        body: body.to_owned(),
        stderr: ended.stderr,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_and_output_of_a_program_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let ended = run(command, Duration::from_secs(5)).unwrap();
        assert_eq!(
            (ended.exit, ended.stdout.as_str(), ended.stderr.as_str()),
            (3, "out\n", "err\n")
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_at_the_limit() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let start = Instant::now();
        assert!(run(command, Duration::from_millis(50)).is_err());
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
