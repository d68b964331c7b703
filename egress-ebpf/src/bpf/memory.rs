//! Reads fields of the kernel's structures at the offsets that the loader found in its type information. Does not
//! interpret the fields.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use egress_ebpf::layout::Layout;

/// Written by the loader. If the offsets are unknown, the verifier removes the code that uses them.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::UNKNOWN;

/// A field of [`LAYOUT`].
macro_rules! place {
    ($field:ident) => {
        // SAFETY: a constant of this program. The read is volatile, because the loader writes it.
        unsafe { core::ptr::read_volatile(&raw const $crate::bpf::memory::LAYOUT.$field) }
    };
}
pub(crate) use place;

/// Whether a bit is set. True if it cannot be read.
#[inline(always)]
pub fn bit(base: u64, bit: u32) -> bool {
    // Little-endian, as all supported machines are.
    read::<u8>(base, bit >> 3).is_none_or(|byte| byte >> (bit & 7) & 1 != 0)
}

/// The address of a pointer as a number, so that the program may compute with it.
#[inline(always)]
pub fn address<T>(pointer: *mut T) -> Option<u64> {
    let held = pointer;
    // SAFETY: eight bytes of this program's stack.
    unsafe { bpf_probe_read_kernel((&raw const held).cast::<u64>()) }.ok()
}

/// Reads the value at an offset from an address.
#[inline(always)]
pub fn read<T>(base: u64, offset: u32) -> Option<T> {
    let at = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper accepts any address, and fails if no memory is mapped there.
    unsafe { bpf_probe_read_kernel(at) }.ok()
}
