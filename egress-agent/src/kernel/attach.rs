//! Attaches the programs to cgroups with pinned links, replaces the programs of a previous agent in place,
//! and detaches them.

use super::load::Kernel;
use super::pins::{Pins, private_dir, remove_tree};
use super::rival::{self, Among};
use super::{AGENT_PROGRAMS, ROOT_PROGRAMS, sys};
use anyhow::{Context as _, bail};
use aya::maps::{Array, HashMap};
use egress_ebpf::abi::{DEFAULT_POLICY, Owner, Policy, policy_flag};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Attaches to the agent's cgroup and to every enforced root.
pub fn attach(kernel: &mut Kernel, agent: &Path, roots: &[PathBuf]) -> anyhow::Result<()> {
    attach_agent(kernel, agent)?;
    attach_roots(kernel, roots)?;
    forget_vanished(kernel)
}

/// Attaches to every existing enforced root. An error at one root does not stop the others; the
/// first error is returned at the end, and attached programs stay.
pub fn attach_roots(kernel: &mut Kernel, roots: &[PathBuf]) -> anyhow::Result<()> {
    let programs = kernel.root_programs();
    let mut result = Ok(());
    for root in roots {
        result = result.and(attach_root(kernel, root, &programs));
    }
    result
}

fn attach_root(kernel: &mut Kernel, root: &Path, programs: &[&str]) -> anyhow::Result<()> {
    if !kernel.is_new(root) {
        return attach_all(kernel, root, programs);
    }
    refuse_rival(&kernel.pins, root)?;
    let (first, others) = programs.split_at(1);
    attach_all(kernel, root, first)?;
    // If two agents start at once and neither has seen the other, the one that attached first stays.
    if let Ok(dir) = File::open(root)
        && let Err(rival) = rival::refuse(&kernel.pins, root, &dir, Among::Earlier)
    {
        let links = kernel.pins.links(CgroupId(dir.metadata()?.ino()));
        kernel.held.retain(|pin, _| !pin.starts_with(&links));
        remove_tree(&links)?;
        return Err(rival);
    }
    attach_all(kernel, root, others)
}

/// Fails if another agent's gate, with pins elsewhere, is around a root.
///
/// # Errors
/// Exit code [`BUSY`](crate::failure::BUSY).
pub fn refuse_rival(pins: &Pins, root: &Path) -> anyhow::Result<()> {
    match File::open(root) {
        Ok(dir) => rival::refuse(pins, root, &dir, Among::Effective),
        // Attaching to the root reports the error.
        Err(_) => Ok(()),
    }
}

/// Attaches to the agent's own cgroup. Listeners that this agent took over stay in the cgroup of the agent
/// that created them. If that is another cgroup, this agent's programs replace the programs there too.
pub fn attach_agent(kernel: &mut Kernel, agent: &Path) -> anyhow::Result<()> {
    attach_all(kernel, agent, &AGENT_PROGRAMS)?;
    for entry in std::fs::read_dir(kernel.pins.all_links())? {
        for name in AGENT_PROGRAMS {
            let pin = entry
                .as_ref()
                .map_or_else(|_| name.into(), |e| e.path().join(name));
            if !kernel.held.contains_key(&pin) && pin.exists() {
                let link = open(&pin)?;
                // With 0, the cgroup is gone, and all its sockets too.
                if sys::link::cgroup(link.as_fd())? != CgroupId(0) {
                    sys::link::update(link.as_fd(), kernel.programs.get(name)?).with_context(
                        || format!("replacing program {name} at {}", pin.display()),
                    )?;
                }
            }
        }
    }
    Ok(())
}

fn attach_all(kernel: &mut Kernel, cgroup: &Path, programs: &[&str]) -> anyhow::Result<()> {
    let dir = match File::open(cgroup) {
        // A missing root is closed when it is created.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.with_context(|| format!("opening cgroup {}", cgroup.display()))?,
    };
    let links = kernel.pins.links(CgroupId(dir.metadata()?.ino()));
    private_dir(&links).with_context(|| format!("making {}", links.display()))?;
    for name in programs {
        let pin = links.join(name);
        let held = kernel.held.remove(&pin);
        let pinned = pin.exists().then(|| open(&pin)).transpose()?;
        let link = if let Some(link) = of(pinned, &dir)? {
            sys::link::update(link.as_fd(), kernel.programs.get(name)?)
                .with_context(|| format!("replacing program {name} at {}", pin.display()))?;
            link
        } else {
            // Such a pin belongs to a removed cgroup.
            if pin.exists() {
                std::fs::remove_file(&pin)?;
            }
            let pinning = || format!("pinning {}", pin.display());
            if let Some(link) = of(held, &dir)? {
                sys::obj_pin(link.as_fd(), &pin).with_context(pinning)?;
                link
            } else {
                let link = kernel.programs.attach(name, dir.as_fd());
                let link =
                    link.with_context(|| format!("attaching {name} to {}", cgroup.display()))?;
                sys::obj_pin(link.as_fd(), &pin).with_context(pinning)?;
                link
            }
        };
        kernel.held.insert(pin, link);
    }
    Ok(())
}

fn open(pin: &Path) -> anyhow::Result<OwnedFd> {
    sys::obj_get(pin).with_context(|| format!("opening {}", pin.display()))
}

/// Returns a link if it is attached to this cgroup.
fn of(link: Option<OwnedFd>, cgroup: &File) -> anyhow::Result<Option<OwnedFd>> {
    let id = CgroupId(cgroup.metadata()?.ino());
    Ok(match link {
        Some(link) if sys::link::cgroup(link.as_fd())? == id => Some(link),
        _ => None,
    })
}

