//! A packet as the host reads it.

use egress_ebpf::packet::Packet;

/// A packet from its IP header on.
pub struct Bytes<'a>(pub &'a [u8]);

impl Packet for Bytes<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = usize::try_from(offset).ok()?;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}
