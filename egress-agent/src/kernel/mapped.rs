//! A kernel array mapped into this process's memory: programs see each word as soon as the agent
//! writes it.

use egress_ebpf::table::Line;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::slice;
use std::sync::atomic::AtomicU64;

/// What an array may be mapped as.
///
/// # Safety
/// Made of atomic words alone, for which any bytes are valid; the size divides that of a page.
pub unsafe trait Words: Sync {}

// SAFETY: eight atomic words.
unsafe impl Words for Line {}
// SAFETY: one atomic word.
unsafe impl Words for AtomicU64 {}

/// The values of an array.
#[derive(Debug)]
pub struct Mapped<T: Words> {
    start: *mut T,
    len: usize,
}

// SAFETY: the memory is the process's until it is dropped, whatever thread looks at it, and it is
// atomic words.
unsafe impl<T: Words> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Words> Sync for Mapped<T> {}

impl<T: Words> Mapped<T> {
    /// Of an array that was made with `BPF_F_MMAPABLE` and has `len` values of this size.
    pub fn of(array: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: at a place of the kernel's choice, so over nothing that is there.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len * size_of::<T>(),
                protection,
                MapFlags::SHARED,
                array,
                0,
            )?
        };
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// The values.
    pub fn values(&self) -> &[T] {
        // SAFETY: mapped from page to page for as long as this lives; the kernel made the array as
        // long (it refuses to map beyond its end), and any bytes are valid. Others that write do so
        // word by word.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Words> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` with this length, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.start.cast(), self.len * size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
