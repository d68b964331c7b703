//! Turns the cgroup ids of kernel events into paths.

use crate::cgroup2;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The most paths that are remembered, for events that are read after their cgroup was removed.
const KEPT: usize = 4096;
/// `FILEID_KERNFS` of include/linux/exportfs.h: the handle is the 64-bit node id; since Linux 5.5.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// `struct file_handle` of `open_by_handle_at(2)` with the eight bytes of a kernfs handle.
#[repr(C)]
struct KernfsHandle {
    bytes: u32,
    kind: libc::c_int,
    id: CgroupId,
}

/// Looks up paths below the cgroup v2 mount.
#[derive(Debug)]
pub struct CgroupPaths {
    mount: File,
    known: BTreeMap<CgroupId, String>,
}

impl CgroupPaths {
    /// For the hierarchy of this process.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            mount: File::open(cgroup2::mount_point()?)?,
            known: BTreeMap::new(),
        })
    }

    /// Remembers the path of an existing cgroup.
    pub fn remember(&mut self, id: CgroupId, path: String) {
        if self.known.len() >= KEPT {
            // Ids grow, so the smallest is the oldest.
            self.known.pop_first();
        }
        self.known.insert(id, path);
    }

    /// The path of a cgroup as `/proc/PID/cgroup` shows it; `id:N` if it is gone and not remembered.
    pub fn path(&mut self, id: CgroupId) -> String {
        if let Some(path) = self.known.get(&id) {
            return path.clone();
        }
        match self.ask(id) {
            Ok(path) => {
                self.remember(id, path.clone());
                path
            }
            Err(_) => format!("id:{id}"),
        }
    }

    fn ask(&self, id: CgroupId) -> io::Result<String> {
        let handle = KernfsHandle {
            bytes: 8,
            kind: FILEID_KERNFS,
            id,
        };
        let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: the kernel reads as many bytes as the handle says, and the handle has them.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                self.mount.as_raw_fd(),
                &raw const handle,
                flags,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor, which nothing else owns.
        let folder = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
        let shown = |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}"));
        let path = shown(folder.as_raw_fd())?;
        let below = path
            .strip_prefix(shown(self.mount.as_raw_fd())?)
            .unwrap_or(&path);
        Ok(Path::new("/").join(below).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_has_its_path_while_it_lives_and_after_if_it_was_seen() {
        let mount = cgroup2::mount_point().unwrap();
        let name = format!("egress-paths-{}", std::process::id());
        let folder = mount.join(&name);
        std::fs::create_dir(&folder).expect("needs root: makes a cgroup");
        let id = cgroup2::id(&folder).unwrap();
        let mut seen = CgroupPaths::new().unwrap();
        let live = seen.path(id);
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(live, format!("/{name}"));
        assert_eq!(seen.path(id), live);
        assert_eq!(CgroupPaths::new().unwrap().path(id), format!("id:{id}"));
    }
}
