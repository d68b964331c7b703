//! Reads packets in the egress hooks: by direct access if the header is plain and in linear memory, otherwise by a
//! helper. The library interprets the header.

use aya_ebpf::programs::SkBuffContext;
use core::ptr;
use egress_ebpf::packet::{Packet, Plain};

/// A packet, from its IP header on.
pub struct Skb<'a>(pub &'a SkBuffContext);

impl Skb<'_> {
    /// Source and destination of an IPv4 packet with a plain header in linear memory. Uses direct access, because one
    /// call of a helper costs more than all of this.
    #[inline(always)]
    pub fn plain4(&self) -> Option<Plain> {
        self.words().and_then(Plain::v4)
    }

    /// The same for IPv6.
    #[inline(always)]
    pub fn plain6(&self) -> Option<Plain> {
        let jumbo = || self.words().and_then(Plain::jumbo);
        self.words().and_then(Plain::v6).or_else(jumbo)
    }

    /// The first words of the packet, if they are in linear memory.
    #[inline(always)]
    fn words<const N: usize>(&self) -> Option<&[u32; N]> {
        // SAFETY: context fields that cgroup_skb may read. The verifier checks that each read is inside the bounds.
        // The kernel aligns headers to four bytes (`LL_RESERVED_SPACE`), and BPF needs no more.
        unsafe {
            let start = ptr::read_volatile(&raw const (*self.0.skb.skb).data) as usize;
            let end = ptr::read_volatile(&raw const (*self.0.skb.skb).data_end) as usize;
            if start + size_of::<[u32; N]>() > end {
                return None;
            }
            Some(&*(start as *const [u32; N]))
        }
    }
}

impl Packet for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(offset as usize).ok()
    }
}
