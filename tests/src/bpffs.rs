//! A test's own BPF file system for pins.
//!
//! Owns the mount. Its pins, and with them the hooks, end with the mount.

use crate::folder::folder;
use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::Path;
use tempfile::TempDir;

/// A mounted BPF file system. Dropping it unmounts it and removes the folder.
#[derive(Debug)]
pub struct BpfFs {
    dir: TempDir,
}

impl BpfFs {
    /// Mounts one in a new folder.
    pub fn mount() -> Result<Self> {
        let dir = folder("bpf")?;
        mount("bpf", dir.path(), c"bpf", MountFlags::empty(), c"mode=0700")
            .context("cannot mount a BPF file system (root is needed)")?;
        Ok(Self { dir })
    }

    /// Its mount point.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Detached, so that an open descriptor does not prevent the unmount.
        if let Err(error) = unmount(self.dir.path(), UnmountFlags::DETACH) {
            eprintln!(
                "the BPF file system {} stays: {error}",
                self.dir.path().display()
            );
        }
    }
}
