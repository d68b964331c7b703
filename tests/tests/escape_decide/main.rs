//! The programs as functions, by `BPF_PROG_TEST_RUN`: what the kernel decides on a packet is what
//! the host's `decide()` decides, and the egress program refuses and records what it must.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod kernel;
mod model;
mod random;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, PerCpuArray, RingBuf};
use egress_ebpf::abi::{
    DenyEvent, PREFIX_FIXED_BITS, Policy, PrefixData, ProxyPort, Rule, RuleKey, action, counter,
    policy_flag,
};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::decide;
use egress_ebpf::packet::destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};
use kernel::{loaded, run};
use model::{Bytes, Model, number};
use random::Random;

const TABLE: u32 = 7;
const PROXY_PORT: u16 = 15001;
/// The network namespace that the probe program takes packets to be of.
const NETNS: u64 = 1;

/// Fills both sides alike.
fn fill(random: &mut Random, ebpf: &mut Ebpf, model: &mut Model) {
    let mut rules: HashMap<_, RuleKey, Rule> = ebpf.take_map("RULES").unwrap().try_into().unwrap();
    let mut prefixes: LpmTrie<_, PrefixData, Rule> =
        ebpf.take_map("PREFIXES").unwrap().try_into().unwrap();
    for _ in 0..600 {
        let key = RuleKey {
            table: random.pick(&[TABLE, TABLE, 8]),
            port: random.port(),
            proto: random.pick(&[6, 17]),
            reserved: 0,
            addr: Addr::from(random.ip()).canonical(),
        };
        let rule = Rule {
            action: random.pick(&[action::ALLOW, action::PROXY, action::PROXY, 77]),
        };
        rules.insert(key, rule, 0).unwrap();
        model.exact.insert(key, rule);
    }
    for _ in 0..60 {
        let bits = random.pick(&[8, 32, 48, 96 + 8, 96 + 16, 96 + 24, 96 + 31]);
        let addr = number(&Addr::from(random.ip()).canonical()) & (u128::MAX << (128 - bits));
        let data = PrefixData {
            table: TABLE,
            port: random.pick(&[0, 0, 80, 9000]),
            proto: random.pick(&[6, 17]),
            reserved: 0,
            addr: IpAddr::from(addr.to_be_bytes()).into(),
        };
        let rule = Rule {
            action: random.pick(&[action::ALLOW, action::PROXY]),
        };
        prefixes
            .insert(&Key::new(PREFIX_FIXED_BITS + bits, data), rule, 0)
            .unwrap();
        model.prefixes.insert((bits, data), rule);
    }
}

#[test]
fn kernel_and_host_agree_on_100_000_random_packets() {
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let (mut ebpf, program) = loaded("decide_probe");
    let mut model = Model::default();
    fill(&mut random, &mut ebpf, &mut model);
    let mut policies: Array<_, Policy> = ebpf.take_map("POLICIES").unwrap().try_into().unwrap();
    let mut proxies: HashMap<_, u64, ProxyPort> =
        ebpf.take_map("PROXIES").unwrap().try_into().unwrap();

    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    for round in 0..100 {
        let policy = Policy {
            table: TABLE,
            generation: u32::from(round != 50),
            flags: random.pick(&[
                0,
                policy_flag::HAS_PREFIXES,
                policy_flag::HAS_PREFIXES,
                policy_flag::ALLOW_ANY,
                policy_flag::HAS_PREFIXES | policy_flag::ALLOW_ANY,
            ]),
            errno: 0,
        };
        policies.set(0, policy, 0).unwrap();
        let proxy = (round % 4 != 0).then_some(PROXY_PORT);
        let _ = proxies.remove(&NETNS);
        if let Some(port) = proxy {
            let entry = ProxyPort {
                port,
                ..ProxyPort::default()
            };
            proxies.insert(NETNS, entry, 0).unwrap();
        }
        for _ in 0..1000 {
            let packet = random.packet();
            let want = match destination(&Bytes(&packet)) {
                Ok(_) if policy.generation == 0 => Verdict::Deny(Reason::State),
                Ok(to) => decide(&model, &policy, &to, || proxy),
                Err(reason) => Verdict::Deny(reason),
            };
            let got = run(program.as_fd(), &packet);
            assert_eq!(got, want.number(), "{want:?}, {policy:?}, {packet:02x?}");
            *seen.entry(got).or_default() += 1;
        }
    }
    // Agreement on one answer alone would say little.
    for verdict in [
        Verdict::Allow,
        Verdict::Proxy,
        Verdict::Deny(Reason::NotListed),
        Verdict::Deny(Reason::Protocol),
        Verdict::Deny(Reason::Unparsable),
        Verdict::Deny(Reason::NoProxy),
        Verdict::Deny(Reason::ProxyPort),
        Verdict::Deny(Reason::State),
    ] {
        let count = seen.get(&verdict.number()).copied().unwrap_or_default();
        assert!(count > 20, "{verdict:?}: {count} of {seen:?}");
    }
    eprintln!("verdicts: {seen:?}");
}

fn v4(first: u8, fragment: u8, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut p = vec![0; 28];
    (p[0], p[6], p[9]) = (first, fragment, 17);
    p[12..16].copy_from_slice(&from);
    p[16..20].copy_from_slice(&to);
    (p[22], p[23]) = (0, 53);
    p
}

fn v6(next: u8, to: &str) -> Vec<u8> {
    let mut p = vec![0; 48];
    (p[0], p[6]) = (0x60, next);
    p[24..40].copy_from_slice(&to.parse::<Ipv6Addr>().unwrap().octets());
    (p[42], p[43]) = (0, 53);
    p
}

