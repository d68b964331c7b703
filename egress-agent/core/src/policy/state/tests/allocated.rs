//! Hosts that share a TCP port get addresses of their own: in the table, in the answers to queries, in words.

use super::bench::{Bench, objects};
use crate::dns::judge::{Decision, Source, judge};
use crate::dns::listing::Directory;
use crate::dns::query::Question;
use crate::istio::Object;
use crate::policy::explain;
use crate::policy::state::{Settings, State};
use crate::registry::scope::Workload;
use egress_ebpf::ids::{CgroupId, PolicyId};
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

const TCP: &str = "{number: 5432, name: tcp, protocol: TCP}";

/// An entry for a host, with these fields besides hosts and ports.
fn entry(host: &str, port: &str, rest: &str) -> String {
    entry_of("default", "{}", host, port, rest)
}

fn entry_of(namespace: &str, labels: &str, host: &str, port: &str, rest: &str) -> String {
    let name = host.replace('.', "-").replace('*', "any");
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
         spec: {{hosts: ['{host}'], ports: [{port}], {rest}}}\n"
    )
}

fn intercepting() -> Settings {
    Settings {
        dns_intercept: true,
        ..Settings::default()
    }
}

/// What the agent answers by itself, with how it knows it; nothing if it asks a server.
fn answered(state: &mut State, policy: u32, name: &str) -> (Vec<String>, Option<Source>) {
    let directory = Directory {
        routes: state.routes(),
        names: state.names(),
        settings: Arc::default(),
        version: 0,
    };
    let (mut all, mut source) = (Vec::new(), None);
    for kind in [RecordType::A, RecordType::AAAA] {
        let question = Question {
            name: name.into(),
            kind,
        };
        if let Decision::Local(local) = judge(directory.listing(PolicyId(policy)), &question) {
            all.extend(local.records.iter().map(ToString::to_string));
            source = Some(local.source);
        }
    }
    (all, source)
}

/// The allocated addresses of a host.
fn vips(state: &mut State, name: &str) -> Vec<String> {
    match answered(state, 0, name) {
        (all, Some(Source::Allocated)) => all,
        _ => Vec::new(),
    }
}

#[test]
fn hosts_that_share_a_tcp_port_have_addresses_of_their_own() {
    let (one, two) = (
        entry("db1.example", TCP, "resolution: DNS"),
        entry("db2.example", TCP, "resolution: DNS"),
    );
    let mut bench = Bench::new(intercepting(), &[&one]);
    bench.answer("db1.example", &["203.0.113.1"]);
    assert_eq!(answered(&mut bench.state, 0, "db1.example"), (vec![], None));
    assert_eq!(bench.entries(), ["203.0.113.1 5432 allow"]);

    bench.rules(&[&one, &two]);
    bench.answer("db2.example", &["203.0.113.1"]);
    let mut own = BTreeSet::from(["203.0.113.1 5432 allow".to_owned()]);
    for name in ["db1.example", "db2.example"] {
        let all = vips(&mut bench.state, name);
        assert!(all[0].starts_with("240.240.") && all[1].starts_with("2001:2:0:"));
        own.extend(all.iter().map(|ip| format!("{ip} 5432 proxy")));
        // The proxy knows whose address it is, and so does whoever reads the log.
        for ip in &all {
            let names = bench.state.names().of(ip.parse().unwrap());
            assert_eq!(names, [name]);
        }
    }
    assert_eq!(own.len(), 5);
    let entries: BTreeSet<String> = bench.entries().into_iter().map(str::to_owned).collect();
    assert_eq!(entries, own);

    bench.rules(&[&two]);
    assert_eq!(answered(&mut bench.state, 0, "db2.example"), (vec![], None));
    assert_eq!(bench.entries(), ["203.0.113.1 5432 allow"]);
}

#[test]
fn without_interception_nothing_is_allocated() {
    let rules = ["db1.example", "db2.example"].map(|host| entry(host, TCP, "resolution: DNS"));
    let mut bench = Bench::new(Settings::default(), &[&rules[0], &rules[1]]);
    bench.answer("db1.example", &["203.0.113.1"]);
    assert_eq!(bench.entries(), ["203.0.113.1 5432 allow"]);
    assert_eq!(vips(&mut bench.state, "db1.example"), [""; 0]);
}

