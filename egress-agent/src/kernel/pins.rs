//! The paths and permissions of pinned links, maps and programs.
//!
//! Layout below the chosen folder: `abi-N/maps/NAME`, `abi-N/links/CGROUP_ID/PROGRAM` and
//! `abi-N/programs/OBJECT/PROGRAM`. The ABI's number is part of the path, so an agent never adopts pins that it
//! would misread.

use crate::failure::Failure;
use anyhow::Context as _;
use aya::maps::{Map, MapData};
use egress_ebpf::abi::ABI_VERSION;
use egress_ebpf::ids::CgroupId;
use rustix::fs::{StatFs, statfs};
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The folder of pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    /// Whether this process mounted the file system that contains them.
    pub mounted_here: bool,
}

impl Pins {
    /// The pins in a folder. Creates nothing.
    pub fn at(bpf_dir: &Path) -> Self {
        Self {
            root: bpf_dir.to_path_buf(),
            mounted_here: false,
        }
    }

    /// The folder that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates the folder. Mounts a BPF file system if `bpf_dir` is not in one.
    pub fn mount(bpf_dir: &Path) -> anyhow::Result<Self> {
        let mut pins = Self::at(bpf_dir);
        let made = private_dir(bpf_dir);
        if let Err(e) = &made
            && e.kind() == ErrorKind::PermissionDenied
        {
            return Err(Failure::privilege(format_args!(
                "cannot create {}: {e}; run as root, or name a folder with --bpf-dir",
                bpf_dir.display()
            ))
            .into());
        }
        if made.is_err() || !on_bpffs(bpf_dir)? {
            mount_bpffs(bpf_dir)?;
            pins.mounted_here = true;
        }
        Ok(pins)
    }

    /// Creates the folders of this ABI.
    ///
    /// # Errors
    /// The folder has pins of another ABI. That gate is not changed.
    pub fn prepare(&self) -> anyhow::Result<()> {
        self.refuse_other_abi()?;
        for dir in [self.abi(), self.maps(), self.all_links()] {
            private_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(())
    }

    /// Fails if the folder has pins of another ABI.
    pub fn refuse_other_abi(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with("abi-") && self.root.join(&name) != self.abi() {
                return Err(Failure::usage(format_args!(
                    "{}: pinned by another version ({}, this agent has abi-{ABI_VERSION}); its gate stays closed: run that version, or `egress-agent detach` first",
                    self.root.display(),
                    name.to_string_lossy(),
                ))
                .into());
            }
        }
        Ok(())
    }

    fn abi(&self) -> PathBuf {
        self.root.join(format!("abi-{ABI_VERSION}"))
    }

    /// Folder of the pinned maps.
    pub fn maps(&self) -> PathBuf {
        self.abi().join("maps")
    }

    /// Opens a pinned map, to read and write its entries.
    pub fn map(&self, name: &str) -> anyhow::Result<Map> {
        let map = Map::from_map_data(self.map_data(name)?);
        map.with_context(|| format!("opening map {name}"))
    }

    /// Opens a pinned map, of whichever kind it is.
    pub fn map_data(&self, name: &str) -> anyhow::Result<MapData> {
        let map = MapData::from_pin(self.maps().join(name));
        map.with_context(|| format!("opening map {name}"))
    }

    /// Folder that has a folder of programs for an object file.
    pub fn programs(&self) -> PathBuf {
        self.abi().join("programs")
    }

    /// Folder that has a folder of links for each cgroup.
    pub fn all_links(&self) -> PathBuf {
        self.abi().join("links")
    }

    /// Folder of a cgroup's links.
    pub fn links(&self, cgroup: CgroupId) -> PathBuf {
        self.all_links().join(cgroup.to_string())
    }

    /// Every pinned link, of this ABI and of others.
    pub fn every_link(&self) -> anyhow::Result<Vec<PathBuf>> {
        let entries = |dir: &Path| -> anyhow::Result<Vec<PathBuf>> {
            match fs::read_dir(dir) {
                Ok(entries) => Ok(entries
                    .map(|e| Ok(e?.path()))
                    .collect::<std::io::Result<_>>()?),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
                Err(e) => Err(e).with_context(|| format!("reading {}", dir.display())),
            }
        };
        let mut found = Vec::new();
        for abi in entries(&self.root)? {
            let name = abi.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("abi-") {
                for cgroup in entries(&abi.join("links"))? {
                    found.extend(entries(&cgroup)?);
                }
            }
        }
        Ok(found)
    }

    /// Removes every pin, of this ABI and of others: links first, since those open the gate, then the
    /// programs and the maps. Returns whether there was any.
    pub fn remove_all(&self) -> anyhow::Result<bool> {
        let mut any = false;
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Ok(false);
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with("abi-") {
                continue;
            }
            any = true;
            for part in ["links", "programs", "maps"] {
                remove_tree(&entry.path().join(part))?;
            }
            remove_tree(&entry.path())?;
        }
        Ok(any)
    }
}

/// Like `remove_dir_all`, which does not work on bpffs because it opens what it removes.
pub fn remove_tree(path: &Path) -> anyhow::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(path).with_context(|| format!("removing {}", path.display()))
}

/// Creates a folder with mode 0700. Of an existing one, checks that it belongs to this user, and sets the
/// mode.
pub fn private_dir(path: &Path) -> std::io::Result<()> {
    match fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
    {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let meta = fs::metadata(path)?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(std::io::Error::new(
            ErrorKind::PermissionDenied,
            "belongs to another user",
        ));
    }
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}

fn on_bpffs(path: &Path) -> anyhow::Result<bool> {
    let StatFs { f_type, .. } =
        statfs(path).with_context(|| format!("looking at {}", path.display()))?;
    Ok(f_type.cast_unsigned() == BPF_FS_MAGIC)
}

/// Mounts a BPF file system: on `/sys/fs/bpf` if the folder is below it, otherwise on the folder itself.
fn mount_bpffs(dir: &Path) -> anyhow::Result<()> {
    let standard = Path::new("/sys/fs/bpf");
    let target = if dir.starts_with(standard) {
        standard
    } else {
        dir
    };
    let failed = |e: rustix::io::Errno| {
        Failure::privilege(format_args!(
            "no BPF file system at {} and mounting one failed: {e}; run as root, or `mount -t bpf bpf {}`",
            target.display(),
            target.display()
        ))
    };
    mount(
        "bpf",
        target,
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .map_err(failed)?;
    private_dir(dir).with_context(|| format!("making {}", dir.display()))
}
