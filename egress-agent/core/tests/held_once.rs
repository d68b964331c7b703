//! Routes that many policies see are in memory once, also after edits and answers that concern all policies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod views;

use egress_core::policy::leases::Answer;
use egress_core::policy::state::State;
use egress_core::registry::scope::Workload;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use views::{VIEWS, many, object, service};

/// How many copies of a host's routes are in memory, over all policies.
fn held(state: &mut State, host: &str) -> usize {
    state.routes();
    state.share();
    // What was given out stays as it is until something else changes.
    let (now, newcomer) = (Instant::now(), CgroupId(u64::MAX));
    state.handle_workload(now, newcomer, Workload::default());
    state.forget_workload(now, newcomer);
    let routes = state.routes();
    let ports = routes.policies.values().filter_map(|p| p.ports.get(&80));
    let hosts = ports.flat_map(|port| port.hosts.iter());
    let of_host = hosts.filter(|(name, _)| &***name == host);
    let places: BTreeSet<usize> = of_host.map(|(_, held)| Arc::as_ptr(held).addr()).collect();
    places.len()
}

#[test]
fn what_all_policies_see_is_held_once() {
    let (mut state, mut rules) = many();
    let now = Instant::now();
    assert_eq!(state.routes().policies.len(), VIEWS + 1);
    assert_eq!(held(&mut state, "h7.example"), 1);
    // Edits that all see, including a service with a name, and its answer.
    rules[7] = service("common", "s7", 8, "'*'");
    let spec =
        "hosts: [named.example], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}]";
    rules.push(object("ServiceEntry", "common", "named", spec));
    let route =
        "hosts: [h9.example], http: [{timeout: 1s, route: [{destination: {host: h0.example}}]}]";
    rules.push(object("VirtualService", "common", "v", route));
    state.handle_rules(now, &rules);
    for host in ["h8.example", "named.example", "h9.example", "h0.example"] {
        assert_eq!(held(&mut state, host), 1, "{host}");
    }
    let answer = Answer {
        addresses: vec![[203, 0, 113, 200].into()],
        ttl: Duration::from_mins(1),
    };
    state.handle_answer(now, "named.example", Ok(answer));
    assert_eq!(held(&mut state, "named.example"), 1);
    // A policy that sees it differently has a copy of its own, but only as long as it differs.
    let tls = "host: h3.example, exportTo: ['.'], trafficPolicy: {tls: {mode: SIMPLE}}";
    rules.push(object("DestinationRule", "n3", "d", tls));
    state.handle_rules(now, &rules);
    assert_eq!(held(&mut state, "h3.example"), 2);
    rules.pop();
    state.handle_rules(now, &rules);
    assert_eq!(held(&mut state, "h3.example"), 1);
}

#[test]
fn what_sidecars_import_from_elsewhere_is_held_once() {
    let (mut state, mut rules) = many();
    let now = Instant::now();
    let sidecar = |n: usize, hosts: &str| {
        let spec = format!("egress: [{{hosts: ['./*', {hosts}]}}]");
        object("Sidecar", &format!("n{n}"), "s", &spec)
    };
    let sidecars = (0..VIEWS).map(|n| sidecar(n, "'common/*'"));
    rules.extend(sidecars);
    state.handle_rules(now, &rules);
    assert_eq!(state.routes().policies.len(), VIEWS + 1);
    // The default has no Sidecar.
    assert_eq!(held(&mut state, "h7.example"), 2);
    rules[7] = service("common", "s7", 8, "'*'");
    state.handle_rules(now, &rules);
    assert_eq!(held(&mut state, "h8.example"), 2);
    // A policy with other imports has only what it imports.
    *rules.last_mut().unwrap() = sidecar(VIEWS - 1, "'common/h3.example'");
    state.handle_rules(now, &rules);
    let policy = state.policy_of(CgroupId(VIEWS as u64));
    let routes = state.routes();
    let hosts = &routes.policies[&policy].ports[&80].hosts;
    let hosts: Vec<&str> = hosts.iter().map(|(name, _)| &**name).collect();
    assert_eq!(hosts, ["h139.example", "h3.example"]);
}
