//! What stands in the agent's pinned maps: how many entries, so that a test can say that nothing
//! was left. Reads keys only, by `bpf(2)`.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET: libc::c_long = 7;

/// The head of `union bpf_attr` for both commands.
#[repr(C)]
#[derive(Default)]
struct Attr {
    /// A path, or a map's descriptor in the low half.
    first: u64,
    /// `bpf_fd` and `file_flags`, or the address of a key.
    second: u64,
    /// The address of the next key.
    third: u64,
}

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes what the attribute points to; the callers keep it alive
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<Attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The number of entries of the map `name` below the agent's folder of pins, whose keys are
/// `size_of::<K>()` bytes long.
pub fn entries<K: Copy + Default>(bpf_dir: &Path, name: &str) -> Result<usize> {
    let path = pinned(bpf_dir, name)?;
    let text = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr {
        first: text.as_ptr() as u64,
        ..Attr::default()
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr).with_context(|| format!("opening {}", path.display()))?;
    // SAFETY: a descriptor that the kernel just made for this process
    let map = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
    let (mut key, mut next) = (K::default(), K::default());
    let mut count = 0;
    loop {
        let mut attr = Attr {
            first: u64::from(map.as_raw_fd().cast_unsigned()),
            // No key gives the first one.
            second: if count == 0 { 0 } else { &raw const key as u64 },
            third: &raw mut next as u64,
        };
        match bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => {
                count += 1;
                key = next;
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(e) => return Err(e).with_context(|| format!("reading {name}")),
        }
    }
}

/// Links pinned below the agent's folder.
pub fn links(bpf_dir: &Path) -> Result<usize> {
    let mut count = 0;
    for cgroup in fs::read_dir(abi(bpf_dir)?.join("links"))? {
        count += fs::read_dir(cgroup?.path())?.count();
    }
    Ok(count)
}

fn pinned(bpf_dir: &Path, name: &str) -> Result<PathBuf> {
    Ok(abi(bpf_dir)?.join("maps").join(name))
}

/// The folder that carries the ABI's number.
fn abi(bpf_dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(bpf_dir)?.flatten();
    let abi = entries.find(|e| e.file_name().to_string_lossy().starts_with("abi-"));
    Ok(abi.context("nothing is pinned")?.path())
}
