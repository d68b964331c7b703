//! The proof that the gate is closed: a process below an enforced root that the kernel refuses.
//!
//! It connects a datagram socket, which runs the same hook as every connect and sends no packet
//! even if the gate should be open.

use crate::placement::CANARY;
use anyhow::Context as _;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The hidden verb under which the agent runs itself as the canary.
pub const VERB: &str = "canary";
/// Of TEST-NET-1 and the documentation prefix (RFC 5737, RFC 3849): no rule has a reason to list
/// the port with it.
const TARGETS: [&str; 2] = ["192.0.2.1:9", "[2001:db8:ffff:ffff:ffff:ffff:ffff:fffe]:9"];
const REFUSED: u8 = 10;
const OPEN: u8 = 11;

/// What became of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every connect failed with the errno of a refusal.
    Refused,
    /// One went through, or failed otherwise.
    Open,
}

/// The cgroup of this process's canaries below `root`.
pub fn cage(root: &Path) -> PathBuf {
    root.join(format!("{CANARY}{}", std::process::id()))
}

/// Runs a canary in a cgroup of its own below `root`; `errno` is what a refusal fails with. `told`
/// gets the id of that cgroup before anything happens in it, so that its refusals can be told from
/// others.
///
/// Blocks for as long as a process start takes; call it off the async threads.
pub fn check(root: &Path, errno: i32, told: impl FnOnce(u64)) -> anyhow::Result<Outcome> {
    let cage = cage(root);
    match std::fs::create_dir(&cage) {
        // Of an agent that was killed and had this process id.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.with_context(|| format!("making {}", cage.display()))?,
    }
    told(std::fs::metadata(&cage)?.ino());
    let status = spawn(&cage, errno);
    // The process has ended, so the cgroup is empty.
    std::fs::remove_dir(&cage).with_context(|| format!("removing {}", cage.display()))?;
    match status?.code().and_then(|code| u8::try_from(code).ok()) {
        Some(REFUSED) => Ok(Outcome::Refused),
        Some(OPEN) => Ok(Outcome::Open),
        other => anyhow::bail!("{}: the canary could not run ({other:?})", root.display()),
    }
}

fn spawn(cage: &Path, errno: i32) -> anyhow::Result<std::process::ExitStatus> {
    Command::new("/proc/self/exe")
        .arg(VERB)
        .arg(cage)
        .arg(errno.to_string())
        .stdin(Stdio::null())
        .status()
        .context("starting the canary")
}

/// The canary itself: moves into its cage and tries.
pub fn run(cage: &Path, errno: i32) -> ExitCode {
    if let Err(e) = std::fs::write(cage.join("cgroup.procs"), std::process::id().to_string()) {
        eprintln!("canary: joining {}: {e}", cage.display());
        return ExitCode::FAILURE;
    }
    let refused = TARGETS.iter().all(|target| refused(target, errno));
    ExitCode::from(if refused { REFUSED } else { OPEN })
}

fn refused(target: &str, errno: i32) -> bool {
    let any = if target.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    match UdpSocket::bind(any).and_then(|socket| socket.connect(target)) {
        Err(e) if e.raw_os_error() == Some(errno) => true,
        // A host without IPv6 has no way out by it either.
        Err(e) => e.raw_os_error() == Some(libc::EAFNOSUPPORT),
        Ok(()) => false,
    }
}
