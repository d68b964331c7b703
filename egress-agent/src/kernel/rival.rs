//! Finds the gate of another agent around a cgroup: programs of this product that are attached there or
//! above, by links that are not pinned in this agent's folder. Two gates on one root would redirect the
//! same flows, and neither reads the other's state.
//!
//! A lock on the cgroup's folder would not do: any process that can read the folder could take it.

use super::pins::Pins;
use super::sys;
use crate::failure::{BUSY, Failure};
use anyhow::Context as _;
use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// The program that every gate attaches first.
const PROGRAM: &str = "egress";
/// Maps that this program uses, in every version of the ABI.
const MAPS: [&str; 3] = ["POLICIES", "OWNERS", "SOCKETS"];

/// Which programs of a cgroup are checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// All that run for its packets: its own and those of the cgroups above.
    Effective,
    /// Its own programs that were attached before the first one of this agent.
    Earlier,
}

/// Fails if another agent's gate is around this cgroup.
///
/// Without `CAP_SYS_ADMIN` the kernel does not describe programs, so no other gate is found.
///
/// # Errors
/// Another gate: exit code [`BUSY`]. The message names the process that holds it, if there is one.
pub(super) fn refuse(pins: &Pins, cgroup: &Path, dir: &File, among: Among) -> anyhow::Result<()> {
    let own = own_programs(pins)?;
    let attached = sys::link::programs(
        dir.as_fd(),
        sys::link::CGROUP_INET_EGRESS,
        among == Among::Effective,
    )
    .with_context(|| format!("listing the programs of {}", cgroup.display()))?;
    let mut others: Vec<u32> = match among {
        Among::Effective => attached,
        Among::Earlier => attached
            .into_iter()
            .take_while(|id| !own.contains(id))
            .collect(),
    };
    others.retain(|id| !own.contains(id));
    if others.is_empty() {
        return Ok(());
    }
    let Some(rival) = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| others.contains(&program.id()) && is_gate(program))
    else {
        return Ok(());
    };
    let (shown, ours) = (cgroup.display(), pins.root().display());
    let message = match holder(rival.id()) {
        Some(pid) => format!(
            "another agent (pid {pid}) holds the gate around {shown}, with pins outside {ours}: a gate has one agent; stop it first, or use its --bpf-dir to replace it"
        ),
        None => format!(
            "another agent left its gate around {shown} closed, with pins outside {ours}: run this agent with that --bpf-dir, or `egress-agent detach` with it first"
        ),
    };
    Err(Failure {
        code: BUSY,
        message,
    }
    .into())
}

/// Programs of the links that are pinned in this agent's folder.
fn own_programs(pins: &Pins) -> anyhow::Result<Vec<u32>> {
    let mut links = pins.every_link()?;
    links.retain(|pin| pin.ends_with(PROGRAM));
    linked(&links)
}

/// The ids of the programs of pinned links.
pub(super) fn linked(links: &[PathBuf]) -> anyhow::Result<Vec<u32>> {
    let id = |pin: &PathBuf| {
        let link = sys::obj_get(pin).with_context(|| format!("opening {}", pin.display()))?;
        Ok(sys::link::program(link.as_fd())?)
    };
    links.iter().map(id).collect()
}

fn is_gate(program: &ProgramInfo) -> bool {
    let maps = program.map_ids().ok().flatten().unwrap_or_default();
    let names: Vec<String> = maps
        .into_iter()
        .filter_map(|id| MapInfo::from_id(id).ok())
        .filter_map(|map| map.name_as_str().map(str::to_owned))
        .collect();
    program.name_as_str() == Some(PROGRAM) && MAPS.iter().all(|m| names.iter().any(|n| n == m))
}

/// The process that holds a link of this program, if `/proc` shows it (`bpf_link_show_fdinfo` in
/// kernel/bpf/syscall.c).
fn holder(program: u32) -> Option<u32> {
    let wanted = format!("prog_id:\t{program}");
    let has = |pid: u32| {
        fs::read_dir(format!("/proc/{pid}/fdinfo")).is_ok_and(|mut all| {
            all.any(|fd| {
                let text = fd.and_then(|fd| fs::read_to_string(fd.path()));
                text.is_ok_and(|text| {
                    text.contains("link_type:\tcgroup") && text.lines().any(|l| l == wanted)
                })
            })
        })
    };
    let processes = fs::read_dir("/proc").ok()?;
    let mut ids = processes
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.find(|pid| has(*pid))
}
