//! The policy of a workload, and more kinds of workloads than policies in the kernel.

use super::bench::objects;
use crate::policy::diff::TableOp;
use crate::policy::state::{Settings, State};
use crate::registry::scope::Workload;
use egress_ebpf::abi::{CLOSED_POLICY, DEFAULT_POLICY, policy_flag};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Instant;

/// The first id that may not be used.
const END: PolicyId = PolicyId(6);
/// Namespaces, each with its own view. There are two more than policies.
const NAMESPACES: u32 = END.0 + 1;

/// The cgroup of a namespace's workload.
fn cgroup(namespace: u32) -> CgroupId {
    CgroupId(namespace.into())
}

fn workload(namespace: u32) -> Workload {
    Workload {
        namespace: format!("n{namespace}"),
        ..Workload::default()
    }
}

/// A service of each namespace, which no other one sees.
fn own_services(namespaces: u32) -> String {
    let mut rules = String::new();
    for n in 0..namespaces {
        write!(
            rules,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, \
             namespace: n{n}}}\nspec:\n  hosts: [h{n}.example]\n  exportTo: ['.']\n  \
             resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
             endpoints: [{{address: 203.0.113.1}}]\n"
        )
        .unwrap();
    }
    rules
}

#[test]
fn as_many_views_as_the_limit_says_have_a_policy_each() {
    const VIEWS: u32 = 8189;
    let now = Instant::now();
    let mut state = State::new(Settings::default());
    for n in 0..=VIEWS {
        state.handle_workload(now, cgroup(n), workload(n));
    }
    state.handle_rules(now, &objects(&[&own_services(VIEWS + 1)]));
    let policies: BTreeSet<PolicyId> = (0..=VIEWS).map(|n| state.policy_of(cgroup(n))).collect();
    assert_eq!(state.without_policy(), 1);
    assert_eq!(policies.len(), VIEWS as usize + 1, "and one is closed");
    assert!(!policies.contains(&DEFAULT_POLICY));
}

#[test]
fn a_view_without_a_policy_left_is_closed_until_one_is_free() {
    let rules = own_services(NAMESPACES);
    let now = Instant::now();
    let mut state = State::new(Settings {
        policies_end: END,
        ..Settings::default()
    });
    for n in 0..NAMESPACES {
        state.handle_workload(now, cgroup(n), workload(n));
    }
    state.handle_rules(now, &objects(&[&rules]));
    let policies = |state: &State| -> BTreeSet<PolicyId> {
        (0..NAMESPACES)
            .map(|n| state.policy_of(cgroup(n)))
            .collect()
    };
    let given = policies(&state);
    let all = (1..END.0).map(PolicyId).chain([CLOSED_POLICY]).collect();
    assert_eq!(given, all, "and none has the default's");
    assert_eq!(state.without_policy(), 2);
    assert!(!state.routes().policies.contains_key(&CLOSED_POLICY));

    // One more also gets no policy, and does not get the default.
    let default = state.routes().policies[&DEFAULT_POLICY].clone();
    state.handle_workload(now, cgroup(9999), workload(9999));
    assert_eq!(
        state.policy_of(cgroup(9999)),
        DEFAULT_POLICY,
        "it sees what the default sees"
    );
    let closed: Vec<u32> = (0..NAMESPACES)
        .filter(|n| state.policy_of(cgroup(*n)) == CLOSED_POLICY)
        .collect();
    state.handle_workload(now, cgroup(closed[0]), workload(closed[0]));
    assert_eq!(state.policy_of(cgroup(closed[0])), CLOSED_POLICY);
    assert_eq!(state.routes().policies[&DEFAULT_POLICY], default);

    let gone = (0..NAMESPACES).filter(|n| !closed.contains(n)).take(2);
    for n in gone.collect::<Vec<_>>() {
        state.forget_workload(now, cgroup(n));
    }
    assert!(!state.place_closed(now), "their end is not written yet");
    drop(state.poll_ops());
    assert!(state.place_closed(now));
    assert_eq!(
        state.without_policy(),
        0,
        "the freed ids serve those that waited"
    );
}

