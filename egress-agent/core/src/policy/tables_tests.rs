//! Entries and the union of claims.

use super::{Target, Transport};
use egress_ebpf::addr::Addr;
use std::net::IpAddr;

fn addr(s: &str) -> Addr {
    s.parse::<IpAddr>().unwrap().into()
}

fn network(s: &str) -> Vec<Target> {
    Target::network(s.parse().unwrap(), 443, Transport::Tcp)
}

fn covered(net: &str, ip: &str) -> bool {
    network(net)
        .iter()
        .any(|t| t.covers(addr(ip), 443, Transport::Tcp))
}

#[test]
fn a_network_covers_its_addresses_and_no_others() {
    for (net, inside, outside) in [
        ("10.1.2.3/8", "10.255.0.1", "11.0.0.1"),
        ("0.0.0.0/0", "255.1.2.3", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("::/0", "2001:db8::1", "203.0.113.1"),
        ("::/0", "ffff::1", "0.0.0.1"),
        ("::/64", "::1:0:1:1", "203.0.113.1"),
        ("::ffff:10.0.0.0/104", "10.1.1.1", "11.1.1.1"),
        ("203.0.113.1/32", "203.0.113.1", "203.0.113.2"),
        ("2001:db8::1/128", "2001:db8::1", "2001:db8::2"),
    ] {
        assert!(covered(net, inside), "{net} covers {inside}");
        assert!(!covered(net, outside), "{net} does not cover {outside}");
    }
}

#[test]
fn a_network_of_one_address_is_an_exact_entry() {
    assert!(network("203.0.113.1/32")[0].is_exact());
    assert!(network("2001:db8::1/128")[0].is_exact());
    assert!(!network("203.0.113.0/31")[0].is_exact());
    assert_eq!(
        network("64:ff9b::203.0.113.1/128"),
        network("203.0.113.1/32"),
        "canonical"
    );
}

#[test]
fn ipv6_networks_do_not_reach_the_mapped_form_and_have_no_gap() {
    assert_eq!(network("::/0").len(), 2, "in halves");
    for net in ["::/0", "::/1", "::/64", "::/80"] {
        assert!(!covered(net, "203.0.113.1"), "{net}");
        assert!(covered(net, "::1:0:1"), "{net}");
    }
    assert!(covered("::ffff:203.0.113.0/120", "203.0.113.1"));
    let all = network("::/0");
    for ip in ["::fffe:0:0", "::1:0:0:0", "4000::", "8000::1", "64:ff9c::1"] {
        let hits = all
            .iter()
            .filter(|t| t.covers(addr(ip), 443, Transport::Tcp))
            .count();
        assert_eq!(hits, 1, "{ip}");
    }
}

#[test]
fn an_entry_for_any_address_covers_both_families() {
    let any = Target::any(80, Transport::Tcp);
    for ip in ["203.0.113.1", "2001:db8::1"] {
        assert!(any.covers(addr(ip), 80, Transport::Tcp));
        assert!(!any.covers(addr(ip), 81, Transport::Tcp));
        assert!(!any.covers(addr(ip), 80, Transport::Udp));
    }
    assert_eq!(any.key().bits(), 0);
}

#[test]
fn the_keys_are_those_of_the_kernel() {
    let target = Target::address("203.0.113.1".parse::<IpAddr>().unwrap(), 53, Transport::Udp);
    let key = target.key();
    assert_eq!((key.port(), key.proto(), key.bits()), (53, 17, 128));
    assert_eq!(key.addr(), addr("203.0.113.1"));
    let key = network("10.0.0.0/8")[0].key();
    assert_eq!(
        (key.bits(), key.addr(), key.proto()),
        (104, addr("10.0.0.0"), 6)
    );
}
