//! Whole tables are replaced while connects run, and tables do not fit.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_agent::kernel::{self, Kernel, Pins, Tables};
use egress_core::policy::diff::{Desired, Planner, TableOp};
use egress_core::policy::tables::{Action, Table, Target, Transport};
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_ebpf::decide::{Destination, NO_NETWORK, Tables as _};
use egress_ebpf::ids::TableId;
use egress_ebpf::table::{Entry, Key};
use egress_tests::Load;
use egress_tests::bpffs::BpfFs;
use egress_tests::cgroup::Cgroup;
use egress_tests::netns::NetNs;
use egress_tests::place::Place;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const ENTRIES: u32 = 100_000;
const WITHIN: Duration = Duration::from_millis(150);
/// The room for networks.
const NETWORKS: u32 = 1 << 16;
const SWAPS: usize = 12;

/// A gate of this process around its own cgroup.
struct Gate {
    workload: Cgroup,
    _agent: Cgroup,
    netns: NetNs,
    kernel: Kernel,
    tables: Tables,
    planner: Planner,
    _pins: BpfFs,
}

impl Gate {
    fn new() -> Self {
        let pins = BpfFs::mount().unwrap();
        let (workload, agent) = (Cgroup::new().unwrap(), Cgroup::new().unwrap());
        let netns = NetNs::new().unwrap();
        netns.ip("route add default dev lo").unwrap();
        let mut kernel = Kernel::load(Pins::mount(pins.path()).unwrap(), NETWORKS).unwrap();
        let tables = kernel.tables().unwrap();
        kernel::attach(&mut kernel, agent.path(), &[workload.path().to_path_buf()]).unwrap();
        Self {
            workload,
            _agent: agent,
            netns,
            kernel,
            tables,
            planner: Planner::default(),
            _pins: pins,
        }
    }

    fn plan(&mut self, table: Table) -> Vec<TableOp> {
        let desired = Desired {
            table,
            ..Desired::default()
        };
        self.planner
            .replace(BTreeMap::from([(DEFAULT_POLICY, desired)]))
    }

    fn place(&self) -> Place<'_> {
        Place {
            cgroup: Some(&self.workload),
            netns: Some(&self.netns),
            resolver: None,
        }
    }
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x1400_0000 + n).into()
}

/// A table with `ENTRIES` single addresses from `first` on.
fn table(first: u32) -> Table {
    (first..first + ENTRIES)
        .map(|n| {
            (
                Target::address(address(n), 443, Transport::Udp),
                Action::Allow,
            )
        })
        .collect()
}

#[test]
fn a_table_of_100_000_is_replaced_in_time_and_no_connect_gets_a_wrong_verdict() {
    let mut gate = Gate::new();
    // Both tables contain the upper half of the first.
    let (one, other) = (table(0), table(ENTRIES / 2));
    let ops = gate.plan(one.clone());
    gate.tables.apply(&ops).unwrap();
    let at = |n: u32, port: u16| format!("{}:{port}", address(n));
    let (first, last) = (at(ENTRIES / 2, 443), at(ENTRIES - 1, 443));
    let (never, port) = (at(3 * ENTRIES, 443), at(ENTRIES - 1, 444));
    let mut counts = None;
    let mut load = Some(
        Load::start(
            &gate.place(),
            &[
                "judge",
                "--listed",
                &first,
                "--listed",
                &last,
                "--unlisted",
                &never,
                "--unlisted",
                &port,
            ],
        )
        .unwrap(),
    );
    // The times until the new table is in force, and until the old entries are removed.
    let (mut times, mut whole) = (Vec::new(), Vec::new());
    for swap in 0..2 * SWAPS {
        if swap == SWAPS {
            // From here on only the times are measured.
            counts = load.take().map(|l: Load| l.stop().unwrap());
        }
        let ops = gate.plan(if swap % 2 == 0 {
            other.clone()
        } else {
            one.clone()
        });
        let switch = ops
            .iter()
            .position(|op| matches!(op, TableOp::SetPolicy(..)));
        let (before, after) = ops.split_at(switch.unwrap() + 1);
        let start = Instant::now();
        gate.tables.fits(&ops).unwrap();
        assert_eq!(gate.tables.apply(before).unwrap(), 0);
        times.push(start.elapsed());
        assert_eq!(gate.tables.apply(after).unwrap(), 0);
        whole.push(start.elapsed());
    }
    let counts = counts.unwrap();
    let (judged, alone) = times.split_at_mut(SWAPS);
    judged.sort();
    alone.sort();
    whole.sort();
    println!("{ENTRIES} entries, in force after (min, median, max):");
    for (when, times) in [("under running connects", &judged), ("alone", &alone)] {
        let at = |n: usize| times[n];
        let (min, median, max) = (at(0), at(SWAPS / 2), at(SWAPS - 1));
        println!("  {when}: {min:.1?}, {median:.1?}, {max:.1?}");
    }
    println!("  old ones gone after min {:.1?}; {counts:?}", whole[0]);
    assert_eq!(
        gate.tables.in_use()[0].used,
        ENTRIES as usize,
        "the old entries are gone"
    );
    assert_eq!(counts["listed.eperm"], 0, "{counts:?}");
    assert_eq!(counts["unlisted.ok"], 0, "{counts:?}");
    assert!(
        counts["listed.ok"] > 10_000 && counts["unlisted.eperm"] > 10_000,
        "{counts:?}"
    );
    // Other tests may use every core meanwhile, so the fastest time counts.
    assert!(alone[0] < WITHIN, "{alone:?}");
}

