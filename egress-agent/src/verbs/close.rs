//! `egress-agent close`: closes the gate without rules, proves that it is closed, and exits. It does not
//! change a gate that is already closed, whether or not it has rules or a running agent.
//!
//! A gate without rules denies everything, or nothing if the config file audits all workloads.
//!
//! `run` closes the gate in the same way if its config file is invalid: around the roots that the file
//! names.

use super::args::file_settings;
use super::quiet;
use crate::config::{DEFAULT_BPF_DIR, DEFAULT_MAX_NETWORKS, Essentials, Span, audits_all};
use crate::failure::{BUSY, Failure};
use crate::gate::lock::{Lock, Patience};
use crate::gate::roots::Roots;
use crate::kernel::{self, canary};
use crate::{cgroup2, gate, privilege};
use anyhow::Context as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two checks for a root that `close` waits for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long another agent gets to close the roots or to stop.
const ANOTHER: Duration = Duration::from_secs(3);
/// Does not wait for the lock.
const NOW: Patience = Patience::UpTo(Duration::ZERO);

/// Arguments of `close`.
#[derive(Debug, clap::Args)]
pub struct CloseArgs {
    /// Config file of the agent, for `cgroups`, `bpfDir` and `maxNetworks`. If its `mode` and `workloads` audit all
    /// workloads, nothing is denied until the agent runs either
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Enforced root, or `auto` for the cgroup in which the kubelet creates pods [default: those of the config file]
    #[arg(long = "cgroup", value_name = "PATH")]
    cgroups: Vec<PathBuf>,
    /// Where programs, links and maps are pinned [default: /sys/fs/bpf/egress-agent]
    #[arg(long, value_name = "PATH")]
    bpf_dir: Option<PathBuf>,
    /// Create roots that do not exist. Only for a path that the kubelet or the service manager will use:
    /// a root that nobody uses contains no workload
    #[arg(long)]
    create: bool,
    /// How long to wait for roots that do not exist
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    wait: Span,
}

/// The verb.
pub fn run(args: CloseArgs) -> anyhow::Result<()> {
    let file = file_settings(args.config)?;
    let audits = audits_all(file.mode.unwrap_or_default(), &file.workloads);
    let cgroups = if args.cgroups.is_empty() {
        file.cgroups
    } else {
        args.cgroups
    };
    if cgroups.is_empty() {
        return Err(Failure::usage(
            "no enforced root: name one with --cgroup PATH or a config file with --config",
        )
        .into());
    }
    close_and_leave(&Closing {
        bpf_dir: args
            .bpf_dir
            .or(file.bpf_dir)
            .unwrap_or_else(|| DEFAULT_BPF_DIR.into()),
        cgroups,
        max_networks: file.max_networks.unwrap_or(DEFAULT_MAX_NETWORKS),
        audits,
        create: args.create,
        wait: args.wait.0,
    })
}

/// The arguments, completed from the config file.
struct Closing {
    /// Folder of the pins.
    bpf_dir: PathBuf,
    /// Enforced roots as named.
    cgroups: Vec<PathBuf>,
    /// Networks that the tables have room for, if this creates them.
    max_networks: u32,
    /// Whether a gate without rules denies nothing.
    audits: bool,
    /// Whether missing roots are created.
    create: bool,
    /// How long to wait for missing roots.
    wait: Duration,
}

fn close_and_leave(closing: &Closing) -> anyhow::Result<()> {
    privilege::require()?;
    kernel::supported()?;
    cgroup2::join_first_namespace()?;
    let roots = Roots::look(&closing.cgroups);
    if closing.create {
        roots.create()?;
    }
    let end = Instant::now() + ANOTHER;
    loop {
        match close_once(closing, &roots) {
            // A running agent closes a root that appears, and a stopping one releases the lock.
            Err(e) if Failure::code_of(&e) == BUSY && Instant::now() < end => {
                thread::sleep(POLL_INTERVAL);
            }
            result => break result?,
        }
    }
    roots.wrong.map_or(Ok(()), |wrong| Err(wrong.into()))
}

