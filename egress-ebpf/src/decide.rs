//! The decision about a destination: one function for connect, datagrams and the egress backstop, over the
//! tables that the caller passes.

use crate::abi::{DNS_PORT, Policy, action, policy_flag, proto};
use crate::addr::{Addr, ITSELF};
use crate::ids::TableId;
use crate::verdict::{Reason, Verdict};

/// The tables that a decision reads: BPF maps in the kernel, memory on the host.
pub trait Tables {
    /// The [`action`] of the table's entry for a destination: the entry of the address on the port, otherwise
    /// the narrowest network on the port, otherwise the narrowest network on any port. Skips networks shorter
    /// than `shortest` (of 128 bits). `to` has the canonical address.
    fn find(&self, table: TableId, shortest: u32, to: &Destination) -> Option<u32>;
}

/// The agent's listeners in the flow's network namespace. Called only if the verdict depends on it.
pub trait Listeners {
    /// The proxy's port; `None` if it does not listen there.
    fn proxy(&self) -> Option<u16>;
    /// Whether the DNS server listens there for this protocol.
    fn has_dns(&self, proto: u8) -> bool;
    /// Whether this is a port of the DNS server for datagrams.
    fn is_dns(&self, port: u16) -> bool;
}

/// A proxy without a DNS server.
impl<F: Fn() -> Option<u16>> Listeners for F {
    #[inline(always)]
    fn proxy(&self) -> Option<u16> {
        self()
    }

    #[inline(always)]
    fn has_dns(&self, _: u8) -> bool {
        false
    }

    #[inline(always)]
    fn is_dns(&self, _: u16) -> bool {
        false
    }
}

/// The destination of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The address as dialled, or as in the packet.
    pub addr: Addr,
    /// Host byte order.
    pub port: u16,
    /// IANA protocol number.
    pub proto: u8,
}

/// A shortest length that excludes every network.
pub const NO_NETWORK: u32 = ITSELF + 1;

/// Judges a destination under a policy.
#[inline(always)]
pub fn decide<T: Tables>(
    tables: &T,
    policy: &Policy,
    to: &Destination,
    listeners: impl Listeners,
) -> Verdict {
    decide_for(tables, policy, to, 0, listeners)
}

/// As [`decide`], if a network must have at least the length `shortest` to list the destination. The address
/// alone does not show that: only the route shows that an address is a link's broadcast address.
#[inline(always)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers pass a closure as it is"
)]
pub fn decide_for<T: Tables>(
    tables: &T,
    policy: &Policy,
    to: &Destination,
    shortest: u32,
    listeners: impl Listeners,
) -> Verdict {
    let any = policy.flags & policy_flag::ALLOW_ANY != 0;
    if to.proto != proto::TCP && to.proto != proto::UDP {
        return if any {
            Verdict::Allow
        } else {
            Verdict::Deny(Reason::Protocol)
        };
    }
    let intercepts = policy.flags & policy_flag::DNS != 0;
    // Before loopback: a resolver on the node's loopback is a DNS server like any other.
    if intercepts && to.port == DNS_PORT {
        return if listeners.has_dns(to.proto) {
            Verdict::Dns
        } else {
            Verdict::Deny(Reason::NoDns)
        };
    }
    // Checks the address as dialled: `2002:7f00:1::` contains 127.0.0.1 and is routed to the outside.
    if to.addr.is_loopback() {
        // The proxy takes streams only, and the DNS server's own ports datagrams only.
        let agents = if to.proto == proto::TCP {
            listeners.proxy() == Some(to.port)
        } else {
            intercepts && listeners.is_dns(to.port)
        };
        return if agents {
            Verdict::Deny(Reason::ProxyPort)
        } else {
            Verdict::Allow
        };
    }
    let addr = to.addr.canonical();
    if addr.is_loopback() {
        return Verdict::Deny(Reason::NotListed);
    }
    let shortest = if policy.flags & policy_flag::HAS_PREFIXES == 0 {
        NO_NETWORK
    } else {
        addr.shortest_network().max(shortest)
    };
    match tables.find(policy.table, shortest, &Destination { addr, ..*to }) {
        Some(action::ALLOW) => Verdict::Allow,
        Some(action::PROXY) => by_proxy(to, &listeners),
        None if any => Verdict::Allow,
        None if policy.flags & policy_flag::PROOF != 0 => by_proxy(to, &listeners),
        _ => Verdict::Deny(Reason::NotListed),
    }
}

#[inline(always)]
fn by_proxy(to: &Destination, listeners: &impl Listeners) -> Verdict {
    if to.proto == proto::TCP && listeners.proxy().is_some() {
        Verdict::Proxy
    } else {
        Verdict::Deny(Reason::NoProxy)
    }
}

