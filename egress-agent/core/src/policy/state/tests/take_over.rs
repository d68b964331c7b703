//! A restart: cgroups with policies of a previous agent, and what happens to these ids.

use super::bench::objects;
use crate::policy::diff::{Planner, TableOp};
use crate::policy::state::{Settings, State};
use crate::registry::scope::Workload;
use egress_ebpf::abi::{CLOSED_POLICY, DEFAULT_POLICY, Policy};
use egress_ebpf::ids::{CgroupId, Generation, PolicyId, TableId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

/// The first id that may not be used.
const END: u32 = 9;

/// The policy of a cgroup.
fn under(state: &State, cgroup: u64) -> u32 {
    state.policy_of(CgroupId(cgroup)).0
}

fn workload(namespace: u64) -> Workload {
    Workload {
        namespace: format!("n{namespace}"),
        ..Workload::default()
    }
}

/// A service of its own for each namespace.
fn rules() -> String {
    let mut text = String::new();
    for n in 1..u64::from(END) {
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, \
             namespace: n{n}}}\nspec:\n  hosts: [h{n}.example]\n  exportTo: ['.']\n  \
             resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
             endpoints: [{{address: 203.0.113.{n}}}]\n"
        )
        .unwrap();
    }
    text
}

/// A kernel in which every id has a policy, and some ids have cgroups.
fn adopting(owners: &[(u64, u32)]) -> State {
    let standing = (0..END).map(|id| {
        let policy = Policy {
            table: TableId(id + 1),
            generation: Generation(7),
            ..Policy::default()
        };
        (PolicyId(id), policy)
    });
    let planner = Planner::adopt(standing.collect(), (1..=END).map(TableId));
    let settings = Settings {
        policies_end: PolicyId(END),
        ..Settings::default()
    };
    State::adopting(settings, planner).with_owners(
        owners
            .iter()
            .map(|(cgroup, id)| (CgroupId(*cgroup), PolicyId(*id)))
            .collect(),
    )
}

fn begin(state: &mut State, now: Instant) -> Vec<TableOp> {
    // A plan that is replaced by other rules uses up no id.
    drop(state.begin(now));
    state.begin(now).commit();
    state.poll_ops()
}

#[test]
fn a_restart_with_as_many_views_as_there_are_policies_leaves_nobody_closed() {
    let now = Instant::now();
    let owners: Vec<(u64, u32)> = (1..u64::from(END)).map(|n| (n, END - n as u32)).collect();
    let mut state = adopting(&owners);
    for (cgroup, _) in &owners {
        state.handle_workload(now, CgroupId(*cgroup), workload(*cgroup));
    }
    state.handle_rules(now, &objects(&[&rules()]));
    assert!(state.poll_ops().is_empty(), "the kernel goes on as it is");
    let ops = begin(&mut state, now);
    for (cgroup, policy) in &owners {
        assert_eq!(under(&state, *cgroup), *policy, "nobody moves");
    }
    assert_eq!(state.without_policy(), 0);
    let ended = ops.iter().any(|op| matches!(op, TableOp::DeletePolicy(_)));
    assert!(!ended, "{ops:?}");
    let hosts: BTreeMap<u32, String> = state
        .routes()
        .policies
        .iter()
        .map(|(id, routes)| {
            let hosts = routes.ports.values().flat_map(|port| port.hosts.iter());
            (id.0, hosts.map(|(_, h)| h.host.clone()).collect())
        })
        .collect();
    for (cgroup, policy) in owners {
        assert_eq!(hosts[&policy], format!("h{cgroup}.example"));
    }
    // A later workload gets an id that the kernel has.
    state.forget_workload(now, CgroupId(1));
    drop(state.poll_ops());
    state.handle_workload(now, CgroupId(99), workload(1));
    assert!(under(&state, 99) < END);
}

#[test]
fn an_id_is_taken_over_only_where_all_cgroups_under_it_see_the_same() {
    let now = Instant::now();
    // Cgroups 1 and 2 shared a policy, and their views differ under the new rules. Cgroup 3 shares its policy
    // with 99, which is not a workload. Cgroups 4 and 5 had two policies, and their views are equal. Cgroup 6
    // had the default policy.
    let owners = [
        (1, 1),
        (2, 1),
        (3, 3),
        (99, 3),
        (4, 4),
        (5, 5),
        (6, DEFAULT_POLICY.0),
        (7, 7),
    ];
    let mut state = adopting(&owners);
    for cgroup in [1, 2, 3, 4, 6, 7] {
        state.handle_workload(now, CgroupId(cgroup), workload(cgroup));
    }
    state.handle_workload(now, CgroupId(5), workload(4));
    state.handle_rules(now, &objects(&[&rules()]));
    let ops = begin(&mut state, now);
    for cgroup in 1..7 {
        let policy = under(&state, cgroup);
        assert!(
            ![1, 3, DEFAULT_POLICY.0].contains(&policy),
            "{cgroup} under {policy}"
        );
    }
    assert_eq!(under(&state, 4), under(&state, 5));
    assert!([4, 5].contains(&under(&state, 4)));
    assert_eq!(under(&state, 7), 7);
    // Ids without cgroups are free: 2, 6 and 8. One more id is needed than there are.
    let closed: Vec<u64> = (1..8)
        .filter(|c| under(&state, *c) == CLOSED_POLICY.0)
        .collect();
    assert_eq!(closed.len(), 1, "{closed:?}");
    for id in [1, 3, 5] {
        let stays = (1..8).any(|c| under(&state, c) == id);
        assert_eq!(
            ops.contains(&TableOp::DeletePolicy(PolicyId(id))),
            !stays,
            "{ops:?}"
        );
    }
    assert!(state.place_closed(now));
    assert_eq!(state.without_policy(), 0);
    assert!(
        state
            .routes()
            .policies
            .contains_key(&PolicyId(under(&state, closed[0])))
    );
}
