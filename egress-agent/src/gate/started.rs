//! The cgroups that this process was started in, before it moved to the agent's own cgroup.

use crate::workloads::names;
use std::fs;
use std::path::Path;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Its cgroup of version 2.
    pub v2: String,
    /// Its first cgroup of version 1 that belongs to a pod.
    pub v1_pod: Option<String>,
}

impl Started {
    /// Reads the cgroups that this process is in.
    pub fn now() -> Self {
        Self::read(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
    }

    /// From the lines of `/proc/self/cgroup` (cgroups(7)): `0::PATH` is version 2.
    pub fn read(text: &str) -> Self {
        let pod = |path: &&str| names::read(path).pod.is_some();
        let v1 = text.lines().filter(|l| !l.starts_with("0::"));
        let v2 = text.lines().find_map(|l| l.strip_prefix("0::"));
        Self {
            v2: v2.unwrap_or_default().to_owned(),
            v1_pod: v1
                .filter_map(|l| l.splitn(3, ':').nth(2))
                .find(pod)
                .map(str::to_owned),
        }
    }

    /// The pods' root, if this process was started in a pod.
    pub fn pods_root(&self) -> Option<&Path> {
        names::read(&self.v2).pod?;
        let path = Path::new(&self.v2);
        path.ancestors().find(|a| {
            let name = a.file_name().unwrap_or_default().to_string_lossy();
            name == "kubepods" || name.ends_with("kubepods.slice")
        })
    }
}