#[cfg(test)]
mod tests {
    use super::{Destination, Listeners, decide, decide_for};
    use crate::abi::{Policy, action, policy_flag, proto};
    use crate::addr::Addr;
    use crate::ids::{Generation, TableId};
    use crate::model::Model;
    use crate::table::{Entry, Key};
    use crate::verdict::{Reason, Verdict};
    use core::net::IpAddr;

    fn ip(s: &str) -> Addr {
        s.parse::<IpAddr>().unwrap().into()
    }

    fn model() -> Model {
        let mut m = Model::default();
        for (addr, port, p, act) in [
            ("203.0.113.10", 80, proto::TCP, action::PROXY),
            ("2001:db8::10", 443, proto::TCP, action::PROXY),
            ("203.0.113.20", 5432, proto::TCP, action::ALLOW),
            ("203.0.113.53", 53, proto::UDP, action::ALLOW),
            ("203.0.113.54", 53, proto::UDP, action::PROXY),
            ("203.0.113.99", 1, proto::TCP, 77),
        ] {
            let key = Key::new(ip(addr), port, p, 128);
            m.put(TableId(7), Entry { key, action: act });
        }
        for (bits, addr, port, act) in [
            (96 + 24, "198.51.100.0", 9000, action::ALLOW),
            (96 + 8, "10.0.0.0", 0, action::ALLOW),
            (96 + 16, "10.1.0.0", 0, action::PROXY),
        ] {
            let key = Key::new(ip(addr), port, proto::TCP, bits);
            m.put(TableId(7), Entry { key, action: act });
        }
        m
    }

    const LISTED: Policy = Policy {
        table: TableId(7),
        generation: Generation(1),
        flags: policy_flag::HAS_PREFIXES,
        errno: 0,
    };

    fn judge(policy: &Policy, addr: &str, port: u16, p: u8, proxy: Option<u16>) -> Verdict {
        decide(
            &model(),
            policy,
            &Destination {
                addr: ip(addr),
                port,
                proto: p,
            },
            || proxy,
        )
    }

    #[test]
    fn every_destination_gets_the_verdict_of_its_entry() {
        use Verdict::{Allow, Deny, Proxy};
        let proxy = Some(15001);
        for (addr, port, p, want) in [
            ("203.0.113.10", 80, proto::TCP, Proxy),
            ("::ffff:203.0.113.10", 80, proto::TCP, Proxy),
            ("64:ff9b::203.0.113.10", 80, proto::TCP, Proxy),
            ("203.0.113.10", 81, proto::TCP, Deny(Reason::NotListed)),
            ("203.0.113.10", 80, proto::UDP, Deny(Reason::NotListed)),
            ("2001:db8::10", 443, proto::TCP, Proxy),
            ("203.0.113.20", 5432, proto::TCP, Allow),
            ("203.0.113.53", 53, proto::UDP, Allow),
            ("203.0.113.54", 53, proto::UDP, Deny(Reason::NoProxy)),
            ("198.51.100.7", 9000, proto::TCP, Allow),
            ("198.51.101.7", 9000, proto::TCP, Deny(Reason::NotListed)),
            ("10.9.9.9", 1234, proto::TCP, Allow),
            ("10.1.9.9", 1234, proto::TCP, Proxy),
            ("10.9.9.9", 1234, proto::ICMP, Deny(Reason::Protocol)),
            ("2001:db8::99", 443, proto::TCP, Deny(Reason::NotListed)),
            ("203.0.113.99", 1, proto::TCP, Deny(Reason::NotListed)),
            ("127.0.0.1", 8080, proto::TCP, Allow),
            ("0.0.0.0", 8080, proto::TCP, Allow),
            ("::1", 53, proto::UDP, Allow),
            ("127.0.0.9", 15001, proto::TCP, Deny(Reason::ProxyPort)),
            (
                "::ffff:127.0.0.1",
                15001,
                proto::TCP,
                Deny(Reason::ProxyPort),
            ),
            ("::1", 15001, proto::UDP, Allow),
        ] {
            assert_eq!(
                judge(&LISTED, addr, port, p, proxy),
                want,
                "{addr}:{port}/{p}"
            );
        }
    }

