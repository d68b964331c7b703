//! Folders that a test made in the folder for temporary files.
//!
//! Owns their names, and the removal of those that a killed process left, with what is mounted in them.

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};
use std::{env, fs, process};
use tempfile::TempDir;

/// The prefix of every folder's name, before what it is for, the process id and random characters.
const PREFIX: &str = "egress-test-";

/// A new folder. Dropping it removes it.
pub fn folder(what: &str) -> Result<TempDir> {
    remove_leftovers(&env::temp_dir())?;
    let name = format!("{PREFIX}{what}-{}-", process::id());
    let made = tempfile::Builder::new().prefix(&name).tempdir();
    made.with_context(|| format!("making a folder {name}"))
}

/// Removes the folders of processes that have ended.
fn remove_leftovers(of: &Path) -> Result<()> {
    let entries = fs::read_dir(of).with_context(|| format!("reading {}", of.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            let (rest, _) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
            rest.rsplit_once('-')?.1.parse::<u32>().ok()
        });
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&entry.path());
        }
    }
    Ok(())
}

/// Another process may do the same at this time, so errors do not matter. What cannot be unmounted is not removed:
/// otherwise the removal would go on in it.
fn remove(folder: &Path) {
    let below = |mounts: Vec<PathBuf>| mounts.into_iter().filter(|at| at.starts_with(folder));
    for at in below(mounts()).rev() {
        let _ = unmount(&at, UnmountFlags::DETACH);
    }
    if below(mounts()).next().is_none() {
        let _ = fs::remove_dir_all(folder);
    }
}

/// Every mount point, in the order of the mounts.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mount::{MountFlags, mount};

    /// Above the highest id that a process can have (`PID_MAX_LIMIT` of include/linux/threads.h).
    const NOBODY: u32 = (1 << 22) + 1;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let all = tempfile::tempdir().unwrap();
        let names = [
            format!("{PREFIX}bpf-{NOBODY}-aB3xYz"),
            format!("{PREFIX}bpf-{}-aB3xYz", process::id()),
            "somebody's".to_owned(),
        ];
        let [left, own, other] = names.map(|name| all.path().join(name));
        for folder in [&left, &own, &other] {
            fs::create_dir_all(folder.join("inner")).unwrap();
            fs::write(folder.join("file"), "").unwrap();
        }
        mount("bpf", left.join("inner"), c"bpf", MountFlags::empty(), c"").unwrap();
        remove_leftovers(all.path()).unwrap();
        assert!(!left.exists() && own.exists() && other.exists());
    }
}