#[test]
fn the_rules_of_a_host_decide_whether_it_may_have_some() {
    const UNSET: &str = "{number: 5432, name: any}";
    const HTTP: &str = "{number: 5432, name: http, protocol: HTTP}";
    const TLS: &str = "{number: 5432, name: tls, protocol: TLS}";
    const UDP: &str =
        "{number: 5432, name: tcp, protocol: TCP}, {number: 53, name: udp, protocol: UDP}";
    const MYSQL: &str =
        "{number: 5432, name: sql, protocol: MySQL}, {number: 80, name: http, protocol: HTTP}";
    let endpoints = "resolution: STATIC, endpoints: [{address: 203.0.113.9, ports: {tcp: 5433}}]";
    for (host, port, rest, gets, neighbour) in [
        ("a.example", TCP, "resolution: DNS", true, true),
        ("a.example", TCP, "resolution: DNS_ROUND_ROBIN", true, true),
        ("a.example", TCP, endpoints, true, true),
        ("a.example", MYSQL, "resolution: DNS", true, true),
        ("a.example", UNSET, "resolution: DNS", true, true),
        ("a.example", HTTP, "resolution: DNS", false, false),
        ("a.example", TLS, "resolution: DNS", false, false),
        ("a.example", TCP, "resolution: NONE", false, true),
        (
            "a.example",
            TCP,
            "addresses: [192.0.2.1], resolution: DNS",
            false,
            false,
        ),
        ("a.example", UDP, "resolution: DNS", false, true),
        ("a.svc.cluster.local", TCP, "resolution: DNS", false, true),
        ("*.a.example", TCP, endpoints, false, true),
        (
            "a.example",
            "{number: 5433, name: tcp, protocol: TCP}",
            "resolution: DNS",
            false,
            false,
        ),
    ] {
        let other = entry("other.example", TCP, "resolution: DNS");
        let mut bench = Bench::new(intercepting(), &[&entry(host, port, rest), &other]);
        let state = &mut bench.state;
        let asked = host.replace('*', "x");
        assert_eq!(
            !vips(state, &asked).is_empty(),
            gets,
            "{host} {port} {rest}"
        );
        assert_eq!(
            !vips(state, "other.example").is_empty(),
            neighbour,
            "{host} {port} {rest}"
        );
    }
    for (value, gets) in [("'true'", true), ("'false'", false), ("'False'", false)] {
        let labels = format!("{{networking.istio.io/enable-autoallocate-ip: {value}}}");
        let labelled = entry_of("default", &labels, "a.example", TCP, "resolution: DNS");
        let other = entry("other.example", TCP, "resolution: DNS");
        let mut bench = Bench::new(intercepting(), &[&labelled, &other]);
        assert_eq!(
            !vips(&mut bench.state, "a.example").is_empty(),
            gets,
            "{value}"
        );
        assert!(!vips(&mut bench.state, "other.example").is_empty());
    }
}

#[test]
fn only_hosts_that_a_workload_sees_count() {
    let rest = "resolution: DNS, exportTo: ['.']";
    let rules = [
        entry_of("one", "{}", "db1.example", TCP, rest),
        entry_of("two", "{}", "db2.example", TCP, rest),
        entry_of("two", "{}", "db3.example", TCP, rest),
    ];
    let mut bench = Bench::new(intercepting(), &[&rules[0], &rules[1], &rules[2]]);
    let mut policies = Vec::new();
    for (n, namespace) in [(7, "one"), (8, "two")] {
        let workload = Workload {
            namespace: namespace.to_owned(),
            ..Workload::default()
        };
        bench
            .state
            .handle_workload(bench.now, CgroupId(n), workload);
        policies.push(bench.state.policy_of(CgroupId(n)).0);
    }
    let state = &mut bench.state;
    assert_eq!(answered(state, policies[0], "db1.example"), (vec![], None));
    let two = answered(state, policies[1], "db2.example");
    assert_eq!((two.0.len(), two.1), (2, Some(Source::Allocated)));
}

