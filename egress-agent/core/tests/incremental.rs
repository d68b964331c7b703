//! Rules that changed object by object give the same result as rules that were read at once, for all objects
//! and every `exportTo`. An edit costs work only in the policies that see it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod gate;
mod views;

use egress_core::istio::Object;
use egress_core::policy::diff::TableOp;
use egress_core::policy::state::{Settings, Work};
use egress_core::registry::scope::Workload;
use egress_ebpf::ids::{CgroupId, PolicyId};
use gate::Gate;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use views::{SERVICES, VIEWS, many, object, service};

/// The possible versions of each object.
fn versions() -> Vec<Vec<Arc<Object>>> {
    let exported = ["'*'", "'.'", "n1", "'~'", "n0, n2"];
    let mut all = Vec::new();
    let entry = |namespace: &str, name: &str, bodies: &[&str]| {
        let mut versions = Vec::new();
        for body in bodies {
            versions.push(object("ServiceEntry", namespace, name, body));
            for to in exported {
                let body = format!("{body}, exportTo: [{to}]");
                versions.push(object("ServiceEntry", namespace, name, &body));
            }
        }
        versions
    };
    let http = "ports: [{number: 80, name: h, protocol: HTTP}]";
    let tcp = "ports: [{number: 80, name: t, protocol: TCP}, {number: 81, name: u, protocol: UDP}]";
    let one = format!("hosts: [a.example, b.example], resolution: DNS, {http}");
    let two = format!(
        "hosts: [a.example], resolution: STATIC, {tcp}, endpoints: [{{address: 203.0.113.1, labels: {{v: one}}}}, {{address: 203.0.113.2}}]"
    );
    let three =
        format!("hosts: ['*.example'], resolution: NONE, {http}, addresses: [203.0.113.0/30]");
    let four = format!(
        "hosts: [c.example], resolution: STATIC, {tcp}, workloadSelector: {{labels: {{app: c}}}}"
    );
    all.push(entry("n0", "e0", &[&one, &two]));
    all.push(entry("n1", "e1", &[&two, &three]));
    all.push(entry("n0", "e2", &[&four]));
    all.push(entry("n2", "e3", &[&one, &four]));
    for (name, labels, address) in [("w0", "app: c", 5), ("w1", "app: d", 6)] {
        let of = |labels: &str| {
            let spec = format!("address: 203.0.113.{address}, labels: {{{labels}}}");
            object("WorkloadEntry", "n0", name, &spec)
        };
        all.push(vec![of(labels), of("app: c")]);
    }
    let rule = |namespace: &str, name: &str, body: &str| {
        let to = ["", ", exportTo: ['.']", ", exportTo: [n1, n2]"];
        let to = to.map(|to| object("VirtualService", namespace, name, &format!("{body}{to}")));
        to.to_vec()
    };
    let to = |host: &str, rest: &str| format!("route: [{{destination: {{host: {host}{rest}}}}}]");
    let route = to("b.example", ", subset: one");
    all.push(rule(
        "n0",
        "v0",
        &format!("hosts: [a.example], http: [{{timeout: 1s, {route}}}]"),
    ));
    let mirror = "mirrors: [{destination: {host: c.example}}, {destination: {host: a.example, subset: one}}]";
    let route = to("b.example", "");
    let spec = format!("hosts: [b.example], http: [{{{mirror}, {route}}}]");
    all.push(rule("n0", "v3", &spec));
    let route = to("a.example", ", subset: one");
    let mut sources = rule(
        "n1",
        "v1",
        &format!(
            "hosts: ['*.example'], http: [{{match: [{{sourceLabels: {{app: red}}}}], timeout: 2s, {route}}}, {{{route}}}]"
        ),
    );
    sources.extend(rule(
        "n1",
        "v1",
        &format!("hosts: [a.example], tcp: [{{match: [{{sourceNamespace: n2}}], {route}}}]"),
    ));
    all.push(sources);
    all.push(rule("n2", "v2", "hosts: [b.example], http: [{match: [{uri: {prefix: /d}}], delegate: {name: leaf, namespace: n0}}]"));
    all.push(rule(
        "n0",
        "leaf",
        &format!("http: [{{timeout: 3s, {}}}]", to("c.example", "")),
    ));
    for (namespace, name) in [("n0", "d0"), ("n1", "d1"), ("istio-system", "d2")] {
        let subset = "subsets: [{name: one, labels: {v: one}}]";
        let tls = "trafficPolicy: {tls: {mode: SIMPLE}}";
        let bodies = [
            format!("host: a.example, {subset}"),
            format!("host: a.example, {tls}"),
            format!("host: '*.example', {tls}"),
            format!(
                "host: b.example, {subset}, workloadSelector: {{matchLabels: {{app: blue}}}}, {tls}"
            ),
            format!("host: a.example, {tls}, exportTo: ['.']"),
            format!("host: a.example, {subset}, exportTo: [n2]"),
        ];
        let of = bodies.map(|body| object("DestinationRule", namespace, name, &body));
        all.push(of.to_vec());
    }
    for (namespace, name, selector) in [
        ("n0", "s0", ""),
        ("n0", "s1", "workloadSelector: {labels: {app: red}}, "),
        ("istio-system", "s2", ""),
    ] {
        let bodies = [
            "egress: [{hosts: ['./*']}]",
            "egress: [{hosts: ['*/a.example', 'n1/*']}]",
            "egress: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*/*']}]",
            "egress: [{hosts: ['*/*', '~n1/*']}]",
            "outboundTrafficPolicy: {mode: ALLOW_ANY}",
            "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.example, port: {number: 80}}}",
            "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: b.example, subset: one, port: {number: 80}}}",
        ];
        let of = bodies.map(|b| object("Sidecar", namespace, name, &format!("{selector}{b}")));
        all.push(of.to_vec());
    }
    all
}

