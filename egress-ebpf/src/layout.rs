//! The offsets of kernel fields that no helper returns. The loader finds them in the kernel's type
//! information and writes them into the programs before the verifier runs.

/// Offsets in structures of the kernel. With [`Layout::UNKNOWN`] the programs read none of the fields.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Byte of `sk_buff._skb_refdst`.
    pub skb_dst: u32,
    /// Byte of `rtable.rt_flags`.
    pub route_flags: u32,
    /// Byte of `sock.__sk_common.skc_net`.
    pub sock_net: u32,
    /// Byte of `net.ipv6.sysctl.ip_nonlocal_bind`, which is one byte long.
    pub nonlocal_bind6: u32,
    /// Bit of `inet_sock` for `IP_FREEBIND`.
    pub freebind: u32,
    /// Bit of `inet_sock` for `IP_TRANSPARENT`.
    pub transparent: u32,
    /// Bit of `sock.sk_userlocks` that is set if bind() named the address (`SOCK_BINDADDR_LOCK`).
    pub bound: u32,
    /// Bit `sock.sk_kern_sock`.
    pub of_kernel: u32,
    /// Byte of `sock.sk_receive_queue`, a `sk_buff_head`.
    pub receive_queue: u32,
    /// Byte of `udp_sock.reader_queue`, a `sk_buff_head`.
    pub reader_queue: u32,
    /// 1 if all of these are known.
    pub known: u32,
}

impl Layout {
    /// Nothing is known: the kernel has no type information, or programs may not read its memory.
    pub const UNKNOWN: Self = Self {
        skb_dst: 0,
        route_flags: 0,
        sock_net: 0,
        nonlocal_bind6: 0,
        freebind: 0,
        transparent: 0,
        bound: 0,
        of_kernel: 0,
        receive_queue: 0,
        reader_queue: 0,
        known: 0,
    };
}

const _: () = assert!(size_of::<Layout>() == 44);

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]`, integers only, no padding (size asserted above).
unsafe impl aya::Pod for Layout {}
