//! Addresses in the form in which they are judged, and the one list of special ones.
//!
//! A rule for any address does not include the addresses of the machine itself and of the platform that runs it, and a
//! DNS answer for a public name should contain none of them. A rule can only list such an address explicitly.

use egress_ebpf::addr::Addr;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the addresses of a special range lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// Into the machine itself or to the platform that runs it. Metadata services hand out
    /// credentials to any client, whatever Host the request names.
    Inside,
    /// To another network that is not public.
    Private,
}

/// Ranges of the IANA special-purpose registries (RFC 6890 and its updates) that are not public, and the addresses of
/// platforms. If two ranges contain an address, the first counts.
const SPECIAL: &[(IpNet, Leads)] = &[
    // "This network" (RFC 791). Linux treats its first address as loopback.
    (v4(Ipv4Addr::UNSPECIFIED, 8), Leads::Inside),
    (v4(Ipv4Addr::new(127, 0, 0, 0), 8), Leads::Inside),
    // Link-local and most metadata services, RFC 3927.
    (v4(Ipv4Addr::new(169, 254, 0, 0), 16), Leads::Inside),
    // Multicast and limited broadcast.
    (v4(Ipv4Addr::new(224, 0, 0, 0), 4), Leads::Inside),
    (v4(Ipv4Addr::BROADCAST, 32), Leads::Inside),
    // Metadata: Alibaba, Oracle, Azure.
    (v4(Ipv4Addr::new(100, 100, 100, 200), 32), Leads::Inside),
    (v4(Ipv4Addr::new(192, 0, 0, 192), 32), Leads::Inside),
    (v4(Ipv4Addr::new(168, 63, 129, 16), 32), Leads::Inside),
    // RFC 1918.
    (v4(Ipv4Addr::new(10, 0, 0, 0), 8), Leads::Private),
    (v4(Ipv4Addr::new(172, 16, 0, 0), 12), Leads::Private),
    (v4(Ipv4Addr::new(192, 168, 0, 0), 16), Leads::Private),
    // Shared address space, RFC 6598.
    (v4(Ipv4Addr::new(100, 64, 0, 0), 10), Leads::Private),
    // IETF protocol assignments, RFC 6890.
    (v4(Ipv4Addr::new(192, 0, 0, 0), 24), Leads::Private),
    // Reserved.
    (v4(Ipv4Addr::new(240, 0, 0, 0), 4), Leads::Private),
    // Unspecified and loopback.
    (v6(Ipv6Addr::UNSPECIFIED, 127), Leads::Inside),
    // Link-local and multicast.
    (
        v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        Leads::Inside,
    ),
    (
        v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
        Leads::Inside,
    ),
    // Metadata: AWS, Google.
    (
        v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
        Leads::Inside,
    ),
    (
        v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
        Leads::Inside,
    ),
    // Unique local, RFC 4193.
    (
        v6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
        Leads::Private,
    ),
    // Site-local, RFC 3879.
    (
        v6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
        Leads::Private,
    ),
    // Local NAT64, RFC 8215.
    (
        v6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
        Leads::Private,
    ),
];

const fn v4(addr: Ipv4Addr, bits: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(addr), bits)
}

const fn v6(addr: Ipv6Addr, bits: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(addr), bits)
}

/// Where an address leads, if it is special. Forms that embed an IPv4 address are judged by that address.
fn special(addr: IpAddr) -> Option<Leads> {
    let addr = canonical(addr);
    let range = SPECIAL.iter().find(|(net, _)| net.contains(&addr));
    range.map(|(_, leads)| *leads)
}

/// Whether an address leads into the machine itself or to the platform that runs it.
pub(super) fn leads_inside(addr: IpAddr) -> bool {
    special(addr) == Some(Leads::Inside)
}

/// Whether an address may be in an answer for a public name: if a listed name could resolve to any other address, it
/// would open the inside of the network.
pub fn is_public(addr: IpAddr) -> bool {
    special(addr).is_none()
}

/// The network that a setting names to accept an address that is not public: its private range, or the address alone
/// if it leads into the machine or to its platform.
pub fn network_to_accept(addr: IpAddr) -> IpNet {
    let addr = canonical(addr);
    let range = SPECIAL.iter().find(|(net, _)| net.contains(&addr));
    match range {
        Some((net, Leads::Private)) => *net,
        Some((_, Leads::Inside)) | None => addr.into(),
    }
}

/// The form in which the kernel judges an address.
pub(super) fn canonical(addr: IpAddr) -> IpAddr {
    Addr::from(addr).canonical().into()
}

/// Whether an address is in one of the networks; no network means every address.
pub(super) fn within(nets: &[IpNet], addr: IpAddr) -> bool {
    let addr = canonical(addr);
    nets.is_empty() || nets.iter().any(|net| net.contains(&addr))
}

#[cfg(test)]
mod tests {
    use super::{is_public, leads_inside};

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