fn workloads() -> Vec<Workload> {
    let of = |(namespace, app): (&str, &str)| Workload {
        namespace: namespace.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        ..Workload::default()
    };
    let all = [
        ("n0", "red"),
        ("n0", "blue"),
        ("n0", "green"),
        ("n1", "red"),
        ("n2", "red"),
        ("n2", "blue"),
        ("n3", "green"),
    ];
    all.into_iter().map(of).collect()
}

fn start(unknown: &str) -> Gate {
    let unknown = Workload {
        namespace: unknown.to_owned(),
        ..Workload::default()
    };
    Gate::without_rules(Settings {
        unknown,
        ..Settings::default()
    })
}

fn place(gate: &mut Gate) {
    for (id, workload) in (1..).zip(workloads()) {
        gate.state.handle_workload(gate.now, CgroupId(id), workload);
    }
    gate.write();
}

fn answer(gate: &mut Gate) {
    gate.answer("a.example", &["203.0.113.8", "2001:db8::8"]);
    gate.answer("b.example", &["203.0.113.8"]);
}

/// What a workload may reach.
fn reach(gate: &mut Gate, id: u64) -> String {
    let policy = gate.state.policy_of(CgroupId(id));
    format!(
        "{:?} {:?}",
        gate.kernel.content(policy),
        gate.routes(policy)
    )
}

/// What each workload and the default see, and who shares a policy.
fn seen(gate: &mut Gate) -> (Vec<String>, BTreeSet<Vec<u64>>) {
    let ids = 0..=workloads().len() as u64;
    let mut shares: BTreeMap<PolicyId, Vec<u64>> = BTreeMap::new();
    let mut all = Vec::new();
    for id in ids {
        let policy = gate.state.policy_of(CgroupId(id));
        shares.entry(policy).or_default().push(id);
        all.push(format!("{id}: {}", reach(gate, id)));
    }
    assert_eq!(gate.state.routes().policies.len(), shares.len());
    (all, shares.into_values().collect())
}

