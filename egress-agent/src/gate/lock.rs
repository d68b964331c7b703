//! One agent per gate: a lock on the folder of the pins, which the kernel releases when its holder
//! ends, also if it is killed.

use crate::failure::{BUSY, Failure};
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Time between two tries.
const TRY: Duration = Duration::from_millis(10);

/// The right to change the gate whose pins are in a folder; ends when it is dropped.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

impl Lock {
    /// Takes the lock, waiting up to `patience` for an agent that is leaving.
    ///
    /// # Errors
    /// Another process holds it: exit code [`BUSY`].
    pub fn take(bpf_dir: &Path, patience: Duration) -> anyhow::Result<Self> {
        let folder = File::open(bpf_dir)?;
        let end = Instant::now() + patience;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Self { _folder: folder }),
                Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(TRY),
                Err(TryLockError::WouldBlock) => {
                    let holder = holder(&folder).map_or(String::new(), |p| format!(" (pid {p})"));
                    return Err(Failure {
                        code: BUSY,
                        message: format!(
                            "another agent{holder} holds the gate at {}: a gate has one agent; stop it first, or name another --bpf-dir",
                            bpf_dir.display()
                        ),
                    }
                    .into());
                }
                Err(TryLockError::Error(e)) => return Err(e.into()),
            }
        }
    }
}

/// The process that holds the lock, as far as `/proc/locks` shows it (proc_locks(5)).
fn holder(folder: &File) -> Option<u32> {
    let meta = folder.metadata().ok()?;
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let inode = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let text = fs::read_to_string("/proc/locks").ok()?;
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&inode.as_str());
        ours.then(|| words.get(4)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_with_its_holder_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path(), Duration::ZERO).unwrap();
        let second = Lock::take(dir.path(), Duration::ZERO).unwrap_err();
        assert_eq!(Failure::code_of(&second), BUSY);
        let pid = format!("pid {}", std::process::id());
        assert!(second.to_string().contains(&pid), "{second}");
        drop(first);
        Lock::take(dir.path(), Duration::ZERO).unwrap();
    }
}
