//! `egress-agent exec -- CMD`: runs a command in a fresh cgroup below an enforced root.
//!
//! The process moves itself to the cgroup and then *becomes* the command (`execve`), so signals, job
//! control, the terminal and the exit status are the command's own. A reaper that outlives the process
//! removes the cgroup at the end. Judges nothing.

use super::args::file_settings;
use crate::config::DEFAULT_BPF_DIR;
use crate::failure::Failure;
use crate::gate::{self, roots};
use anyhow::Context;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

/// Verb of the reaper. It is not for users.
pub const REAPER_VERB: &str = "remove-cgroup-when-empty";
/// Exit code if the command does not exist, as in shells.
const NOT_FOUND: u8 = 127;
/// Exit code if the command cannot be run, as in shells.
const NOT_RUNNABLE: u8 = 126;

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Config file of the agent, for `cgroups` and `bpfDir`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Enforced root to run below [default: the first of the config file]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Where the agent pinned its programs
    #[arg(long, value_name = "PATH")]
    bpf_dir: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The verb. Returns only if the command could not be run.
pub fn verb(args: ExecArgs) -> anyhow::Result<()> {
    let file = file_settings(args.config)?;
    let root = args.cgroup.or_else(|| file.cgroups.first().cloned());
    let root = root.ok_or_else(|| {
        Failure::usage(
            "no enforced root: name one with --cgroup PATH or a config file with --config",
        )
    })?;
    let bpf_dir = args
        .bpf_dir
        .or(file.bpf_dir)
        .unwrap_or_else(|| DEFAULT_BPF_DIR.into());
    match run(&root, &args.command, |root| {
        gate::is_attached(&bpf_dir, root)
    })? {}
}

/// Becomes `command` in a fresh child cgroup of `root`. Returns only if that fails.
///
/// `check` must fail if the gate is not closed around `root`, because the command would not be governed.
pub fn run(
    root: &Path,
    command: &[OsString],
    check: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<std::convert::Infallible> {
    let (program, args) = command.split_first().context("no command")?;
    let root = roots::enforced_root(root)?;
    check(&root)?;
    let cgroup = make(&root)?;
    let reaper = match start_reaper(&cgroup) {
        Ok(reaper) => reaper,
        Err(e) => {
            drop(fs::remove_dir(&cgroup));
            return Err(e).context("starting the reaper of the cgroup");
        }
    };
    // From here on the reaper removes the cgroup, also after an error.
    fs::write(cgroup.join("cgroup.procs"), "0")
        .map_err(|e| Failure::usage(format_args!("moving to cgroup {}: {e}", cgroup.display())))?;
    let error = Command::new(program).args(args).exec();
    drop(reaper);
    let code = if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_RUNNABLE
    };
    Err(Failure {
        code,
        message: format!("{}: {error}", program.display()),
    }
    .into())
}

/// Creates `exec-<pid>`. Replaces a folder of that name that an earlier process with this pid left, but
/// fails if something still runs in it.
fn make(root: &Path) -> Result<PathBuf, Failure> {
    let folder = root.join(format!("exec-{}", std::process::id()));
    let made = fs::create_dir(&folder).or_else(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            fs::remove_dir(&folder).and_then(|()| fs::create_dir(&folder))
        }
        _ => Err(e),
    });
    match made {
        Ok(()) => Ok(folder),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Failure::privilege(
            format_args!("cgroup {}: {e}; run as root", folder.display()),
        )),
        Err(e) => Err(Failure::usage(format_args!(
            "cgroup {}: {e}",
            folder.display()
        ))),
    }
}

/// Starts the reaper outside the cgroup, in a session of its own, and not as a child of this process: a
/// command that waits for all of its children must not find one that it did not start. The returned pipe
/// closes when this process becomes the command or ends.
fn start_reaper(cgroup: &Path) -> io::Result<ChildStdin> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(REAPER_VERB)
        .arg(cgroup)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: only async-signal-safe calls between fork and exec: setsid, close_range, fork, _exit.
    unsafe {
        command.pre_exec(|| {
            // The reaper must not hold descriptors that the caller left open for the command (a lock, a
            // pipe). They are marked and not closed, because std needs its own until exec.
            if libc::syscall(
                libc::SYS_close_range,
                3,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ) < 0
                || libc::setsid() < 0
            {
                return Err(io::Error::last_os_error());
            }
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => Ok(()),
                _ => libc::_exit(0),
            }
        });
    }
    let mut middle = command.spawn()?;
    let pipe = middle.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    middle.wait()?;
    Ok(pipe)
}

/// The reaper: waits on standard input until the command runs or has failed to start, then until the last
/// process has left the cgroup, and removes the cgroup. Processes that the command left running continue,
/// behind the gate.
pub fn reap(cgroup: &Path) -> anyhow::Result<()> {
    // A terminal that closes or a service manager that stops the caller must not leave the folder.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: SIG_IGN is a valid disposition of these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    let mut events = match fs::File::open(cgroup.join("cgroup.events")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    loop {
        let mut text = String::new();
        io::Seek::rewind(&mut events)?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|l| l == "populated 0") {
            // EBUSY: a process has moved in since. The next event decides.
            match fs::remove_dir(cgroup) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                done => return Ok(done?),
            }
        }
        wait_for_change(&events)?;
    }
}

/// Blocks until the file changes, which kernfs reports as POLLPRI. A change since the last read is
/// reported at once, so none is lost.
fn wait_for_change(file: &fs::File) -> io::Result<()> {
    let mut wanted = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLPRI,
        revents: 0,
    };
    // SAFETY: `wanted` is one valid pollfd for the length of the call.
    match unsafe { libc::poll(&raw mut wanted, 1, -1) } {
        -1 => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            e => Err(e),
        },
        _ => Ok(()),
    }
}