    #[test]
    fn a_network_of_hosts_lists_no_group_and_no_broadcast_address() {
        let mut m = Model::default();
        for (bits, addr) in [
            (96, "0.0.0.0"),
            (97, "128.0.0.0"),
            (99, "224.0.0.0"),
            (1, "8000::"),
            (7, "fe00::"),
            (100 + 4, "239.0.0.0"),
            (16, "ff05::"),
            (96 + 24, "198.51.100.0"),
            (128, "203.0.113.255"),
        ] {
            let key = Key::new(ip(addr), 0, proto::UDP, bits);
            let action = action::ALLOW;
            m.put(TableId(7), Entry { key, action });
        }
        let judged = |addr: &str, shortest| {
            let to = Destination {
                addr: ip(addr),
                port: 9,
                proto: proto::UDP,
            };
            decide_for(&m, &LISTED, &to, shortest, || None) == Verdict::Allow
        };
        for listed in ["198.51.100.255", "239.1.2.3", "ff05::1", "e000::1"] {
            assert!(judged(listed, 0), "{listed}");
        }
        for not in ["224.0.0.1", "255.255.255.255", "ff02::1", "ffff::1"] {
            assert!(!judged(not, 0), "{not}");
        }
        // As the route has it: a broadcast address is listed itself or not at all.
        assert!(!judged("198.51.100.255", 128));
        assert!(judged("203.0.113.255", 128));
    }

    #[test]
    fn an_address_that_holds_loopback_is_not_loopback() {
        let any = Policy {
            flags: policy_flag::ALLOW_ANY,
            ..LISTED
        };
        for addr in [
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2002::1",
            "2001:0:4136:e378:8000:63bf:80ff:fffe",
            "::127.0.0.1",
        ] {
            for policy in [&LISTED, &any] {
                let verdict = judge(policy, addr, 8080, proto::TCP, Some(15001));
                assert_eq!(verdict, Verdict::Deny(Reason::NotListed), "{addr}");
            }
        }
    }

    #[test]
    fn a_flow_for_the_proxy_is_denied_where_there_is_none() {
        let verdict = judge(&LISTED, "203.0.113.10", 80, proto::TCP, None);
        assert_eq!(verdict, Verdict::Deny(Reason::NoProxy));
    }

    /// The agent's listeners in a namespace: the proxy at 15001, the DNS server at 15053.
    struct Both(bool);

    impl Listeners for Both {
        fn proxy(&self) -> Option<u16> {
            self.0.then_some(15001)
        }

        fn has_dns(&self, _: u8) -> bool {
            self.0
        }

        fn is_dns(&self, port: u16) -> bool {
            self.0 && port == 15053
        }
    }

    #[test]
    fn every_query_goes_to_the_agents_dns_server_whatever_the_tables_list() {
        for flags in [0, policy_flag::ALLOW_ANY, policy_flag::AUDIT] {
            let policy = Policy {
                flags: flags | policy_flag::DNS | LISTED.flags,
                ..LISTED
            };
            for (addr, proto) in [
                ("203.0.113.53", proto::UDP),
                ("203.0.113.54", proto::TCP),
                ("192.0.2.1", proto::UDP),
                ("127.0.0.53", proto::UDP),
                ("::1", proto::TCP),
                ("2001:db8::53", proto::UDP),
            ] {
                let to = Destination {
                    addr: ip(addr),
                    port: 53,
                    proto,
                };
                assert_eq!(decide(&model(), &policy, &to, Both(true)), Verdict::Dns);
                let none = decide(&model(), &policy, &to, Both(false));
                assert_eq!(none, Verdict::Deny(Reason::NoDns), "{addr}");
            }
        }
        let to = |port, proto| Destination {
            addr: ip("127.0.0.1"),
            port,
            proto,
        };
        let dns = Policy {
            flags: policy_flag::DNS | LISTED.flags,
            ..LISTED
        };
        let judged = |to| decide(&model(), &dns, &to, Both(true));
        let own = Verdict::Deny(Reason::ProxyPort);
        assert_eq!(judged(to(15053, proto::UDP)), own);
        assert_eq!(judged(to(15053, proto::TCP)), Verdict::Allow);
    }

    #[test]
    fn an_empty_policy_denies_everything_but_loopback() {
        let empty = Policy::default();
        for addr in ["203.0.113.10", "2001:db8::10", "10.9.9.9"] {
            let verdict = judge(&empty, addr, 80, proto::TCP, Some(1));
            assert_eq!(verdict, Verdict::Deny(Reason::NotListed), "{addr}");
        }
    }

    #[test]
    fn allow_any_still_sends_listed_flows_to_the_proxy() {
        let any = Policy {
            flags: LISTED.flags | policy_flag::ALLOW_ANY,
            ..LISTED
        };
        assert_eq!(
            judge(&any, "192.0.2.1", 1, proto::TCP, Some(1)),
            Verdict::Allow
        );
        assert_eq!(
            judge(&any, "203.0.113.10", 80, proto::TCP, Some(1)),
            Verdict::Proxy
        );
        assert_eq!(judge(&any, "192.0.2.1", 1, 132, Some(1)), Verdict::Allow);
    }
}
