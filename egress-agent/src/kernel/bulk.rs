//! One map that is written in bulk: many entries in one call, one by one where the kernel has no
//! such call, and a count of what is in it against its limit.

use super::sys::{self, Progress};
use anyhow::Context as _;
use aya::Pod;
use aya::maps::MapData;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// What one map has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Entries in it; one that was overwritten may be counted twice until the next count.
    pub used: usize,
    /// Most entries.
    pub limit: usize,
}

/// A map by its descriptor.
#[derive(Debug)]
pub struct Bulk {
    fd: OwnedFd,
    room: Room,
    /// Whether the kernel takes many entries in one call; found out by the first.
    batches: bool,
}

impl Bulk {
    /// A second descriptor of a map.
    pub fn of(map: &MapData) -> anyhow::Result<Self> {
        Ok(Self {
            fd: map.fd().as_fd().try_clone_to_owned()?,
            room: Room {
                used: 0,
                limit: map.info()?.max_entries() as usize,
            },
            batches: true,
        })
    }

    /// How full it is.
    pub fn room(&self) -> Room {
        self.room
    }

    /// Says how many entries there really are.
    pub fn recount(&mut self, used: usize) {
        self.room.used = used;
    }

    /// Inserts or overwrites. What finds no room is left out, and how many that were comes back;
    /// any other error ends it.
    pub fn put<K: Pod, V: Pod>(&mut self, keys: &[K], values: &[V]) -> anyhow::Result<usize> {
        let mut left_out = 0;
        let mut at = 0;
        while at < keys.len() {
            let Progress { done, stopped } = if self.batches {
                sys::update_batch(self.fd.as_fd(), &keys[at..], &values[at..])
            } else {
                sys::update_one(self.fd.as_fd(), &keys[at], &values[at])
            };
            at += done;
            self.room.used += done;
            match stopped {
                None => {}
                Some(e) if full(&e) => {
                    left_out += 1;
                    at += 1;
                }
                Some(e) => self.without_batches(e).context("writing a table")?,
            }
        }
        Ok(left_out)
    }

    /// Deletes; an entry that is not there is what is wanted.
    pub fn delete<K: Pod>(&mut self, keys: &[K]) -> anyhow::Result<()> {
        let mut at = 0;
        while at < keys.len() {
            let Progress { done, stopped } = if self.batches {
                sys::delete_batch(self.fd.as_fd(), &keys[at..])
            } else {
                sys::delete_one(self.fd.as_fd(), &keys[at])
            };
            at += done;
            self.room.used = self.room.used.saturating_sub(done);
            match stopped {
                None => {}
                Some(e) if e.raw_os_error() == Some(libc::ENOENT) => at += 1,
                Some(e) => self.without_batches(e).context("deleting from a table")?,
            }
        }
        Ok(())
    }

    /// From here on one by one: the call itself is refused (EINVAL, ENOTSUPP), or the kernel had
    /// no memory for the next entry in the middle of a batch, where a single one may wait for it.
    fn without_batches(&mut self, error: io::Error) -> io::Result<()> {
        let may_help = sys::unsupported(&error) || error.raw_os_error() == Some(libc::ENOMEM);
        if self.batches && may_help {
            self.batches = false;
            return Ok(());
        }
        Err(error)
    }
}

/// The kernel says E2BIG (hash) or ENOSPC (trie) for a map at its limit.
fn full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
}
