//! Which addresses a public name may have.
//!
//! Owns the list of ranges that no answer for a public name should hold: rebinding a listed name
//! to one of them would open the inside of the network. Does not apply to addresses that a rule
//! spells out.

use egress_ebpf::addr::Addr;
use std::net::IpAddr;

/// Ranges of the IANA special-purpose registries (RFC 6890 and its updates) that lead inside, and
/// Azure's platform address, which lies in public space. IPv4 in mapped form.
const NOT_PUBLIC: &[([u16; 8], u32)] = &[
    v4(0, 0, 8),                            // "this network", RFC 791
    v4(0x0a00, 0, 8),                       // private, RFC 1918
    v4(0x6440, 0, 10),                      // shared address space, RFC 6598
    v4(0x7f00, 0, 8),                       // loopback
    v4(0xa9fe, 0, 16),                      // link-local and most metadata services, RFC 3927
    v4(0xac10, 0, 12),                      // private, RFC 1918
    v4(0xc000, 0, 24),                      // IETF protocol assignments, RFC 6890
    v4(0xc0a8, 0, 16),                      // private, RFC 1918
    v4(0xa83f, 0x8110, 32),                 // Azure's 168.63.129.16
    v4(0xe000, 0, 4),                       // multicast
    v4(0xf000, 0, 4),                       // reserved, broadcast
    ([0; 8], 127),                          // unspecified and loopback
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),     // unique local, RFC 4193
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),    // link-local
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),    // site-local, RFC 3879
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),     // multicast
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), // local NAT64, RFC 8215
];

const fn v4(high: u16, low: u16, bits: u32) -> ([u16; 8], u32) {
    ([0, 0, 0, 0, 0, 0xffff, high, low], 96 + bits)
}

/// Whether an address may stand in an answer for a public name. Forms that embed an IPv4 address
/// are judged by it.
pub fn is_public(ip: IpAddr) -> bool {
    let value = number(Addr::from(ip).canonical());
    !NOT_PUBLIC.iter().any(|(words, bits)| {
        let net = words.iter().fold(0_u128, |n, w| n << 16 | u128::from(*w));
        (value ^ net) >> (128 - bits) == 0
    })
}

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

#[cfg(test)]
mod tests {
    use super::is_public;

    #[test]
    fn addresses_that_lead_inside_are_not_public() {
        for s in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "168.63.129.16",
            "224.0.0.1",
            "240.240.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:0a00:0001::1",
            "64:ff9b:1::1",
        ] {
            assert!(!is_public(s.parse().unwrap()), "{s}");
        }
    }

    #[test]
    fn neighbours_of_those_ranges_are_public() {
        for s in [
            "1.1.1.1",
            "11.0.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.169.0.1",
            "168.63.129.17",
            "223.0.0.1",
            "203.0.113.1",
            "2001:db8::1",
            "2600::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(s.parse().unwrap()), "{s}");
        }
    }
}