impl Kernel {
    /// Whether a root exists to which this process has not attached programs.
    pub fn is_new(&self, root: &Path) -> bool {
        let Ok(meta) = std::fs::metadata(root) else {
            return false;
        };
        let links = self.pins.links(CgroupId(meta.ino()));
        !self.held.keys().any(|pin| pin.starts_with(&links))
    }
}

/// Closes links whose cgroup is gone: they only hold programs in memory.
pub fn forget_vanished(kernel: &mut Kernel) -> anyhow::Result<()> {
    kernel
        .held
        .retain(|_, link| sys::link::cgroup(link.as_fd()).is_ok_and(|id| id != CgroupId(0)));
    let folder = kernel.pins.all_links();
    let links = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound && kernel.held.is_empty() => {
            bail!("another process detached the gate, which is open: restart the agent to close it")
        }
        Err(e) if e.kind() == ErrorKind::NotFound => bail!(
            "another process removed the pins at {}, so the gate opens when the agent ends: restart the agent to pin it again",
            folder.display()
        ),
        links => links.with_context(|| format!("reading {}", folder.display()))?,
    };
    for entry in links {
        let dir = entry?.path();
        let Some(first) = std::fs::read_dir(&dir)?.next() else {
            std::fs::remove_dir(&dir)?;
            continue;
        };
        let link = open(&first?.path())?;
        if sys::link::cgroup(link.as_fd())? == CgroupId(0) {
            remove_tree(&dir)?;
        }
    }
    Ok(())
}

/// Opens the gate: detaches every program and removes every pin below `bpf_dir`. Returns whether
/// there was a gate.
pub fn detach(bpf_dir: &Path) -> anyhow::Result<bool> {
    detach_links(bpf_dir)?;
    Pins::at(bpf_dir).remove_all()
}

/// Detaches the program of every pinned link immediately. Removing a pin would free its link only later,
/// and not while an agent holds the link. The pins stay.
pub fn detach_links(bpf_dir: &Path) -> anyhow::Result<()> {
    for pin in Pins::at(bpf_dir).every_link()? {
        let link = open(&pin)?;
        sys::link::detach(link.as_fd()).with_context(|| format!("detaching {}", pin.display()))?;
    }
    Ok(())
}

/// Whether every program is attached to this enforced root.
pub fn is_attached(bpf_dir: &Path, root: &Path) -> anyhow::Result<bool> {
    let there = root.exists();
    Ok(there && unlinked(&Pins::at(bpf_dir), root, &ROOT_PROGRAMS)?.is_empty())
}

/// The errno of a denied call if the pinned policy of an enforced root denies unlisted
/// destinations; `None` if it allows them (`ALLOW_ANY`, audit).
pub fn denies_unlisted(bpf_dir: &Path, root: &Path) -> anyhow::Result<Option<i32>> {
    let owners: HashMap<_, CgroupId, u64> = Pins::at(bpf_dir).map("OWNERS")?.try_into()?;
    let id = CgroupId(std::fs::metadata(root)?.ino());
    let own = owners.get(&id, 0).map(|entry| Owner::policy(id, entry));
    let policy = policy(bpf_dir, own.unwrap_or(DEFAULT_POLICY))?;
    let lets_pass = policy.flags & (policy_flag::ALLOW_ANY | policy_flag::AUDIT) != 0;
    let errno = match policy.errno {
        0 => libc::EPERM,
        other => other.cast_signed(),
    };
    Ok((!lets_pass).then_some(errno))
}

/// A pinned policy.
pub fn policy(bpf_dir: &Path, id: PolicyId) -> anyhow::Result<Policy> {
    let policies: Array<_, u64> = Pins::at(bpf_dir).map("POLICIES")?.try_into()?;
    Ok(Policy::of_word(policies.get(&id.0, 0)?))
}

/// A link that is not pinned where it should be.
#[derive(Debug)]
pub struct Missing {
    /// `PROGRAM at CGROUP`.
    pub what: String,
    /// Whether the program is detached; otherwise only its pin is missing.
    pub open: bool,
}

/// The links that are not pinned.
pub fn missing(kernel: &Kernel, agent: &Path, roots: &[PathBuf]) -> anyhow::Result<Vec<Missing>> {
    let mut pins = unlinked(&kernel.pins, agent, &AGENT_PROGRAMS)?;
    for root in roots {
        pins.extend(unlinked(&kernel.pins, root, &kernel.root_programs())?);
    }
    let held = |pin: &Path| {
        kernel
            .held
            .get(pin)
            .map(|link| sys::link::cgroup(link.as_fd()))
    };
    Ok(pins
        .into_iter()
        .map(|(pin, what)| Missing {
            what,
            open: !matches!(held(&pin), Some(Ok(id)) if id != CgroupId(0)),
        })
        .collect())
}

/// The pins that do not exist or belong to another cgroup, each with `PROGRAM at CGROUP`.
pub(super) fn unlinked(
    pins: &Pins,
    cgroup: &Path,
    programs: &[&str],
) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let id = match std::fs::metadata(cgroup) {
        // Without the cgroup there is nothing to close. Readiness reports a missing root.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        meta => {
            let meta = meta.with_context(|| format!("looking at {}", cgroup.display()))?;
            CgroupId(meta.ino())
        }
    };
    let links = pins.links(id);
    let mut missing = Vec::new();
    for name in programs {
        let pin = links.join(name);
        let there = pin.exists() && { sys::link::cgroup(open(&pin)?.as_fd())? == id };
        if !there {
            missing.push((pin, format!("{name} at {}", cgroup.display())));
        }
    }
    Ok(missing)
}
