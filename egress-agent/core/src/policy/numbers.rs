//! Addresses as numbers, for masks.

use egress_ebpf::addr::Addr;

/// An address as one number, highest bit first.
pub(super) fn number(addr: Addr) -> u128 {
    addr.be
        .iter()
        .fold(0_u128, |n, w| n << 32 | u128::from(u32::from_be(*w)))
}

/// The reverse of [`number`].
pub(super) fn addr(number: u128) -> Addr {
    let word = |shift: u32| ((number >> shift) as u32).to_be();
    Addr {
        be: [word(96), word(64), word(32), word(0)],
    }
}
