//! Many rules: what one change costs. Counts, not times: a busy machine must not fail them.

use super::state::{Settings, State};
use crate::istio::{Object, decode};
use crate::policy::leases::Answer;
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
    // Longer than a file may be: one document after the other.
    let documents = text.split("---\n").skip(1);
    documents
        .flat_map(|d| decode("many.yaml", d).objects)
        .map(Arc::new)
        .collect()
}

#[test]
fn one_answer_among_ten_thousand_services_writes_its_own_entries_only() {
    let (now, rules) = (Instant::now(), rules());
    let mut state = State::new(Settings::default());
    let begin = Instant::now();
    state.handle_rules(now, &rules);
    let compiled = begin.elapsed();
    assert_eq!(state.unresolved().len(), HOSTS);
    let answer = |n: usize| Answer {
        addresses: vec![[203, 0, (n >> 8) as u8, n as u8].into()],
        ttl: Duration::from_mins(1),
    };
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