#[test]
fn every_kind_of_packet_gets_its_verdict() {
    let (mut ebpf, program) = loaded("decide_probe");
    let mut policies: Array<_, Policy> = ebpf.take_map("POLICIES").unwrap().try_into().unwrap();
    let mut rules: HashMap<_, RuleKey, Rule> = ebpf.take_map("RULES").unwrap().try_into().unwrap();
    let policy = Policy {
        table: TABLE,
        generation: 1,
        ..Policy::default()
    };
    policies.set(0, policy, 0).unwrap();
    for ip in ["198.51.100.53", "2001:db8::53"] {
        let key = RuleKey {
            table: TABLE,
            port: 53,
            proto: 17,
            reserved: 0,
            addr: ip.parse::<IpAddr>().unwrap().into(),
        };
        let rule = Rule {
            action: action::ALLOW,
        };
        rules.insert(key, rule, 0).unwrap();
    }
    let deny = Verdict::Deny;
    let (own, listed, other) = ([192, 0, 2, 1], [198, 51, 100, 53], [198, 51, 100, 99]);
    for (what, packet, want) in [
        ("listed", v4(0x45, 0, own, listed), Verdict::Allow),
        (
            "not listed",
            v4(0x45, 0, own, other),
            deny(Reason::NotListed),
        ),
        (
            "do not fragment",
            v4(0x45, 0x40, own, listed),
            Verdict::Allow,
        ),
        (
            "more fragments",
            v4(0x45, 0x20, own, listed),
            deny(Reason::Unparsable),
        ),
        (
            "options",
            v4(0x46, 0, own, listed),
            deny(Reason::Unparsable),
        ),
        (
            "short header",
            v4(0x44, 0, own, listed),
            deny(Reason::Unparsable),
        ),
        (
            "no ports",
            v4(0x45, 0, own, listed)[..22].to_vec(),
            deny(Reason::Unparsable),
        ),
        ("one byte", vec![0x45], deny(Reason::Unparsable)),
        ("no version", vec![0x15; 40], deny(Reason::Unparsable)),
        ("IPv6 listed", v6(17, "2001:db8::53"), Verdict::Allow),
        (
            "IPv6 not listed",
            v6(17, "2001:db8::99"),
            deny(Reason::NotListed),
        ),
        (
            "hop-by-hop",
            v6(0, "2001:db8::53"),
            deny(Reason::Unparsable),
        ),
        ("routing", v6(43, "2001:db8::53"), deny(Reason::Unparsable)),
        ("fragment", v6(44, "2001:db8::53"), deny(Reason::Unparsable)),
        (
            "destination options",
            v6(60, "2001:db8::53"),
            deny(Reason::Unparsable),
        ),
        ("ICMPv6", v6(58, "2001:db8::53"), deny(Reason::Protocol)),
        (
            "IPv6 cut",
            v6(17, "2001:db8::53")[..39].to_vec(),
            deny(Reason::Unparsable),
        ),
        ("loopback", v6(17, "::1"), Verdict::Allow),
    ] {
        assert_eq!(run(program.as_fd(), &packet), want.number(), "{what}");
    }
}

/// The test's packets have a socket that is neither TCP nor UDP, on the loopback device.
#[test]
fn egress_refuses_and_records_by_its_policy() {
    let (mut ebpf, program) = loaded("egress");
    let mut policies: Array<_, Policy> = ebpf.take_map("POLICIES").unwrap().try_into().unwrap();
    let counters: PerCpuArray<_, u64> = ebpf.take_map("COUNTERS").unwrap().try_into().unwrap();
    let mut events: RingBuf<_> = ebpf.take_map("EVENTS").unwrap().try_into().unwrap();
    let count = |index| counters.get(&index, 0).unwrap().iter().sum::<u64>();

    let forged = v4(0x45, 0, [198, 51, 100, 99], [127, 0, 0, 1]);
    let home = v4(0x45, 0, [127, 0, 0, 1], [127, 0, 0, 1]);
    for (flags, packet, want, record) in [
        (0, &home, 1, None),
        (0, &forged, 0, Some((counter::DENIED, 0))),
        (policy_flag::ALLOW_ANY, &forged, 1, None),
        (
            policy_flag::AUDIT,
            &forged,
            1,
            Some((counter::WOULD_DENY, 1)),
        ),
    ] {
        let policy = Policy {
            table: TABLE,
            generation: 1,
            flags,
            errno: 0,
        };
        policies.set(0, policy, 0).unwrap();
        let before = [counter::DENIED, counter::WOULD_DENY].map(&count);
        assert_eq!(run(program.as_fd(), packet), want, "flags {flags}");
        let after = [counter::DENIED, counter::WOULD_DENY].map(&count);
        let counted: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let expected = match record {
            Some((counter::DENIED, _)) => [1, 0],
            Some(_) => [0, 1],
            None => [0, 0],
        };
        assert_eq!(counted, expected, "flags {flags}");
        if let Some((counter::DENIED, audit)) = record {
            let item = events.next().expect("a refusal has its event");
            // SAFETY: the kernel wrote one event, plain integers for which any bytes are valid
            let event = unsafe { item.as_ptr().cast::<DenyEvent>().read_unaligned() };
            assert_eq!(event.reason, Reason::Protocol as u8);
            assert_eq!(event.hook, Hook::Egress as u8);
            assert_eq!((event.audit, event.policy), (audit, 0));
        }
    }
}
