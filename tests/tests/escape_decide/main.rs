//! The programs as functions, by `BPF_PROG_TEST_RUN`: what the kernel decides on a packet is what
//! the host's `decide()` decides, and the egress program denies and records what it must.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod bytes;
mod jumbo;
mod kernel;
mod random;

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{Array, PerCpuArray, RingBuf};
use bytes::Bytes;
use egress_agent::kernel::Tables;
use egress_core::policy::diff::TableOp;
use egress_ebpf::abi::{
    DEFAULT_POLICY, DenyEvent, Policy, ProxyPort, action, counter, policy_flag,
};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::decide;
use egress_ebpf::ids::{Generation, NetnsCookie, TableId};
use egress_ebpf::model::{Model, number};
use egress_ebpf::packet::destination;
use egress_ebpf::table::{Entry, Key};
use egress_ebpf::verdict::{Hook, Reason, Verdict};
use kernel::{loaded, run};
use random::Random;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd as _;

const TABLE: TableId = TableId(7);
const PROXY_PORT: u16 = 15001;
/// The network namespace that the probe program takes packets to be of.
const NETNS: NetnsCookie = NetnsCookie(1);

/// Room for networks.
const NETWORKS: u32 = 1 << 16;

/// The tables of a loaded object, to write.
fn tables_of(ebpf: &mut Ebpf) -> Tables {
    let map = |name: &str| ebpf.take_map(name).context("no such map");
    Tables::of(map, NETWORKS).unwrap()
}

/// One change of both sides.
fn change(tables: &mut Tables, model: &mut Model, ops: &[TableOp]) {
    assert_eq!(tables.apply(ops).unwrap(), 0);
    for op in ops {
        match *op {
            TableOp::Put(table, entry) => model.put(table, entry),
            TableOp::Delete(table, key) => drop(model.delete(table, key)),
            TableOp::SetPolicy(..) | TableOp::DeletePolicy(_) | TableOp::DropTable(_) => {}
        }
    }
}

fn exact(random: &mut Random) -> TableOp {
    let table = random.pick(&[TABLE, TABLE, TableId(8)]);
    let (port, proto) = (random.port().max(1), random.pick(&[6, 17]));
    let addr = Addr::from(random.ip()).canonical();
    let entry = Entry {
        key: Key::new(addr, port, proto, 128),
        action: random.pick(&[action::ALLOW, action::PROXY, action::PROXY, 77]),
    };
    TableOp::Put(table, entry)
}