#[test]
fn a_workload_that_is_audited_has_a_policy_of_its_own() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec:\n  \
                hosts: [h.example]\n  resolution: STATIC\n  ports: [{number: 80, name: http, \
                protocol: HTTP}]\n  endpoints: [{address: 203.0.113.1}]\n";
    let now = Instant::now();
    for by_default in [false, true] {
        let mut state = State::new(Settings {
            audit: by_default,
            ..Settings::default()
        });
        let told = [None, Some(true), Some(false), Some(true)];
        for (id, audit) in (0..).map(cgroup).zip(told) {
            let workload = Workload {
                audit,
                ..Workload::default()
            };
            state.handle_workload(now, id, workload);
        }
        let mut audits = std::collections::BTreeMap::new();
        for rules in [rule.to_owned(), rule.replace("80", "81")] {
            state.handle_rules(now, &objects(&[&rules]));
            for op in state.poll_ops() {
                if let TableOp::SetPolicy(id, policy) = op {
                    audits.insert(id, policy.flags & policy_flag::AUDIT != 0);
                }
            }
            let routes = state.routes();
            for (id, audit) in (0..).map(cgroup).zip(told) {
                let (policy, audit) = (state.policy_of(id), audit.unwrap_or(by_default));
                assert_eq!(audits[&policy], audit, "workload {id}");
                assert_eq!(routes.audits(policy), audit, "workload {id}");
            }
            assert_eq!(state.policy_of(cgroup(0)), DEFAULT_POLICY);
            assert_eq!(routes.policies.len(), 2, "one for each mode");
        }
    }
}

#[test]
fn rules_that_change_every_view_leave_nobody_closed_where_there_is_room() {
    let rules = |resolution_of: &str| {
        let mut text = String::new();
        for n in 0..END.0 - 1 {
            write!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, \
                 namespace: n{n}}}\nspec:\n  egress: [{{hosts: ['{resolution_of}{n}/*']}}]\n"
            )
            .unwrap();
        }
        text
    };
    let now = Instant::now();
    let mut state = State::new(Settings {
        policies_end: END,
        ..Settings::default()
    });
    for n in 0..END.0 - 1 {
        state.handle_workload(now, cgroup(n), workload(n));
    }
    state.handle_rules(now, &objects(&[&rules("a")]));
    assert_eq!(state.without_policy(), 0, "first");
    drop(state.poll_ops());
    state.handle_rules(now, &objects(&[&rules("b")]));
    while state.without_policy() > 0 {
        drop(state.poll_ops());
        assert!(
            state.place_closed(now),
            "there is room once the ops are written"
        );
    }
}

#[test]
fn an_id_is_not_given_anew_in_the_writes_that_end_its_policy() {
    let mut rules = String::new();
    for n in 0..2 {
        write!(
            rules,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, \
             namespace: n{n}}}\nspec:\n  hosts: [h{n}.example]\n  exportTo: ['.']\n  \
             resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
             endpoints: [{{address: 203.0.113.{}}}]\n",
            n + 1
        )
        .unwrap();
    }
    let now = Instant::now();
    let mut state = State::new(Settings::default());
    state.handle_workload(now, cgroup(0), workload(0));
    state.handle_rules(now, &objects(&[&rules]));
    let old = state.policy_of(cgroup(0));
    drop(state.poll_ops());
    state.forget_workload(now, cgroup(0));
    state.handle_workload(now, cgroup(1), workload(1));
    let ops = state.poll_ops();
    let ends = ops.contains(&TableOp::DeletePolicy(old));
    assert!(ends, "{ops:?}");
    assert_ne!(
        state.policy_of(cgroup(1)),
        old,
        "cgroups are placed before the end of a policy: {ops:?}"
    );
}
