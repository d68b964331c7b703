//! One form for every address: 16 bytes, IPv4 as `::ffff:a.b.c.d`.
//!
//! connect4 and connect6 both use it, so the same address gets the same verdict in every spelling. Does not
//! know which addresses are allowed.

/// A 16-byte address in network byte order. It is four words, so that BPF compares it in four steps and not
/// sixteen. IPv4 has the mapped form of RFC 4291 §2.5.5.2.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Addr {
    /// The words as in a packet: each is big-endian in memory.
    pub be: [u32; 4],
}

const MAPPED: u32 = 0x0000_ffff_u32.to_be();
/// 64:ff9b::/96, RFC 6052 §2.1.
const NAT64: u32 = 0x0064_ff9b_u32.to_be();
/// 2001:0::/32, RFC 4380 §2.6.
const TEREDO: u32 = 0x2001_0000_u32.to_be();

/// The prefix length of a single address.
pub const ITSELF: u32 = 128;

impl Addr {
    /// `::`, which the kernel dials as loopback. In the ABI it also means "not set".
    pub const UNSPECIFIED: Self = Self { be: [0; 4] };

    /// From an IPv4 address as the kernel holds it (network byte order).
    #[must_use]
    #[inline(always)]
    pub const fn from_v4_be(be: u32) -> Self {
        Self {
            be: [0, 0, MAPPED, be],
        }
    }

    /// From four words as the kernel holds them (network byte order).
    #[must_use]
    #[inline(always)]
    pub const fn from_v6_be(be: [u32; 4]) -> Self {
        Self { be }
    }

    /// Whether this is an IPv4 address in mapped form.
    #[must_use]
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.be[0] == 0 && self.be[1] == 0 && self.be[2] == MAPPED
    }

    /// The address at which a packet to this one ends: NAT64, 6to4, Teredo and IPv4-compatible forms become
    /// the IPv4 address that they contain. Every lookup uses this form, so a denied IPv4 address cannot be
    /// reached by embedding it in an IPv6 address.
    #[must_use]
    #[inline(always)]
    pub const fn canonical(&self) -> Self {
        let [a, b, c, d] = self.be;
        if a == NAT64 && b == 0 && c == 0 {
            return Self::from_v4_be(d);
        }
        // 2002:AABB:CCDD::/48 (RFC 3056 §2): the IPv4 address spans the first two words.
        if u32::from_be(a) >> 16 == 0x2002 {
            return Self::from_v4_be(((u32::from_be(a) << 16) | (u32::from_be(b) >> 16)).to_be());
        }
        // Teredo holds the client's IPv4 address inverted in the last word (RFC 4380 §4).
        if a == TEREDO {
            return Self::from_v4_be(!d);
        }
        // ::a.b.c.d (RFC 4291 §2.5.5.1), except `::` and `::1`.
        if a == 0 && b == 0 && c == 0 && u32::from_be(d) > 1 {
            return Self::from_v4_be(d);
        }
        *self
    }

    /// `::` or 0.0.0.0.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.be;
        a == 0 && b == 0 && (c == 0 || c == MAPPED) && d == 0
    }

    /// The shortest prefix length (of 128 bits) with which a network can list this address. A network lists
    /// its hosts. An address of many hosts must be listed itself, or by a network of groups: 224.0.0.0/4
    /// (RFC 5771), 255.255.255.255 (RFC 919), ff00::/8 (RFC 4291 §2.7).
    #[must_use]
    #[inline(always)]
    pub const fn shortest_network(&self) -> u32 {
        let [a, _, _, d] = self.be;
        if self.is_v4() {
            return if d == u32::MAX {
                ITSELF
            } else if u32::from_be(d) >> 28 == 0xe {
                96 + 4
            } else {
                0
            };
        }
        if u32::from_be(a) >> 24 == 0xff { 8 } else { 0 }
    }

    /// Whether the kernel dials loopback for this address: 127.0.0.0/8, `::1`, and the unspecified addresses,
    /// which `ip_route_connect` and `ip6_datagram_connect` turn into loopback after the hook has run.
    #[must_use]
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.be;
        if self.is_v4() {
            return d == 0 || u32::from_be(d) >> 24 == 127;
        }
        a == 0 && b == 0 && c == 0 && u32::from_be(d) <= 1
    }
}

#[cfg(not(target_arch = "bpf"))]
mod host {
    use super::Addr;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            let v6 = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            let o = v6.octets();
            let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
            Self {
                be: [word(0), word(4), word(8), word(12)],
            }
        }
    }

    impl From<Ipv4Addr> for Addr {
        fn from(ip: Ipv4Addr) -> Self {
            IpAddr::V4(ip).into()
        }
    }

    impl From<Addr> for IpAddr {
        fn from(a: Addr) -> Self {
            let mut o = [0; 16];
            for (i, w) in a.be.iter().enumerate() {
                o[i * 4..i * 4 + 4].copy_from_slice(&w.to_ne_bytes());
            }
            Ipv6Addr::from(o).to_canonical()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Addr;
    use core::net::IpAddr;
    use std::string::ToString;

    fn addr(s: &str) -> Addr {
        s.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_address_survives_the_round_trip() {
        for s in ["203.0.113.9", "2001:db8::1", "::1", "0.0.0.0", "::"] {
            assert_eq!(IpAddr::from(addr(s)).to_string(), s);
        }
        assert_eq!(addr("::ffff:203.0.113.9"), addr("203.0.113.9"));
    }

    #[test]
    fn embedded_ipv4_is_judged_by_the_address_inside() {
        for (form, inside) in [
            ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
            ("2002:a9fe:a9fe::1", "169.254.169.254"),
            ("2001:0:4136:e378:8000:63bf:5601:5601", "169.254.169.254"),
            ("::169.254.169.254", "169.254.169.254"),
            ("::ffff:169.254.169.254", "169.254.169.254"),
        ] {
            assert_eq!(addr(form).canonical(), addr(inside), "{form}");
        }
        for own in ["2001:db8::1", "::1", "::", "64:ff9b:1::1", "fe80::1"] {
            assert_eq!(addr(own).canonical(), addr(own), "{own}");
        }
    }

    #[test]
    fn what_goes_to_many_hosts_is_in_networks_of_groups_only() {
        for (s, shortest) in [
            ("169.254.169.254", 0),
            ("fe80::1", 0),
            ("224.0.0.1", 100),
            ("239.255.255.255", 100),
            ("255.255.255.255", 128),
            ("ff02::1", 8),
            ("ffff::1", 8),
            ("223.255.255.255", 0),
            ("240.0.0.1", 0),
            ("255.255.255.254", 0),
            ("10.0.0.255", 0),
            ("e000::1", 0),
        ] {
            assert_eq!(addr(s).shortest_network(), shortest, "{s}");
        }
    }

    #[test]
    fn loopback_is_what_the_kernel_dials_as_loopback() {
        for s in [
            "127.0.0.1",
            "127.255.0.9",
            "0.0.0.0",
            "::",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(addr(s).is_loopback(), "{s}");
        }
        for s in ["128.0.0.1", "::2", "2001:db8::1", "64:ff9b::7f00:1"] {
            assert!(!addr(s).is_loopback(), "{s}");
        }
    }
}
