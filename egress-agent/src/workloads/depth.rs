//! The cgroups that are nested deeper than the kernel programs judge. All their traffic is denied
//! (`cgroup-depth`), also if a cgroup above is a workload. Counts and logs them.

use egress_ebpf::abi::MAX_DEPTH;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The part that `status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TooDeep {
    /// Cgroups one level below the limit; those below them are denied too.
    pub cgroups: usize,
    /// The folder of the first one by name.
    pub first: Option<String>,
}

/// Whether the kernel programs judge a cgroup that is this many levels below the hierarchy's root.
pub const fn is_judged(level: usize) -> bool {
    level <= MAX_DEPTH
}

/// The cgroups one level below the limit.
#[derive(Debug, Default)]
pub struct Deep(BTreeSet<PathBuf>);

impl Deep {
    /// Adds one.
    pub fn insert(&mut self, folder: &Path) {
        if self.0.is_empty() {
            tracing::warn!(
                cgroup = %folder.display(),
                limit = MAX_DEPTH,
                "a cgroup is nested too deep for the kernel programs: its processes are denied (cgroup-depth)"
            );
        }
        self.0.insert(folder.to_path_buf());
    }

    /// Removes one.
    pub fn remove(&mut self, folder: &Path) {
        self.0.remove(folder);
    }

    /// Removes those that a full scan did not find.
    pub fn retain(&mut self, seen: &BTreeSet<PathBuf>) {
        self.0.retain(|folder| seen.contains(folder));
    }

    /// Their number.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The part that `status` shows.
    pub fn status(&self) -> TooDeep {
        TooDeep {
            cgroups: self.count(),
            first: self.0.first().map(|folder| folder.display().to_string()),
        }
    }
}
