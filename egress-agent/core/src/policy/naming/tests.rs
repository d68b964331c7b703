//! The index gives the answer of a full search without searching everything.

use super::work;
use crate::istio::service_entry::Resolution;
use crate::istio::{Object, decode};
use crate::policy::leases::Answer;
use crate::policy::state::{Settings, State};
use crate::policy::tables::Transport;
use crate::registry::scope::Workload;
use crate::registry::services::{Location, Service};
use egress_ebpf::ids::{CgroupId, PolicyId};
use egress_ebpf::verdict::Reason;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn objects(text: &str) -> Vec<Arc<Object>> {
    let documents = text.split("---\n").filter(|d| !d.is_empty());
    documents
        .flat_map(|d| decode("names.yaml", d).objects)
        .map(Arc::new)
        .collect()
}

fn entry(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

fn answer(state: &mut State, now: Instant, name: &str, ips: &[IpAddr]) {
    let answer = Answer {
        addresses: ips.to_vec(),
        ttl: Duration::from_mins(1),
    };
    state.handle_answer(now, name, Ok(answer));
}

fn workload(namespace: usize) -> Workload {
    Workload {
        namespace: format!("n{namespace}"),
        ..Workload::default()
    }
}

#[test]
fn a_host_that_sorts_before_the_wildcards_hides_none() {
    let ports = "ports: [{number: 80, name: h, protocol: HTTP}]";
    let wild = entry(
        "w",
        "all",
        &format!("hosts: ['*.x.com'], resolution: NONE, {ports}"),
    );
    // Not a valid host.
    let other = entry(
        "o",
        "all",
        &format!("hosts: ['$x.com'], resolution: NONE, {ports}"),
    );
    let mut state = State::new(Settings::default());
    state.handle_rules(Instant::now(), &objects(&(wild + &other)));
    let names = state.names();
    assert!(names.lists(PolicyId(0), "a.x.com"));
    assert!(!names.lists(PolicyId(0), "a.y.com"));
}

/// The work for one denial with this many services, all of which every policy sees.
fn looks(services: usize, policies: usize) -> usize {
    let (now, mut text) = (Instant::now(), String::new());
    let ports = "{number: 443, name: t, protocol: TLS}, {number: 80, name: h, protocol: HTTP}";
    for n in 0..services {
        let spec = format!("hosts: [h{n}.example], resolution: DNS, ports: [{ports}]");
        text += &entry(&format!("e{n}"), "all", &spec);
    }
    for n in 0..policies {
        let spec = format!(
            "hosts: [own{n}.example], exportTo: ['.'], resolution: STATIC, ports: [{ports}], \
             addresses: [198.18.{n}.0/24], endpoints: [{{address: 198.51.100.{n}}}]"
        );
        text += &entry("own", &format!("n{n}"), &spec);
    }
    let mut state = State::new(Settings::default());
    state.handle_rules(now, &objects(&text));
    for n in 0..policies {
        state.handle_workload(now, CgroupId(n as u64 + 1), workload(n));
    }
    assert_eq!(state.policies.len(), policies + 1);
    for n in 0..services {
        for last in 0..3 {
            let ip = IpAddr::from([203, 0, (n >> 8) as u8, n as u8 | last]);
            answer(&mut state, now, &format!("h{n}.example"), &[ip]);
        }
    }
    let names = state.names();
    work::take();
    let asked = ["203.0.0.1", "198.18.7.7", "192.0.2.1", "2001:db8::1"];
    for ip in asked.map(|ip| ip.parse::<IpAddr>().unwrap()) {
        for port in [443, 8080] {
            names.of(ip);
            names.nearest(PolicyId(1), ip, port, Transport::Tcp, Reason::NotListed);
        }
    }
    work::take()
}

#[test]
fn a_denial_looks_at_as_much_among_many_rules_as_among_few() {
    let few = looks(100, 2);
    let many = looks(1500, 20);
    assert!(many <= few + 8, "{few} looks, then {many}");
    assert!(many < 8 * 200, "{many} looks for eight denials");
}

#[test]
fn an_address_that_thousands_of_hosts_list_is_known_by_the_first() {
    let mut text = String::new();
    for n in 0..1000 {
        let spec = format!(
            "hosts: [h{n}.example], resolution: STATIC, addresses: [198.18.0.0/15], \
             ports: [{{number: 80, name: h, protocol: HTTP}}], endpoints: [{{address: 203.0.113.1}}]"
        );
        text += &entry(&format!("e{n}"), "all", &spec);
    }
    let mut state = State::new(Settings::default());
    state.handle_rules(Instant::now(), &objects(&text));
    let names = state.names();
    work::take();
    let ip = IpAddr::from([198, 18, 1, 2]);
    assert_eq!(names.of(ip).len(), 64);
    let nearest = names
        .nearest(PolicyId(0), ip, 22, Transport::Tcp, Reason::NotListed)
        .unwrap();
    assert_eq!(nearest, "h0.example lists port 80 only");
    assert!(work::take() < 400);
}

fn spells_out(service: &Service, ip: IpAddr) -> bool {
    let entries = service.entries.iter();
    let mut used = entries.filter(|e| e.resolution != Resolution::DynamicDns);
    used.any(|e| {
        let mut endpoints = e.endpoints.iter().flatten();
        e.addresses.iter().any(|net| net.contains(&ip))
            || endpoints.any(|e| e.location == Location::Ip(ip))
    })
}

/// The result of a search through all services of all policies.
fn scanned(state: &State, ip: IpAddr) -> Vec<String> {
    let services = state
        .policies
        .values()
        .flat_map(|p| p.view.services.values());
    let known = services.filter(|s| {
        let mut names = s.lookups();
        spells_out(s, ip) || names.any(|name| state.leases.leased(name).any(|held| held == ip))
    });
    let hosts: BTreeSet<_> = known.map(|s| s.host.to_string()).collect();
    hosts.into_iter().collect()
}

/// Entries of three namespaces with common addresses. Some are visible in their own namespace only.
fn pool() -> Vec<Arc<Object>> {
    let mut text = String::new();
    for n in 0..12 {
        let ports = "ports: [{number: 80, name: h, protocol: HTTP}]";
        let host = n % 7;
        let spec = match n % 4 {
            0 => format!("hosts: [h{host}.example], {ports}, resolution: DNS"),
            1 => format!(
                "hosts: [h{host}.example], {ports}, resolution: STATIC, \
                 addresses: [198.18.0.0/{}, '2001:db8::/{}'], endpoints: [{{address: 203.0.113.{}}}]",
                16 + n,
                30 + n,
                n % 3
            ),
            2 => format!(
                "hosts: [h{host}.example], {ports}, resolution: DNS, \
                 endpoints: [{{address: shared.example}}, {{address: other{}.example}}]",
                n % 3
            ),
            _ => format!(
                "hosts: ['*.h{host}.example'], {ports}, resolution: NONE, addresses: [203.0.113.{}]",
                n % 3
            ),
        };
        let seen = if n % 3 == 0 { ", exportTo: ['.']" } else { "" };
        let namespace = format!("n{}", n % 3);
        let _ = write!(
            text,
            "{}",
            entry(&format!("e{n}"), &namespace, &format!("{spec}{seen}"))
        );
    }
    objects(&text)
}

#[derive(Clone, Debug)]
enum Step {
    Rules(u16),
    Workload(CgroupId, usize),
    Gone(CgroupId),
    Answer(usize, u8),
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u16>().prop_map(Step::Rules),
        (1_u64..5, 0_usize..4).prop_map(|(id, n)| Step::Workload(CgroupId(id), n)),
        (1_u64..5).prop_map(|id| Step::Gone(CgroupId(id))),
        (0_usize..11, 0_u8..4).prop_map(|(name, last)| Step::Answer(name, last)),
        Just(Step::Later),
    ]
}

