//! A BPF array that is mapped into this process's memory: programs see each word as soon as the agent
//! writes it.

use egress_ebpf::table::Line;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::slice;
use std::sync::atomic::AtomicU64;

/// A type that the values of an array may be mapped as.
///
/// # Safety
/// The type consists of atomic words only, for which any bytes are valid, and its size divides the size of
/// a page.
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

// SAFETY: the memory stays mapped for every thread until it is dropped, and it consists of atomic words.
unsafe impl<T: Words> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Words> Sync for Mapped<T> {}

impl<T: Words> Mapped<T> {
    /// Maps an array that was created with `BPF_F_MMAPABLE` and has `len` values of this size.
    pub fn of(array: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so the mapping replaces no other.
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
        // SAFETY: the memory is mapped as long as this lives. The array is as long as the mapping, since
        // the kernel does not map beyond its end, and any bytes are valid. All writers write whole words.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Words> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: `of` mapped this address and length, and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.start.cast(), self.len * size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