fn network(random: &mut Random) -> TableOp {
    let addr = Addr::from(random.ip()).canonical();
    let bits: u8 = if addr.is_v4() {
        96 + random.pick(&[0, 5, 8, 12, 16, 20, 22, 24, 28, 30, 31, 32])
    } else {
        random.pick(&[7, 16, 23, 32, 40, 48, 63, 64, 65, 96, 112, 126, 127, 128])
    };
    // All addresses, of both families too, on one port only: else there would be little to deny.
    let bits = random.pick(&[0, bits, bits, bits, bits, bits]);
    let port = match bits {
        0 | 96 => 9000,
        // An address on a port is not a network.
        128 => 0,
        _ => random.pick(&[0, 0, 80, 9000]),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    let network = mapped((number(addr) & mask).to_be_bytes());
    let proto = random.pick(&[6, 17]);
    let entry = Entry {
        key: Key::new(network, port, proto, bits),
        action: random.pick(&[action::ALLOW, action::PROXY]),
    };
    TableOp::Put(TABLE, entry)
}

fn mapped(bytes: [u8; 16]) -> Addr {
    IpAddr::from(bytes).into()
}

/// What takes an entry out again.
fn deletion(op: &TableOp) -> TableOp {
    match *op {
        TableOp::Put(table, entry) => TableOp::Delete(table, entry.key),
        _ => panic!("no insertion: {op:?}"),
    }
}

/// Fills both sides alike: some of it at once, some into the table as it stands, some of which is
/// taken out again.
fn fill(random: &mut Random, tables: &mut Tables, model: &mut Model) {
    let first: Vec<_> = (0..200).map(|_| exact(random)).collect();
    change(tables, model, &first);
    let nets: Vec<_> = (0..60).map(|_| network(random)).collect();
    change(tables, model, &nets);
    for _ in 0..30 {
        let some: Vec<_> = (0..20).map(|_| exact(random)).collect();
        change(tables, model, &some);
    }
    let gone = first.iter().chain(&nets).step_by(3);
    let gone: Vec<_> = gone.map(deletion).collect();
    change(tables, model, &gone);
    // Some of what was taken out comes back, with another action.
    let back = first.iter().step_by(9).map(|op| match *op {
        TableOp::Put(table, entry) => TableOp::Put(
            table,
            Entry {
                action: action::ALLOW,
                ..entry
            },
        ),
        _ => panic!("no address: {op:?}"),
    });
    let back: Vec<_> = back.collect();
    change(tables, model, &back);
}

#[test]
fn kernel_and_host_agree_on_100_000_random_packets() {
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let (mut ebpf, program) = loaded("decide_probe");
    let mut model = Model::default();
    let mut tables = tables_of(&mut ebpf);
    fill(&mut random, &mut tables, &mut model);
    let view = tables.view();

    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    let mut large: BTreeMap<u32, usize> = BTreeMap::new();
    for round in 0..100 {
        let policy = Policy {
            table: TABLE,
            generation: Generation(u32::from(round != 50)),
            flags: random.pick(&[
                0,
                policy_flag::HAS_PREFIXES,
                policy_flag::HAS_PREFIXES,
                policy_flag::ALLOW_ANY,
                policy_flag::HAS_PREFIXES | policy_flag::ALLOW_ANY,
            ]),
            errno: 0,
        };
        let some = if round % 10 == 9 {
            // The tables keep changing.
            let op = exact(&mut random);
            vec![op, deletion(&op), network(&mut random)]
        } else {
            Vec::new()
        };
        change(&mut tables, &mut model, &some);
        let set = TableOp::SetPolicy(DEFAULT_POLICY, policy);
        change(&mut tables, &mut model, &[set]);
        let proxy = (round % 4 != 0).then_some(PROXY_PORT);
        let ports = proxy.map(|port| ProxyPort {
            port,
            ..ProxyPort::default()
        });
        tables.set_proxy(NETNS, ports).unwrap();
        for _ in 0..1000 {
            let packet = random.packet();
            let want = match destination(&Bytes(&packet)) {
                Ok(_) if policy.generation == Generation::NEVER => Verdict::Deny(Reason::State),
                Ok(to) => {
                    let want = decide(&model, &policy, &to, || proxy);
                    let outside = decide(&view, &policy, &to, || proxy);
                    assert_eq!(outside, want, "{policy:?}, {to:?}");
                    want
                }
                Err(reason) => Verdict::Deny(reason),
            };
            let got = run(program.as_fd(), &packet);
            assert_eq!(got, want.number(), "{want:?}, {policy:?}, {packet:02x?}");
            *seen.entry(got).or_default() += 1;
            if jumbo::is_own(&packet) {
                *large.entry(got).or_default() += 1;
            }
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
    for verdict in [
        Verdict::Allow,
        Verdict::Proxy,
        Verdict::Deny(Reason::NotListed),
    ] {
        let count = large.get(&verdict.number()).copied().unwrap_or_default();
        assert!(count > 20, "{verdict:?}: {count} of {large:?}, over 64 KiB");
    }
    eprintln!("verdicts: {seen:?}; over 64 KiB: {large:?}");
}

/// Lists addresses, each for one protocol, at port 53.
fn list(ebpf: &mut Ebpf, listed: &[(&str, u8)]) {
    let policy = Policy {
        table: TABLE,
        generation: Generation(1),
        ..Policy::default()
    };
    let mut ops = vec![TableOp::SetPolicy(DEFAULT_POLICY, policy)];
    for (ip, proto) in listed {
        let addr = ip.parse::<IpAddr>().unwrap().into();
        let entry = Entry {
            key: Key::new(addr, 53, *proto, 128),
            action: action::ALLOW,
        };
        ops.push(TableOp::Put(TABLE, entry));
    }
    let mut tables = tables_of(ebpf);
    assert_eq!(tables.apply(&ops).unwrap(), 0);
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
    list(&mut ebpf, &[("198.51.100.53", 17), ("2001:db8::53", 17)]);
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
    let mut policies: Array<_, u64> = ebpf.take_map("POLICIES").unwrap().try_into().unwrap();
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
            generation: Generation(1),
            flags,
            errno: 0,
        };
        policies.set(0, policy.word(), 0).unwrap();
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
            assert_eq!((event.audit, event.policy), (audit, DEFAULT_POLICY));
        }
    }
}