/// Sets one of the objects to one of its versions, or removes it.
fn edit() -> impl Strategy<Value = (prop::sample::Index, Option<prop::sample::Index>)> {
    let version = prop::option::weighted(0.8, any::<prop::sample::Index>());
    (any::<prop::sample::Index>(), version)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_one_by_one_are_as_everything_read_at_once(
        steps in prop::collection::vec(prop::collection::vec(edit(), 1..4), 1..16),
        unknown in 0..3_usize,
    ) {
        let unknown = ["default", "n0", "n2"][unknown];
        let versions = versions();
        let mut held: Vec<Option<Arc<Object>>> = vec![None; versions.len()];
        let mut stepping = start(unknown);
        stepping.rules(&[]);
        place(&mut stepping);
        for step in steps {
            for (slot, version) in step {
                let slot = slot.index(versions.len());
                held[slot] = version.map(|v| Arc::clone(v.get(&versions[slot])));
            }
            let now: Vec<_> = held.iter().flatten().cloned().collect();
            // A dropped plan changes nothing.
            drop(stepping.state.plan_rules(stepping.now, &[]));
            stepping.rules(&now);
            answer(&mut stepping);
            let mut fresh = start(unknown);
            place(&mut fresh);
            fresh.rules(&now);
            answer(&mut fresh);
            prop_assert_eq!(seen(&mut stepping), seen(&mut fresh), "{:?}", now.iter().map(|o| o.text.to_string()).collect::<Vec<_>>());
            stepping.state.share();
            prop_assert_eq!(stepping.state.unresolved(), fresh.state.unresolved());
            prop_assert_eq!(stepping.state.addressless(), fresh.state.addressless());
        }
        // Policies are made from each other; here each is the only one.
        let now: Vec<_> = held.iter().flatten().cloned().collect();
        for (id, unknown) in (1..).zip(workloads()) {
            let mut alone = Gate::without_rules(Settings { unknown, ..Settings::default() });
            alone.rules(&now);
            answer(&mut alone);
            prop_assert_eq!(reach(&mut stepping, id), reach(&mut alone, 0), "{}", id);
        }
    }
}

#[test]
fn an_edit_plans_the_policies_that_see_it_and_no_others() {
    let all = VIEWS + 1;
    let tls = "trafficPolicy: {tls: {mode: SIMPLE}}";
    let route = "http: [{timeout: 1s, route: [{destination: {host: h0.example}}]}]";
    let rule = |namespace: &str, rest: &str| {
        object("DestinationRule", namespace, "d", &format!("{rest}, {tls}"))
    };
    let edits = [
        (
            "a service of one namespace",
            service("n3", "own", 200, "'.'"),
            1,
            1,
        ),
        (
            "one for two namespaces",
            service("common", "new", 200, "n1, n2"),
            2,
            1,
        ),
        ("one for nobody", service("common", "new", 200, "'~'"), 0, 0),
        ("one for all", service("common", "new", 200, "'*'"), all, 1),
        (
            "a rule for a destination of one namespace",
            rule("n3", "host: h103.example"),
            1,
            0,
        ),
        (
            "one that is exported to one",
            rule("n3", "host: h0.example, exportTo: ['.']"),
            1,
            0,
        ),
        ("one for all", rule("common", "host: h0.example"), all, 0),
        (
            "a route of one namespace",
            object(
                "VirtualService",
                "n3",
                "v",
                &format!("hosts: [h1.example], exportTo: ['.'], {route}"),
            ),
            1,
            0,
        ),
        (
            "one for all",
            object(
                "VirtualService",
                "n3",
                "v",
                &format!("hosts: [h1.example], {route}"),
            ),
            all,
            0,
        ),
        (
            "a Sidecar",
            object(
                "Sidecar",
                "n3",
                "s",
                "egress: [{hosts: ['*/h1.example', './*']}]",
            ),
            1,
            2,
        ),
    ];
    for (what, object, policies, writes) in edits {
        let (mut state, mut rules) = many();
        let now = Instant::now();
        let stood: BTreeSet<PolicyId> = (0..all as u64)
            .map(|id| state.policy_of(CgroupId(id)))
            .collect();
        match rules
            .iter()
            .position(|o| o.to_string() == object.to_string())
        {
            Some(place) => rules[place] = object,
            None => rules.push(object),
        }
        let plan = state.plan_rules(now, &rules);
        let Work {
            policies: planned,
            services,
        } = plan.work();
        assert_eq!(planned, policies, "{what}");
        // A rebuilt policy counts all its services; another one counts those that are touched.
        assert!(services <= policies.max(SERVICES) * 2, "{what}: {services}");
        let tables = plan
            .ops()
            .iter()
            .filter(|op| matches!(op, TableOp::Put(..)))
            .count();
        assert!(tables <= writes * policies, "{what}: {tables} entries");
        plan.commit();
        let stands: BTreeSet<PolicyId> = (0..all as u64)
            .map(|id| state.policy_of(CgroupId(id)))
            .collect();
        assert_eq!(
            stands, stood,
            "{what}: no policy gives way to one with another id"
        );
    }
}
