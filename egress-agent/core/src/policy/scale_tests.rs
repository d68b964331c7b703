//! The cost of one change with many rules, in counts instead of times, so that a busy machine cannot fail the tests.

use super::state::{Settings, State};
use crate::istio::{Object, decode};
use crate::policy::leases::Answer;
use crate::routing::RouteTable;
use egress_ebpf::ids::PolicyId;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HOSTS: usize = 10_000;

fn rules() -> Vec<Arc<Object>> {
    let mut text = String::new();
    for n in 0..HOSTS {
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{n}}}\n\
             spec:\n  hosts: [h{n}.example.com]\n  ports: [{{number: 443, name: t, protocol: TLS}}, \
             {{number: 80, name: h, protocol: HTTP}}]\n  resolution: DNS\n---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{n}}}\n\
             spec:\n  hosts: [h{n}.example.com]\n  http: [{{timeout: 3s, route: \
             [{{destination: {{host: h{n}.example.com}}}}]}}]\n"
        )
        .unwrap();
    }
    // The text is longer than a file may be, so the documents are decoded one after the other.
    let documents = text.split("---\n").skip(1);
    documents
        .flat_map(|d| decode("many.yaml", d).objects)
        .map(Arc::new)
        .collect()
}

fn answer(n: usize) -> Answer {
    Answer {
        addresses: vec![[203, 0, (n >> 8) as u8, n as u8].into()],
        ttl: Duration::from_mins(1),
    }
}

/// The number of references, in all snapshots, to the hosts and server names of a port.
fn references(routes: &RouteTable, port: u16) -> usize {
    let routes = routes.port(PolicyId(0), port).unwrap();
    let hosts = routes.hosts.iter().map(|(_, host)| Arc::strong_count(host));
    let tls = routes.tls.iter().map(|(_, route)| Arc::strong_count(route));
    hosts.chain(tls).sum()
}

#[test]
fn one_answer_copies_little_of_a_snapshot_with_ten_thousand_names() {
    let (now, rules) = (Instant::now(), rules());
    let mut state = State::new(Settings::default());
    state.handle_rules(now, &rules);
    for name in [0, 777, HOSTS - 1] {
        let before = state.routes();
        let held = [80, 443].map(|port| references(&before, port));
        state.handle_answer(now, &format!("h{name}.example.com"), Ok(answer(name)));
        let after = state.routes();
        assert!(!Arc::ptr_eq(&before, &after));
        for (port, held) in [80, 443].into_iter().zip(held) {
            let copied = references(&before, port) - held;
            assert!(
                copied < 1000,
                "port {port}: {copied} of {HOSTS} names copied"
            );
        }
        let one = |routes: &RouteTable| {
            let hosts = &routes.port(PolicyId(0), 80).unwrap().hosts;
            let mut hosts = hosts
                .iter()
                .filter(|(host, _)| ***host == *format!("h{name}.example.com"));
            Arc::clone(hosts.next().unwrap().1)
        };
        assert!(
            !Arc::ptr_eq(&one(&before), &one(&after)),
            "the host itself is another"
        );
    }
}

#[test]
fn one_answer_among_ten_thousand_services_writes_its_own_entries_only() {
    let (now, rules) = (Instant::now(), rules());
    let mut state = State::new(Settings::default());
    let begin = Instant::now();
    state.handle_rules(now, &rules);
    let compiled = begin.elapsed();
    assert_eq!(state.unresolved().len(), HOSTS);
    let begin = Instant::now();
    for n in 0..200 {
        state.handle_answer(now, &format!("h{n}.example.com"), Ok(answer(n)));
        assert_eq!(state.poll_ops().len(), if n == 0 { 4 } else { 2 });
    }
    let answers = begin.elapsed() / 200;
    let begin = Instant::now();
    state.handle_rules(now, &rules[1..]);
    println!(
        "compile {compiled:?}, answer {answers:?}, change {:?}",
        begin.elapsed()
    );
    assert_eq!(
        state.routes().port(PolicyId(0), 80).unwrap().hosts.len(),
        HOSTS - 1
    );
}
