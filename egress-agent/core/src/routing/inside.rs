//! Addresses that a rule for any address does not mean: those that lead into the machine itself or
//! to the platform that runs it. A rule that wants one of them names it.

use super::table::canonical;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services outside of the link-local ranges: they hand out credentials to whoever asks,
/// whatever Host the request names. Alibaba, Oracle, Azure.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// AWS, Google.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Whether an address is one of these. Forms that embed an IPv4 address are judged by it.
pub(super) fn leads_inside(addr: IpAddr) -> bool {
    match canonical(addr) {
        IpAddr::V4(ip) => {
            // "This network" (RFC 791), of which Linux takes the first address for loopback.
            ip.octets()[0] == 0
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || METADATA_V4.contains(&ip)
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || METADATA_V6.contains(&ip)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::leads_inside;

    #[test]
    fn the_machine_itself_and_its_platform_are_inside_and_private_networks_are_not() {
        for ip in [
            "0.0.0.0",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
        ] {
            assert!(leads_inside(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "10.0.0.1",
            "192.168.1.1",
            "169.253.0.1",
            "203.0.113.1",
            "fd00::1",
            "fd00:ec2::253",
            "2001:db8::1",
            "64:ff9b::808:808",
        ] {
            assert!(!leads_inside(ip.parse().unwrap()), "{ip}");
        }
    }
}
