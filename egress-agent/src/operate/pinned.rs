//! The pinned gate, for `status` when no agent runs. Reads pins and changes nothing.

use crate::cgroup2;
use crate::failure::Failure;
use crate::kernel::{self, Pins, ROOT_PROGRAMS};
use crate::observe::cgroups::CgroupPaths;
use crate::operate::status::Status;
use egress_ebpf::abi::{ABI_VERSION, DEFAULT_POLICY};
use egress_ebpf::ids::{CgroupId, TableId};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The status of a gate whose agent does not run, read from its pins.
///
/// # Errors
/// This user may not read the pins: exit code 77.
pub fn status(bpf_dir: &Path) -> anyhow::Result<Status> {
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: kernel::BUILD.to_owned(),
        abi: ABI_VERSION,
        ..Status::default()
    };
    if let Err(e) = fs::read_dir(bpf_dir)
        && e.kind() == ErrorKind::PermissionDenied
    {
        return Err(
            Failure::privilege(format_args!("{}: {e}; run as root", bpf_dir.display())).into(),
        );
    }
    let mut roots: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for pin in Pins::at(bpf_dir).every_link()? {
        let folder = pin.parent().unwrap_or(&pin).to_owned();
        *roots.entry(folder).or_default() += 1;
    }
    let mut paths = CgroupPaths::new()?;
    let mount = cgroup2::mount_point()?;
    let mut since: Option<SystemTime> = None;
    for (folder, links) in roots {
        // The agent's own cgroup has fewer programs.
        if links < ROOT_PROGRAMS.len() {
            continue;
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let path = paths.path(CgroupId(name.parse().unwrap_or_default()));
        // The links of a removed cgroup have no effect.
        if let Some(below) = path.strip_prefix('/') {
            status.roots.push(mount.join(below).display().to_string());
            let made = fs::metadata(&folder).and_then(|meta| meta.modified()).ok();
            since = since.into_iter().chain(made).min();
        }
    }
    let pins = bpf_dir.display();
    let trouble = if status.roots.is_empty() {
        format!("no agent runs, and no gate is pinned at {pins}: nothing is denied")
    } else {
        status.closed = true;
        let policy = kernel::policy(bpf_dir, DEFAULT_POLICY).unwrap_or_default();
        status.rules.generation = policy.generation;
        let rules = if policy.table == TableId(0) {
            "without rules: everything but loopback is denied"
        } else {
            "with the last rules: destinations that they list without the proxy are allowed, those that need the proxy are denied"
        };
        let age = since.and_then(|at| at.elapsed().ok());
        let age = age.map_or(String::new(), |age| format!(" for {} s", age.as_secs()));
        format!("no agent runs; the gate pinned at {pins} has been closed{age} {rules}")
    };
    status.troubles = vec![trouble.clone()];
    status.trouble = Some(trouble);
    Ok(status)
}
