//! The canary: a process below an enforced root whose connect the kernel must deny. It proves that the gate
//! is closed.
//!
//! It connects a datagram socket, which runs the same hook as every connect. It sends no packet, even if
//! the gate is open.

use anyhow::Context as _;
use aya::maps::{HashMap, MapData};
use egress_ebpf::abi::{Owner, PROOF_POLICY};
use egress_ebpf::ids::CgroupId;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// The hidden verb with which the agent starts itself as a canary.
pub const VERB: &str = "canary";
/// The prefix of the name of a canary's cgroup, which is not a workload.
pub const CAGE: &str = "egress-canary-";
/// The destinations of a canary, in TEST-NET-1 and the documentation prefix (RFC 5737, RFC 3849): no rule
/// has a reason to list them.
pub const TARGETS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), PORT),
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(
            0x2001, 0xdb8, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xfffe,
        )),
        PORT,
    ),
];
/// A port that no rule lists, and to which no name resolver connects (`SORTING` in `bpf/connect.rs`).
const PORT: u16 = 1;
const DENIED: u8 = 10;
const OPEN: u8 = 11;
const HERE: u8 = 12;
/// The argument of the canary of the proxy.
const REDIRECT: &str = "redirect";
/// How long a redirected canary waits for each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// The outcome of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every connect failed with the errno of a denial.
    Denied,
    /// A connect succeeded, or failed with another errno.
    Open,
}

/// The cgroup of this process's canaries below `root`.
pub fn cage(root: &Path) -> PathBuf {
    root.join(format!("{CAGE}{}", std::process::id()))
}

/// Runs a canary in a cgroup of its own below `root`. `errno` is the errno of a denial. `told` gets the id
/// of that cgroup before the canary connects, so that its denials can be recognised.
///
/// Blocks while a process starts and ends: call it outside the async threads.
pub fn check(root: &Path, errno: i32, told: impl FnOnce(CgroupId)) -> anyhow::Result<Outcome> {
    let cage = make_cage(root)?;
    told(CgroupId(std::fs::metadata(&cage)?.ino()));
    let status = spawn(&cage, &[&errno.to_string()]);
    // The process has ended, so the cgroup is empty.
    std::fs::remove_dir(&cage).with_context(|| format!("removing {}", cage.display()))?;
    match status?.code().and_then(|code| u8::try_from(code).ok()) {
        Some(DENIED) => Ok(Outcome::Denied),
        Some(OPEN) => Ok(Outcome::Open),
        other => anyhow::bail!("{}: the canary could not run ({other:?})", root.display()),
    }
}

fn make_cage(root: &Path) -> anyhow::Result<PathBuf> {
    let cage = cage(root);
    match std::fs::create_dir(&cage) {
        // A killed agent with the same process id left it.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.with_context(|| format!("making {}", cage.display()))?,
    }
    Ok(cage)
}

fn spawn(cage: &Path, words: &[&str]) -> anyhow::Result<std::process::ExitStatus> {
    Command::new("/proc/self/exe")
        .arg(VERB)
        .arg(cage)
        .args(words)
        .stdin(Stdio::null())
        .status()
        .context("starting the canary")
}

/// The outcome of a canary of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirected {
    /// It reached this agent: it read the expected bytes.
    Here,
    /// The connect was denied: the kernel knows no proxy of this agent.
    Denied,
    /// It reached another proxy, or none answered.
    Elsewhere,
}

/// Runs a canary of the proxy in a cgroup of its own below `root`: it connects by TCP under
/// [`PROOF_POLICY`] and must read `words`. `owners` is the kernel's map of the policies of cgroups. `told`
/// gets the cgroup's id.
pub fn redirect(
    root: &Path,
    owners: &mut HashMap<MapData, CgroupId, u64>,
    words: &str,
    told: impl FnOnce(CgroupId),
) -> anyhow::Result<Redirected> {
    let cage = make_cage(root)?;
    let id = CgroupId(std::fs::metadata(&cage)?.ino());
    told(id);
    owners.insert(id, Owner::entry(id, PROOF_POLICY), 0)?;
    let status = spawn(&cage, &[REDIRECT, words]);
    let forgotten = owners.remove(&id);
    std::fs::remove_dir(&cage).with_context(|| format!("removing {}", cage.display()))?;
    forgotten?;
    match status?.code().and_then(|code| u8::try_from(code).ok()) {
        Some(DENIED) => Ok(Redirected::Denied),
        Some(OPEN) => Ok(Redirected::Elsewhere),
        Some(HERE) => Ok(Redirected::Here),
        other => anyhow::bail!("{}: the canary could not run ({other:?})", root.display()),
    }
}

/// The canary itself: moves into its cgroup and tries to connect.
pub fn run(cage: &Path, words: &[String]) -> ExitCode {
    if let Err(e) = std::fs::write(cage.join("cgroup.procs"), std::process::id().to_string()) {
        eprintln!("canary: joining {}: {e}", cage.display());
        return ExitCode::FAILURE;
    }
    match words {
        [kind, wanted] if kind == REDIRECT => ExitCode::from(reached(wanted)),
        [errno] => match errno.parse() {
            Ok(errno) if TARGETS.iter().all(|target| denied(*target, errno)) => {
                ExitCode::from(DENIED)
            }
            Ok(_) => ExitCode::from(OPEN),
            Err(_) => ExitCode::FAILURE,
        },
        _ => ExitCode::FAILURE,
    }
}

fn reached(wanted: &str) -> u8 {
    let read = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&TARGETS[0], STEP_TIMEOUT)?;
        stream.set_read_timeout(Some(STEP_TIMEOUT))?;
        let mut words = String::new();
        (&mut stream).take(256).read_to_string(&mut words)?;
        Ok(words)
    };
    match read() {
        Ok(words) if words == wanted => HERE,
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => DENIED,
        Ok(_) | Err(_) => OPEN,
    }
}

fn denied(target: SocketAddr, errno: i32) -> bool {
    let any = if target.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    match UdpSocket::bind(any).and_then(|socket| socket.connect(target)) {
        Err(e) if e.raw_os_error() == Some(errno) => true,
        // On a host without IPv6 nothing can leave over it.
        Err(e) => e.raw_os_error() == Some(libc::EAFNOSUPPORT),
        Ok(()) => false,
    }
}