#[test]
fn rules_that_do_not_fit_are_known_before_the_first_write() {
    let mut gate = Gate::new();
    let limit = gate.tables.in_use()[1].limit as u32;
    let nets = |from: u32, n: u32| -> Table {
        (from..from + n)
            .flat_map(|n| {
                Target::network(
                    format!("{}/31", address(2 * n)).parse().unwrap(),
                    443,
                    Transport::Udp,
                )
            })
            .map(|target| (target, Action::Allow))
            .collect()
    };
    let mark = gate.planner.mark();
    let ops = gate.plan(nets(0, limit + 10));
    gate.planner.go_back(mark);
    let refused = gate.tables.fits(&ops).unwrap_err().to_string();
    assert!(
        refused.contains("networks") && refused.contains(&limit.to_string()),
        "{refused}"
    );
    assert_eq!(gate.tables.in_use()[1].used, 0);
    // More than half of the room is replaced by the same number of other entries, and all fit.
    for round in [2, 1, 0] {
        let ops = gate.plan(nets(round * limit, limit / 2 + 10));
        gate.tables.fits(&ops).unwrap();
        gate.tables.expect(&ops);
        assert_eq!(gate.tables.apply(&ops).unwrap(), 0);
        assert_eq!(gate.tables.in_use()[1].used as u32, limit / 2 + 10);
    }
    let listed = format!("{}:443", address(0));
    let load = Load::start(&gate.place(), &["judge", "--listed", &listed]).unwrap();
    let counts = load.stop().unwrap();
    assert!(
        counts["listed.eperm"] == 0 && counts["listed.ok"] > 0,
        "the old rules are in force: {counts:?}"
    );
    drop(gate.kernel);
}

#[test]
fn a_table_that_is_full_changes_by_as_many_as_leave_it() {
    let mut gate = Gate::new();
    let limit = gate.tables.in_use()[1].limit as u32;
    let nets = |first: u32| -> Table {
        let net = |n: u32| format!("{}/31", address(2 * n)).parse().unwrap();
        let targets =
            (first..first + limit).flat_map(|n| Target::network(net(n), 443, Transport::Udp));
        targets.map(|target| (target, Action::Allow)).collect()
    };
    for first in [0, 1, 100, limit] {
        let ops = gate.plan(nets(first));
        gate.tables.fits(&ops).unwrap();
        gate.tables.expect(&ops);
        assert_eq!(gate.tables.apply(&ops).unwrap(), 0, "from {first} on");
        assert_eq!(gate.tables.in_use()[1].used as u32, limit);
    }
    // No pending write makes room for more.
    let table = gate.planner.policies()[&DEFAULT_POLICY].table;
    let net = |text: &str| Target::network(text.parse().unwrap(), 443, Transport::Udp)[0].key();
    let action = Action::Allow.number();
    let late = ["192.0.2.0/31", "192.0.2.2/31", "192.0.2.4/31"].map(net);
    let more = late.map(|key| TableOp::Put(table, Entry { key, action }));
    assert!(gate.tables.fits(&more).is_err());
    gate.tables.expect(&more);
    assert_eq!(gate.tables.apply(&more).unwrap(), 3);
    // An entry that found no room is written once there is some, unless it has been deleted since.
    let view = gate.tables.view();
    let found = |key: &Key| {
        let to = Destination {
            addr: key.addr(),
            port: key.port(),
            proto: key.proto(),
        };
        view.find(table, 0, &to).is_some()
    };
    let delete = |key: Key| [TableOp::Delete(table, key)];
    assert_eq!(gate.tables.apply(&delete(late[0])).unwrap(), 0);
    let leaves = |n: u32| net(&format!("{}/31", address(2 * (limit + n))));
    assert_eq!(gate.tables.apply(&delete(leaves(0))).unwrap(), 0);
    assert_eq!(late.each_ref().map(found), [false, true, false]);
    assert_eq!(gate.tables.in_use()[1].used as u32, limit);
    assert_eq!(gate.tables.apply(&delete(leaves(1))).unwrap(), 0);
    assert_eq!(late.each_ref().map(found), [false, true, true]);
}

