//! Closes the gate before anything else can go wrong: takes the lock of the pins, loads or adopts,
//! denies everything where there are no rules, attaches. `run` goes on from here; `close` ends here.
//!
//! Knows no rule, and no agent's own cgroup.

pub mod lock;
pub mod placement;
pub mod roots;
pub mod rootwatch;

use crate::config::Essentials;
use crate::failure::Failure;
use crate::kernel::{self, Kernel, Pins, canary};
use crate::verbs::quiet;
use crate::{cgroup2, privilege};
use anyhow::Context as _;
use lock::Lock;
use roots::Roots;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long an agent that is told to stop may take to let go of the gate.
const LEAVING: Duration = Duration::from_secs(3);
/// Time between two looks for a root that `close` waits for.
const LOOK: Duration = Duration::from_millis(20);

/// A gate that is closed around every root that is there.
pub struct Gate {
    /// Programs and pins.
    pub kernel: Kernel,
    /// The enforced roots; [`Roots::wrong`] is left to the caller.
    pub roots: Roots,
    /// Held for as long as this process may change the gate.
    pub lock: Lock,
}

/// Closes the gate and keeps what it takes to go on.
///
/// # Errors
/// Another agent holds the gate, or the kernel refuses. A wrong root is no error: the others are
/// closed all the same.
///
/// With `audits` a gate that is made anew records what it would deny and denies nothing, as its rules
/// will: whoever tries the gate on a running machine must not be cut off by its start.
pub fn close(
    bpf_dir: &Path,
    cgroups: &[PathBuf],
    max_networks: u32,
    audits: bool,
) -> anyhow::Result<Gate> {
    let mut roots = Roots::look(cgroups);
    if roots.paths.is_empty()
        && let Some(wrong) = roots.wrong.take()
    {
        // Nothing to close, so nothing is touched.
        return Err(wrong.into());
    }
    let pins = Pins::mount(bpf_dir)?;
    let lock = Lock::take(bpf_dir, LEAVING)?;
    for root in &roots.paths {
        kernel::refuse_rival(&pins, root)?;
    }
    let mut kernel = Kernel::load(pins, max_networks)?;
    kernel.deny_without_rules(audits)?;
    kernel::attach_roots(&mut kernel, &roots.paths)?;
    Ok(Gate {
        kernel,
        roots,
        lock,
    })
}

/// What `egress-agent close` is told.
#[derive(Clone, Debug)]
pub struct Closing {
    /// Folder of the pins.
    pub bpf_dir: PathBuf,
    /// Enforced roots as named.
    pub cgroups: Vec<PathBuf>,
    /// Room of the tables, which are made here where there are none.
    pub max_networks: u32,
    /// Whether roots that are not there are made.
    pub create: bool,
    /// How long roots that are not there are waited for.
    pub wait: Duration,
}

/// `egress-agent close`: closes the gate without rules, proves it, and leaves. A gate that is
/// closed already, with rules or without, by an agent that runs or not, is left as it is.
pub fn close_and_leave(closing: &Closing) -> anyhow::Result<()> {
    privilege::require()?;
    kernel::supported()?;
    cgroup2::join_first_namespace()?;
    let roots = Roots::look(&closing.cgroups);
    if closing.create {
        roots.create()?;
    }
    if all_closed(&closing.bpf_dir, &roots) {
        // An agent that runs proves it itself.
        let Ok(_lock) = Lock::take(&closing.bpf_dir, Duration::ZERO) else {
            let roots = shown(&roots.paths);
            writeln!(quiet::stdout(), "closed by a running agent: {roots}")?;
            return Ok(());
        };
        prove(&closing.bpf_dir, &roots)?;
    } else {
        // The roots that are there first: one that is waited for must not keep them open.
        let mut gate = close(
            &closing.bpf_dir,
            &closing.cgroups,
            closing.max_networks,
            false,
        )?;
        let end = Instant::now() + closing.wait;
        while roots.paths.iter().any(|root| !root.exists()) && Instant::now() < end {
            thread::sleep(LOOK);
        }
        kernel::attach_roots(&mut gate.kernel, &roots.paths)?;
        prove(&closing.bpf_dir, &roots)?;
    }
    roots.wrong.map_or(Ok(()), |wrong| Err(wrong.into()))
}

fn all_closed(bpf_dir: &Path, roots: &Roots) -> bool {
    let closed = |root: &PathBuf| kernel::is_attached(bpf_dir, root).unwrap_or(false);
    !roots.paths.is_empty() && roots.paths.iter().all(closed)
}

/// Fails unless the kernel denies an unlisted connect below every root. Where rules of an agent let
/// it pass, the programs' presence has to do.
fn prove(bpf_dir: &Path, roots: &Roots) -> anyhow::Result<()> {
    for root in &roots.paths {
        let shown = root.display();
        anyhow::ensure!(
            root.exists(),
            Failure::finding(format_args!(
                "cgroup {shown} is not there, so nothing is closed around it; `close --create` makes it, `close --wait 30s` waits for whoever does"
            ))
        );
        anyhow::ensure!(
            kernel::is_attached(bpf_dir, root)?,
            "the gate is not closed around {shown}"
        );
        if let Some(errno) = kernel::denies_unlisted(bpf_dir, root)? {
            let outcome = canary::check(root, errno, |_| ()).context("the canary")?;
            anyhow::ensure!(
                outcome == canary::Outcome::Refused,
                "{shown}: an unlisted connect was not denied"
            );
        }
        writeln!(quiet::stdout(), "closed: {shown}")?;
    }
    Ok(())
}

/// What is left to do where the config file cannot be used: closes what it names, as far as that
/// can be read, and adds to the error what became of the gate.
pub fn close_for(mut error: Failure, known: &Essentials) -> Failure {
    let said = match try_close(known) {
        Ok(closed) if closed.is_empty() => {
            "; no gate was closed: the enforced roots are not known".to_owned()
        }
        Ok(closed) => format!("; the gate is closed around {closed} all the same"),
        Err(e) => format!("; closing the gate failed: {e:#}"),
    };
    error.message.push_str(&said);
    error
}

fn try_close(known: &Essentials) -> anyhow::Result<String> {
    privilege::require()?;
    kernel::supported()?;
    cgroup2::join_first_namespace()?;
    let roots = Roots::look(&known.cgroups);
    let there: Vec<PathBuf> = roots.paths.into_iter().filter(|r| r.exists()).collect();
    if !there.is_empty() {
        drop(close(&known.bpf_dir, &there, known.max_networks, false)?);
    }
    Ok(shown(&there))
}

/// Paths for a line of the log.
pub fn shown(paths: &[PathBuf]) -> String {
    let paths = paths.iter().map(|p| p.display().to_string());
    paths.collect::<Vec<_>>().join(", ")
}

/// Opens the gate.
pub fn detach(bpf_dir: &Path) -> anyhow::Result<()> {
    privilege::require()?;
    let was_closed = kernel::detach(bpf_dir)?;
    if !was_closed {
        let shown = bpf_dir.display();
        quiet::error(format_args!("egress-agent: no gate is pinned at {shown}"));
    }
    Ok(())
}

/// Fails unless the gate is closed around this enforced root.
pub fn is_attached(bpf_dir: &Path, root: &Path) -> anyhow::Result<()> {
    if kernel::is_attached(bpf_dir, root)? {
        return Ok(());
    }
    Err(Failure::usage(format_args!(
        "no gate at {} (pins at {}): start `egress-agent run` with --cgroup {} first",
        root.display(),
        bpf_dir.display(),
        root.display()
    ))
    .into())
}
