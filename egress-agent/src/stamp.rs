//! Finds out from a file's attributes whether it changed.
//!
//! The clock of a file system advances in steps. Two writes within one step leave the same attributes (git's index
//! calls such an entry racily clean). So attributes prove that a text is current only if it was read a whole step after
//! they were first seen: any write after that read has a later time. No two clocks are compared, so the clock of a file
//! server may be wrong.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

/// No file system has longer steps: FAT's are two seconds, those of ext4, XFS and tmpfs a tick of
/// the kernel (`current_time()`).
const STEP: Duration = Duration::from_millis(2100);

/// A file, whatever its name is: device and inode.
pub(crate) type Inode = (u64, u64);

/// Attributes of a file. At least one changes with each write, rename over the file or change of its mode: a program
/// can set the modification time, but not the change time of the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    inode: Inode,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    pub(crate) const fn inode(&self) -> Inode {
        self.inode
    }
}

/// The value that was read from a file.
#[derive(Debug)]
pub(crate) struct Held<T> {
    value: T,
    stamp: Stamp,
    /// When the file was first seen with this stamp.
    since: Instant,
    /// Whether the stamp proves that the value is current.
    settled: bool,
}

impl<T> Held<T> {
    /// A value that was read from `begin` on. The file had this stamp before and after the read, and at `seen`.
    /// `before` is the former value of the same path.
    pub(crate) fn read(
        value: T,
        stamp: Stamp,
        begin: Instant,
        seen: Instant,
        before: Option<Self>,
    ) -> Self {
        let before = before.filter(|before| before.stamp == stamp);
        let since = before.map_or(seen, |before| before.since);
        Self {
            value,
            stamp,
            since,
            settled: begin.saturating_duration_since(since) > STEP,
        }
    }

    pub(crate) fn value(&self) -> &T {
        &self.value
    }

    /// The file's stamp when the value was read.
    pub(crate) const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether a file with this stamp has the value.
    pub(crate) fn is_current(&self, stamp: &Stamp) -> bool {
        self.settled && self.stamp == *stamp
    }

    /// The stamp proves nothing until the file is read again.
    pub(crate) fn doubt(&mut self) {
        self.settled = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_vouches_for_what_was_read_a_step_after_it_was_first_seen() {
        let stamp = Stamp::of(&std::fs::metadata("/").unwrap());
        let other = Stamp {
            size: stamp.size + 1,
            ..stamp
        };
        let (start, step) = (Instant::now(), STEP + Duration::from_millis(1));
        let first = Held::read("a", stamp, start, start, None);
        assert!(
            !first.is_current(&stamp),
            "a write may follow in the same step"
        );
        let soon = start + STEP / 2;
        let second = Held::read("b", stamp, soon, soon, Some(first));
        assert!(!second.is_current(&stamp));
        let third = Held::read("b", stamp, start + step, start + step, Some(second));
        assert!(third.is_current(&stamp) && !third.is_current(&other));
        let late = start + step * 2;
        let mut fourth = Held::read("c", other, late, late, Some(third));
        assert!(
            !fourth.is_current(&other),
            "the time begins anew with each stamp"
        );
        fourth = Held::read("c", other, late + step, late + step, Some(fourth));
        assert!(fourth.is_current(&other));
        fourth.doubt();
        assert!(!fourth.is_current(&other));
    }
}