#[test]
fn a_table_that_grows_in_place_gives_no_connect_a_wrong_verdict() {
    let mut gate = Gate::new();
    let listed = Target::address(address(0), 443, Transport::Udp);
    let ops = gate.plan(Table::from_iter([(listed, Action::Allow)]));
    assert_eq!(gate.tables.apply(&ops).unwrap(), 0);
    let table = gate.planner.policies()[&DEFAULT_POLICY].table;
    let (at, never) = (address(0).to_string(), address(900_000).to_string());
    let (at, never) = (format!("{at}:443"), format!("{never}:443"));
    let load = Load::start(
        &gate.place(),
        &["judge", "--listed", &at, "--unlisted", &never],
    )
    .unwrap();
    let key = |n: u32| Target::address(address(n), 443, Transport::Udp).key();
    let action = Action::Allow.number();
    // Most new entries are deleted again, so that the table is also rebuilt because of deletions.
    for round in 0..300_u32 {
        let new = 1 + round * 100..1 + (round + 1) * 100;
        let put: Vec<_> = new
            .clone()
            .map(|n| {
                let key = key(n);
                TableOp::Put(table, Entry { key, action })
            })
            .collect();
        assert_eq!(gate.tables.apply(&put).unwrap(), 0);
        let gone = new.filter(|n| n % 5 != 0);
        let gone: Vec<_> = gone.map(|n| TableOp::Delete(table, key(n))).collect();
        assert_eq!(gate.tables.apply(&gone).unwrap(), 0);
    }
    assert_eq!(gate.tables.in_use()[0].used, 1 + 300 * 20);
    let counts = load.stop().unwrap();
    assert!(
        counts["listed.eperm"] == 0 && counts["unlisted.ok"] == 0,
        "{counts:?}"
    );
    assert!(
        counts["listed.ok"] > 1000 && counts["unlisted.eperm"] > 1000,
        "{counts:?}"
    );
}

#[test]
fn an_agent_that_comes_finds_the_tables_of_policies_and_takes_the_others_away() {
    let mut gate = Gate::new();
    let target = Target::address(address(1), 443, Transport::Udp);
    let ops = gate.plan(Table::from_iter([(target, Action::Allow)]));
    assert_eq!(gate.tables.apply(&ops).unwrap(), 0);
    let used = gate.planner.policies()[&DEFAULT_POLICY].table;
    // The state after an agent that dies between the writes of a table and of its policy.
    let unused = TableId(used.0 + 1);
    let entry = Entry {
        key: target.key(),
        action: Action::Allow.number(),
    };
    let left = [TableOp::Put(unused, entry)];
    assert_eq!(gate.tables.apply(&left).unwrap(), 0);
    let to = Destination {
        addr: entry.key.addr(),
        port: entry.key.port(),
        proto: entry.key.proto(),
    };
    let view = gate.tables.view();
    assert_eq!(view.find(unused, NO_NETWORK, &to), Some(entry.action));
    let (policies, tables) = gate.tables.standing().unwrap();
    assert_eq!(policies[&DEFAULT_POLICY].table, used);
    assert_eq!(tables, BTreeSet::from([used]));
    assert_eq!(view.find(used, NO_NETWORK, &to), Some(entry.action));
    assert_eq!(view.find(unused, NO_NETWORK, &to), None);
    gate.tables.apply(&[TableOp::DropTable(used)]).unwrap();
    assert_eq!(view.find(used, NO_NETWORK, &to), None);
}

#[test]
fn networks_of_too_many_lengths_are_known_before_the_first_write() {
    let mut gate = Gate::new();
    let nets = |lengths: u32| -> Table {
        (1..=lengths)
            .flat_map(|bits| {
                let net = format!("2001:db8::/{}", bits + 20).parse().unwrap();
                Target::network(net, 443, Transport::Udp)
            })
            .map(|target| (target, Action::Allow))
            .collect()
    };
    let ops = gate.plan(nets(41));
    let refused = gate.tables.fits(&ops).unwrap_err().to_string();
    assert!(refused.contains("more than 40 prefix lengths"), "{refused}");
    assert_eq!(gate.tables.in_use()[1].used, 0);
    gate.planner = Planner::default();
    let ops = gate.plan(nets(40));
    gate.tables.fits(&ops).unwrap();
    assert_eq!(gate.tables.apply(&ops).unwrap(), 0);
    assert_eq!(gate.tables.in_use()[1].used, 40);
}