#[test]
fn an_address_stays_while_other_rules_change_and_after_a_restart() {
    let all = ["db1.example", "db2.example", "db3.example"]
        .map(|host| entry(host, TCP, "resolution: DNS"));
    let [one, two, three] = &all;
    let mut bench = Bench::new(intercepting(), &[one, two]);
    let before = vips(&mut bench.state, "db1.example");
    for rules in [&[one, three][..], &[one], &[three, two], &[one, two, three]] {
        let rules: Vec<&str> = rules.iter().map(|r| r.as_str()).collect();
        bench.rules(&rules);
        let found = vips(&mut bench.state, "db1.example");
        assert!(
            found == before || rules.len() < 2 || !rules.contains(&one.as_str()),
            "{rules:?}"
        );
    }
    let mut next = Bench::new(intercepting(), &[three, two, one]);
    assert_eq!(vips(&mut next.state, "db1.example"), before);
    // A plan that is dropped changes nothing, and a rule that writes the address down moves the host.
    let taken = entry(
        "other.example",
        TCP,
        &format!("addresses: [{}], resolution: NONE", before[0]),
    );
    let rules = objects(&[one, two, &taken]);
    let now = bench.now;
    drop(next.state.plan_rules(now, &rules));
    assert_eq!(vips(&mut next.state, "db1.example"), before);
    next.state.handle_rules(now, &rules);
    next.write();
    let moved = vips(&mut next.state, "db1.example");
    assert_ne!(moved[0], before[0]);
    let entries = next.entries().join("\n");
    assert!(
        entries.contains(&format!("{} 5432 allow", before[0])),
        "{entries}"
    );
    assert!(
        entries.contains(&format!("{} 5432 proxy", moved[0])),
        "{entries}"
    );
    assert!(!entries.contains(&before[1]), "{entries}");
}

#[test]
fn explain_names_the_addresses_and_the_host() {
    let rules = ["db1.example", "db2.example"].map(|host| entry(host, TCP, "resolution: DNS"));
    let mut bench = Bench::new(intercepting(), &[&rules[0], &rules[1]]);
    bench.answer("db1.example", &["203.0.113.1"]);
    let all = vips(&mut bench.state, "db1.example");
    let mut explained = |text: &str| {
        let question = explain::Question::parse(text).unwrap();
        let found = bench.state.explain(PolicyId(0), &question);
        assert!(found.allowed(), "{text}: {:?}", found.lines);
        found.lines.join("\n")
    };
    let of_name = explained("db1.example:5432");
    for part in [&all[0], &all[1], "allocated", "db1-example"] {
        assert!(of_name.contains(part), "{part}: {of_name}");
    }
    let of_address = explained(&format!("{}:5432", all[0]));
    assert!(of_address.contains("db1-example"), "{of_address}");
    assert!(!of_address.contains("db2-example"), "{of_address}");
    explained("203.0.113.1:5432");
}

/// One host in one of several versions, or not at all.
fn version(host: usize, version: u8) -> Option<Arc<Object>> {
    let (port, rest) = match version {
        0 => return None,
        1 => (TCP, "resolution: DNS"),
        2 => (
            "{number: 6379, name: tcp, protocol: TCP}",
            "resolution: DNS",
        ),
        3 => (TCP, "resolution: DNS, exportTo: ['.']"),
        4 => (TCP, "resolution: STATIC, addresses: [192.0.2.1]"),
        _ => (
            "{number: 5432, name: t, protocol: TCP}, {number: 6379, name: r}",
            "resolution: DNS",
        ),
    };
    let text = entry_of(
        ["one", "two"][host % 2],
        "{}",
        &format!("h{host}.example"),
        port,
        rest,
    );
    objects(&[&text]).pop()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_changed_state_is_the_same_as_a_fresh_one(
        first in prop::collection::vec(0_u8..6, 5),
        changes in prop::collection::vec((0_usize..5, 0_u8..6), 1..12),
    ) {
        let now = Instant::now();
        let workloads = |state: &mut State| {
            for (n, namespace) in [(7, "one"), (8, "two")] {
                let workload = Workload { namespace: namespace.to_owned(), ..Workload::default() };
                state.handle_workload(now, CgroupId(n), workload);
            }
        };
        let shown = |state: &mut State| {
            let mut all = Vec::new();
            for id in [0, 7, 8] {
                let policy = if id == 0 { PolicyId(0) } else { state.policy_of(CgroupId(id)) };
                for host in 0..5 {
                    all.push(answered(state, policy.0, &format!("h{host}.example")));
                }
                let table = state.policies[&policy].ledger().table();
                let entries = table.keys().map(|target| format!("{target:?}")).collect::<Vec<_>>();
                all.push((entries, None));
            }
            all
        };
        let mut held: Vec<_> = first.iter().enumerate().map(|(h, v)| version(h, *v)).collect();
        let all = |held: &[Option<Arc<Object>>]| held.iter().flatten().cloned().collect::<Vec<_>>();
        let mut state = State::new(intercepting());
        state.handle_rules(now, &all(&held));
        workloads(&mut state);
        for (host, to) in changes {
            held[host] = version(host, to);
            drop(state.plan_rules(now, &[]));
            state.handle_rules(now, &all(&held));
        }
        let mut fresh = State::new(intercepting());
        fresh.handle_rules(now, &all(&held));
        workloads(&mut fresh);
        prop_assert_eq!(shown(&mut state), shown(&mut fresh));
    }
}
