//! Answers of workloads to table entries.

use super::bench::{Bench, dialled};
use super::{Settings, entry};
use crate::policy::leases::store::Stored;
use crate::policy::leases::{Answer, Lease};
use crate::routing::TlsDecision;
use egress_ebpf::ids::PolicyId;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn lease(name: &str, hosts: &[&str], ip: &str) -> Lease {
    Lease {
        policy: PolicyId(0),
        workload: None,
        name: name.into(),
        hosts: hosts.iter().map(|h| (*h).into()).collect(),
        answer: Answer {
            addresses: vec![ip.parse().unwrap()],
            ttl: Duration::from_secs(1),
        },
    }
}

#[test]
fn the_answer_of_a_workload_is_listed_beside_the_agents_own() {
    let rules = entry(
        "db.example",
        "DNS",
        "{number: 5432, name: db, protocol: TCP}",
        "",
    );
    let mut bench = Bench::new(Settings::default(), &[&rules]);
    bench.answer("db.example", &["203.0.113.1"]);
    let own = lease("db.example", &["db.example"], "203.0.113.2");
    assert!(!bench.state.in_force().covers(Instant::now(), &own));
    let outcomes = bench
        .state
        .handle_leases(Instant::now(), std::slice::from_ref(&own));
    assert!(outcomes[0].changed);
    bench.write();
    let listed = ["203.0.113.1 5432 allow", "203.0.113.2 5432 allow"];
    assert_eq!(bench.entries(), listed);
    assert!(bench.state.in_force().covers(Instant::now(), &own));
    let again = bench.state.handle_leases(Instant::now(), &[own]);
    assert!(!again[0].changed);
    assert!(bench.state.poll_ops().is_empty(), "nothing to write");
}

#[test]
fn a_name_below_a_wildcard_opens_a_port_that_would_be_open_to_any_address() {
    // `resolution` is not written, so the TCP port is not open to any address.
    let rules = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec:\n  \
                 hosts: ['*.db.example']\n  ports: [{number: 5432, name: db, protocol: TCP}, \
                 {number: 53, name: u, protocol: UDP}, {number: 99, name: s}]\n";
    let mut bench = Bench::new(Settings::default(), &[rules]);
    assert!(bench.entries().is_empty());
    let own = lease("a.db.example", &["*.db.example"], "203.0.113.2");
    bench.state.handle_leases(Instant::now(), &[own]);
    bench.write();
    let listed = ["203.0.113.2 53/udp allow", "203.0.113.2 5432 allow"];
    let entries: BTreeSet<String> = bench.entries().into_iter().map(Into::into).collect();
    assert_eq!(
        entries,
        listed.map(String::from).into(),
        "no port that needs a name"
    );
    assert_eq!(bench.state.names_learned(), 1);
    assert!(
        bench
            .state
            .names()
            .of("203.0.113.2".parse().unwrap())
            .contains(&"a.db.example".into())
    );

    let clock = Duration::from_secs(1_700_000_000);
    let text = bench.state.in_force().store(Instant::now(), clock);
    let stored = Stored::parse(&text, clock).unwrap();
    let mut next = Bench::new(Settings::default(), &[rules]);
    assert_eq!(next.state.handle_stored(Instant::now(), clock, &stored), 1);
    next.write();
    let entries: BTreeSet<String> = next.entries().into_iter().map(Into::into).collect();
    assert_eq!(entries, listed.map(String::from).into());

    // A rule that comes later lists the name too.
    let more = rules
        .replace("name: e", "name: f")
        .replace("*.db.example", "a.db.example")
        .replace("5432", "5433");
    bench.rules(&[rules, &more]);
    bench.write();
    let entries = bench.entries();
    assert!(entries.contains(&"203.0.113.2 5433 allow"), "{entries:?}");

    bench
        .state
        .handle_timeout(Instant::now() + Duration::from_secs(631));
    bench.write();
    assert!(bench.entries().is_empty(), "its lease ended");
    assert_eq!(bench.state.names_learned(), 0);
}

const WILDCARD: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec:\n  \
     hosts: ['*.db.example']\n  ports: [{number: 5432, name: db, protocol: TCP}]\n";

/// A workload's name below a wildcard gets a rule of its own, and later loses it again.
#[test]
fn a_wildcard_opens_nothing_for_a_name_that_a_later_rule_makes_the_agent_ask_for() {
    let exact = entry(
        "a.db.example",
        "DNS",
        "{number: 5433, name: db, protocol: TCP}",
        "",
    );
    let mut bench = Bench::new(Settings::default(), &[WILDCARD]);
    let own = lease("a.db.example", &["*.db.example"], "203.0.113.2");
    bench.state.handle_leases(bench.now, &[own]);
    bench.write();
    assert_eq!(bench.entries(), ["203.0.113.2 5432 allow"]);
    bench.rules(&[WILDCARD, &exact]);
    assert_eq!(bench.entries(), ["203.0.113.2 5433 allow"]);
    // The name moves, and the first address loses its lease.
    bench.answer("a.db.example", &["203.0.113.3"]);
    bench.now += Duration::from_mins(20);
    bench.answer("a.db.example", &["203.0.113.3"]);
    bench.state.handle_timeout(bench.now);
    bench.write();
    assert_eq!(bench.entries(), ["203.0.113.3 5433 allow"]);
    bench.rules(&[WILDCARD]);
    assert!(bench.entries().is_empty(), "{:?}", bench.entries());
}

#[test]
fn the_proxy_dials_the_address_that_a_workload_learned_before_the_rule_came() {
    let wildcard = WILDCARD.replace("db, protocol: TCP", "tls, protocol: TLS");
    let exact = entry(
        "a.db.example",
        "DNS",
        "{number: 5432, name: tls, protocol: TLS}",
        "",
    );
    let mut bench = Bench::new(Settings::default(), &[&wildcard]);
    let own = lease("a.db.example", &["*.db.example"], "203.0.113.2");
    bench.state.handle_leases(bench.now, &[own]);
    bench.rules(&[&wildcard, &exact]);
    for _ in 0..2 {
        let routes = bench.state.routes();
        let decision = routes.tls(PolicyId(0), dialled(5432), Some("a.db.example"), 0);
        let TlsDecision::Forward(cluster) = decision else {
            panic!("{decision:?}");
        };
        assert_eq!(cluster.endpoints[..], ["203.0.113.2:5432".parse().unwrap()]);
        // The agent's own answer is the same.
        bench.answer("a.db.example", &["203.0.113.2"]);
    }
}
