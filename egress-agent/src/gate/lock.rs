//! One agent per gate: a lock on the folder of the pins, which the kernel releases when its holder
//! ends, also if it is killed.

use crate::failure::{BUSY, Failure};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Time between two tries.
const TRY: Duration = Duration::from_millis(10);

/// The exclusive right to change the gate whose pins are in a folder. Dropping it releases the lock.
#[derive(Debug)]
pub struct Lock {
    folder: File,
}

/// How long to wait for the agent that holds the lock.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// This long: enough for an agent that is stopping.
    UpTo(Duration),
    /// Without a limit: a standby waits for an agent that may run on for days.
    UntilItLeaves,
}

impl Lock {
    /// The descriptor that holds the lock. This process passes it to another one to prove that it has
    /// the lock.
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Takes the lock. Waits for the agent that holds it as `patience` says.
    ///
    /// # Errors
    /// Another process still holds it: exit code [`BUSY`].
    pub fn take(bpf_dir: &Path, patience: Patience) -> anyhow::Result<Self> {
        let folder = File::open(bpf_dir)?;
        let end = match patience {
            Patience::UpTo(time) => Some(Instant::now() + time),
            Patience::UntilItLeaves => None,
        };
        let mut waited = false;
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(Self { folder }),
                Err(TryLockError::WouldBlock) if end.is_none_or(|end| Instant::now() < end) => {
                    if end.is_none() && !waited {
                        let holder = holder(&folder).unwrap_or_default();
                        tracing::info!(
                            holder,
                            "standby: waiting until the agent that holds the gate leaves"
                        );
                        waited = true;
                    }
                    thread::sleep(TRY);
                }
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

/// Whether `shown`, a descriptor from another process, holds the lock of this folder. A lock belongs to
/// an open file description (flock(2)): the description that holds it can be locked again, and any other
/// description of the folder cannot.
pub fn is_held_by(folder: &File, shown: OwnedFd) -> io::Result<bool> {
    let shown = File::from(shown);
    let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
    if id(&shown)? != id(folder)? {
        return Ok(false);
    }
    match folder.try_lock() {
        Ok(()) => {
            folder.unlock()?;
            return Ok(false);
        }
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(e)) => return Err(e),
    }
    match shown.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// The process that holds the lock, if `/proc/locks` shows it (proc_locks(5)).
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

    const NOW: Patience = Patience::UpTo(Duration::ZERO);

    #[test]
    fn only_what_holds_the_lock_proves_it() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = || File::open(dir.path()).unwrap();
        let folder = open();
        assert!(
            !is_held_by(&folder, open().into()).unwrap(),
            "nobody has it"
        );
        let lock = Lock::take(dir.path(), NOW).unwrap();
        let shown = lock.folder().try_clone_to_owned().unwrap();
        assert!(is_held_by(&folder, shown).unwrap());
        assert!(!is_held_by(&folder, open().into()).unwrap());
        let elsewhere = Lock::take(other.path(), NOW).unwrap();
        let shown = elsewhere.folder().try_clone_to_owned().unwrap();
        assert!(!is_held_by(&folder, shown).unwrap(), "another gate's");
        // The checks neither released the lock nor left another one.
        assert!(Lock::take(dir.path(), NOW).is_err());
        drop(lock);
        Lock::take(dir.path(), NOW).unwrap();
    }

    #[test]
    fn a_second_lock_is_refused_with_its_holder_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path(), NOW).unwrap();
        let second = Lock::take(dir.path(), NOW).unwrap_err();
        assert_eq!(Failure::code_of(&second), BUSY);
        let pid = format!("pid {}", std::process::id());
        assert!(second.to_string().contains(&pid), "{second}");
        drop(first);
        Lock::take(dir.path(), NOW).unwrap();
    }
}
