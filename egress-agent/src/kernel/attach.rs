//! Attaches the programs to cgroups by pinned links, replaces them in place where an agent before
//! this one did, and opens the gate again.

use super::load::Kernel;
use super::pins::{Pins, private_dir, remove_tree};
use super::{AGENT_PROGRAMS, ROOT_PROGRAMS, sys};
use anyhow::Context as _;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, Program};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Attaches to the agent's cgroup and to every enforced root. On an error, what this call newly
/// attached is detached again; what was adopted stays closed.
pub fn attach(kernel: &mut Kernel, agent: &Path, roots: &[PathBuf]) -> anyhow::Result<()> {
    let mut fresh = Undo::default();
    attach_all(kernel, agent, &AGENT_PROGRAMS, &mut fresh)?;
    let programs = kernel.root_programs();
    for root in roots {
        attach_all(kernel, root, &programs, &mut fresh)?;
    }
    fresh.keep();
    forget_vanished(&kernel.pins)
}

/// Pins to remove again unless the whole attach succeeds.
#[derive(Default)]
struct Undo(Vec<PathBuf>);

impl Undo {
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for pin in self.0.drain(..).rev() {
            // The folder of a pin may hold adopted ones too: it goes when it is empty.
            let _ = std::fs::remove_file(&pin);
            if let Some(dir) = pin.parent() {
                let _ = std::fs::remove_dir(dir);
            }
        }
    }
}

fn attach_all(
    kernel: &mut Kernel,
    cgroup: &Path,
    programs: &[&str],
    fresh: &mut Undo,
) -> anyhow::Result<()> {
    let dir = File::open(cgroup).with_context(|| format!("opening cgroup {}", cgroup.display()))?;
    let links = kernel.pins.links(dir.metadata()?.ino());
    private_dir(&links).with_context(|| format!("making {}", links.display()))?;
    for name in programs {
        let pin = links.join(name);
        if pin.exists() && is_of(&pin, &dir)? {
            replace(kernel, name, &pin)?;
        } else {
            // A pin without its cgroup, of which the number came again.
            if pin.exists() {
                std::fs::remove_file(&pin)?;
            }
            let link = create(kernel.program(name)?, &dir)
                .with_context(|| format!("attaching {name} to {}", cgroup.display()))?;
            fresh.0.push(pin.clone());
            link.pin(&pin)
                .with_context(|| format!("pinning {}", pin.display()))?;
        }
    }
    Ok(())
}

/// Whether the link of a pin is attached to this very cgroup.
fn is_of(pin: &Path, cgroup: &File) -> anyhow::Result<bool> {
    let link = sys::obj_get(pin).with_context(|| format!("opening {}", pin.display()))?;
    Ok(sys::link_cgroup(link.as_fd())? == cgroup.metadata()?.ino())
}

fn replace(kernel: &Kernel, name: &str, pin: &Path) -> anyhow::Result<()> {
    let link = sys::obj_get(pin).with_context(|| format!("opening {}", pin.display()))?;
    sys::link_update(link.as_fd(), kernel.program_fd(name)?.as_fd())
        .with_context(|| format!("replacing program {name} at {}", pin.display()))
}

fn create(program: &mut Program, cgroup: &File) -> anyhow::Result<FdLink> {
    // The flags of a cgroup link must be zero; the kernel treats every link as "multi".
    let mode = CgroupAttachMode::Single;
    Ok(match program {
        Program::CgroupSockAddr(p) => {
            let id = p.attach(cgroup, mode)?;
            p.take_link(id)?.try_into()?
        }
        Program::CgroupSock(p) => {
            let id = p.attach(cgroup, mode)?;
            p.take_link(id)?.try_into()?
        }
        Program::CgroupSkb(p) => {
            let id = p.attach(cgroup, aya::programs::CgroupSkbAttachType::Egress, mode)?;
            p.take_link(id)?.try_into()?
        }
        Program::SockOps(p) => {
            let id = p.attach(cgroup, mode)?;
            p.take_link(id)?.try_into()?
        }
        Program::LsmCgroup(p) => {
            let id = p.attach(cgroup)?;
            p.take_link(id)?.into()
        }
        _ => anyhow::bail!("not a cgroup program"),
    })
}

/// Removes the pins of links whose cgroup is gone: they hold programs in memory for nothing.
pub fn forget_vanished(pins: &Pins) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(pins.all_links())? {
        let dir = entry?.path();
        let Some(first) = std::fs::read_dir(&dir)?.next() else {
            std::fs::remove_dir(&dir)?;
            continue;
        };
        let link = sys::obj_get(&first?.path())?;
        if sys::link_cgroup(link.as_fd())? == 0 {
            remove_tree(&dir)?;
        }
    }
    Ok(())
}

/// Opens the gate: removes every pin below `bpf_dir`. Returns whether there was a gate.
pub fn detach(bpf_dir: &Path) -> anyhow::Result<bool> {
    let pins = Pins::at(bpf_dir);
    for pin in pins.every_link()? {
        let link = sys::obj_get(&pin).with_context(|| format!("opening {}", pin.display()))?;
        // Removing the pin alone frees the link some time later.
        sys::link_detach(link.as_fd()).with_context(|| format!("detaching {}", pin.display()))?;
    }
    pins.remove_all()
}

/// Whether every program is attached to this enforced root.
pub fn is_attached(bpf_dir: &Path, root: &Path) -> anyhow::Result<bool> {
    Ok(unlinked(&Pins::at(bpf_dir), root, &ROOT_PROGRAMS)?.is_empty())
}

/// The links that are not there, as `PROGRAM at CGROUP`.
pub fn missing(kernel: &Kernel, agent: &Path, roots: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut missing = unlinked(&kernel.pins, agent, &AGENT_PROGRAMS)?;
    for root in roots {
        missing.extend(unlinked(&kernel.pins, root, &kernel.root_programs())?);
    }
    Ok(missing)
}

fn unlinked(pins: &Pins, cgroup: &Path, programs: &[&str]) -> anyhow::Result<Vec<String>> {
    let id = std::fs::metadata(cgroup)
        .with_context(|| format!("looking at {}", cgroup.display()))?
        .ino();
    let links = pins.links(id);
    let mut missing = Vec::new();
    for name in programs {
        let pin = links.join(name);
        let there = pin.exists() && {
            let link = sys::obj_get(&pin).with_context(|| format!("opening {}", pin.display()))?;
            sys::link_cgroup(link.as_fd())? == id
        };
        if !there {
            missing.push(format!("{name} at {}", cgroup.display()));
        }
    }
    Ok(missing)
}