/// Closes the gate, or proves that it is closed.
///
/// # Errors
/// Another process holds the gate and has not closed every root: exit code [`BUSY`].
fn close_once(closing: &Closing, roots: &Roots) -> anyhow::Result<()> {
    if all_closed(&closing.bpf_dir, &roots.expected()) {
        // A running agent sends its own canaries.
        let Ok(_lock) = Lock::take(&closing.bpf_dir, NOW) else {
            let roots = gate::shown(&roots.paths);
            writeln!(quiet::stdout(), "closed by a running agent: {roots}")?;
            return Ok(());
        };
        prove(&closing.bpf_dir, roots)?;
    } else {
        // Existing roots first: waiting for a missing one must not keep them open.
        let mut gate = gate::close(
            &closing.bpf_dir,
            &closing.cgroups,
            closing.max_networks,
            closing.audits,
            NOW,
            |_, _| (),
        )?;
        let end = Instant::now() + closing.wait;
        while !roots.missing().is_empty() && Instant::now() < end {
            thread::sleep(POLL_INTERVAL);
        }
        kernel::attach_roots(&mut gate.kernel, &roots.paths)?;
        prove(&closing.bpf_dir, roots)?;
    }
    Ok(())
}

fn all_closed(bpf_dir: &Path, roots: &[PathBuf]) -> bool {
    let closed = |root: &PathBuf| kernel::is_attached(bpf_dir, root).unwrap_or(false);
    !roots.is_empty() && roots.iter().all(closed)
}

/// Fails unless the kernel denies an unlisted connect below every root. If an agent's rules allow such a
/// connect, only checks that the programs are attached.
fn prove(bpf_dir: &Path, roots: &Roots) -> anyhow::Result<()> {
    for root in &roots.expected() {
        let shown = root.display();
        anyhow::ensure!(
            root.exists(),
            Failure::finding(format_args!(
                "cgroup {shown} does not exist, so no gate was closed around it; `close --create` creates it, `close --wait 30s` waits until it exists"
            ))
        );
        anyhow::ensure!(
            kernel::is_attached(bpf_dir, root)?,
            "the gate is not closed around {shown}"
        );
        if let Some(errno) = kernel::denies_unlisted(bpf_dir, root)? {
            let outcome = canary::check(root, errno, |_| ()).context("the canary")?;
            anyhow::ensure!(
                outcome == canary::Outcome::Denied,
                "{shown}: an unlisted connect was not denied"
            );
        }
        writeln!(quiet::stdout(), "closed: {shown}")?;
    }
    Ok(())
}

/// After an invalid config file: closes the roots that can be read from it, and adds the result to the
/// error.
pub fn close_for(mut error: Failure, known: &Essentials) -> Failure {
    let said = match try_close(known) {
        Ok(closed) => format!("; {closed}"),
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
    let missing = roots.missing();
    let there: Vec<PathBuf> = roots
        .paths
        .into_iter()
        .filter(|root| root.exists())
        .collect();
    if !there.is_empty() {
        drop(gate::close(
            &known.bpf_dir,
            &there,
            known.max_networks,
            false,
            gate::LEAVING,
            |_, _| (),
        )?);
    }
    Ok(closed(&there, &missing, roots.wrong.as_ref()))
}

/// Which roots are closed, and which are not and why.
fn closed(there: &[PathBuf], missing: &[PathBuf], wrong: Option<&Failure>) -> String {
    let mut why: Vec<String> = Vec::new();
    if !missing.is_empty() {
        why.push(format!("no such cgroup: {}", gate::shown(missing)));
    }
    why.extend(wrong.map(|wrong| wrong.message.clone()));
    match (there.is_empty(), why.is_empty()) {
        (true, true) => "no gate was closed: the enforced roots are not known".to_owned(),
        (true, false) => format!("no gate was closed: {}", why.join("; ")),
        (false, true) => format!("the gate is closed around {}", gate::shown(there)),
        (false, false) => {
            let there = gate::shown(there);
            format!("the gate is closed around {there} only: {}", why.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_config_file_names_every_root_that_is_not_closed() {
        let (a, b) = ([PathBuf::from("/cg/a")], [PathBuf::from("/cg/b")]);
        let wrong = Failure::usage("/tmp is not a cgroup");
        assert_eq!(
            closed(&[], &[], None),
            "no gate was closed: the enforced roots are not known"
        );
        assert_eq!(closed(&a, &[], None), "the gate is closed around /cg/a");
        assert_eq!(
            closed(&a, &b, Some(&wrong)),
            "the gate is closed around /cg/a only: no such cgroup: /cg/b; /tmp is not a cgroup"
        );
        assert_eq!(
            closed(&[], &b, None),
            "no gate was closed: no such cgroup: /cg/b"
        );
    }
}
