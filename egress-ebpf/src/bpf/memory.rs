//! Reads fields of the kernel's structures, at the offsets that the loader found in its type
//! information. Does not interpret the fields.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use egress_ebpf::layout::Layout;

/// Written by the loader. Without places the verifier removes all that reads by them.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::UNKNOWN;

/// A place of [`LAYOUT`], or whether the places are `known`.
macro_rules! place {
    ($field:ident) => {
        // SAFETY: a constant of this program's own; volatile, since the loader writes it.
        unsafe { core::ptr::read_volatile(&raw const $crate::bpf::memory::LAYOUT.$field) }
    };
}
pub(crate) use place;

/// Whether a bit is set; one that cannot be read is.
#[inline(always)]
pub fn bit(base: u64, bit: u32) -> bool {
    // As on every machine that the agent runs on, the lowest byte comes first.
    read::<u8>(base, bit >> 3).is_none_or(|byte| byte >> (bit & 7) & 1 != 0)
}

/// A pointer of the verifier's as a number, to reckon with.
#[inline(always)]
pub fn address<T>(pointer: *mut T) -> Option<u64> {
    let held = pointer;
    // SAFETY: eight bytes of this program's stack.
    unsafe { bpf_probe_read_kernel((&raw const held).cast::<u64>()) }.ok()
}

/// What lies `offset` bytes behind an address.
#[inline(always)]
pub fn read<T>(base: u64, offset: u32) -> Option<T> {
    let at = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper reads any address, and fails where nothing is.
    unsafe { bpf_probe_read_kernel(at) }.ok()
}