proptest! {
    #[test]
    fn names_are_those_that_a_look_through_everything_finds(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let pool = pool();
        let mut now = Instant::now();
        let mut state = State::new(Settings::default());
        state.handle_rules(now, &pool);
        for step in steps {
            match step {
                Step::Rules(set) => {
                    let chosen = pool.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1);
                    let chosen: Vec<_> = chosen.map(|(_, o)| Arc::clone(o)).collect();
                    state.handle_rules(now, &chosen);
                }
                Step::Workload(id, n) => state.handle_workload(now, id, workload(n)),
                Step::Gone(id) => state.forget_workload(now, id),
                Step::Answer(name, last) => {
                    let name = match name {
                        0..7 => format!("h{name}.example"),
                        7 => "shared.example".to_owned(),
                        n => format!("other{}.example", n - 8),
                    };
                    answer(&mut state, now, &name, &[IpAddr::from([203, 0, 113, last])]);
                }
                Step::Later => {
                    now += Duration::from_secs(100);
                    state.handle_timeout(now);
                }
            }
            let names = state.names();
            for ip in ["203.0.113.0", "203.0.113.1", "203.0.113.2", "203.0.113.3", "198.18.0.9", "198.18.40.1", "2001:db8::9"] {
                let ip: IpAddr = ip.parse().unwrap();
                prop_assert_eq!(names.of(ip), scanned(&state, ip), "{}", ip);
            }
            let needed: BTreeSet<_> = state.policies.values()
                .flat_map(|p| p.view.services.values())
                .flat_map(|s| s.lookups())
                .cloned()
                .collect();
            prop_assert_eq!(state.hosts.needed().cloned().collect::<BTreeSet<_>>(), needed);
        }
    }
}
