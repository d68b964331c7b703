//! A plan that is not committed changes nothing: later changes behave as if it had never been made.

use super::bench::objects;
use super::{entry, port};
use crate::istio::Object;
use crate::policy::diff::{Planner, TableOp};
use crate::policy::leases::Answer;
use crate::policy::room::Room;
use crate::policy::state::{Settings, State};
use crate::registry::scope::Workload;
use egress_ebpf::ids::CgroupId;
use ipnet::IpNet;
use proptest::prelude::*;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries with names, addresses and networks, routes, and some that only one namespace sees.
fn pool() -> Vec<Arc<Object>> {
    let mut text = String::new();
    for n in 0..8 {
        let seen = if n % 4 == 3 { ", exportTo: ['.']" } else { "" };
        let rest = match n % 3 {
            0 => "resolution: DNS".to_owned(),
            1 => format!("resolution: NONE, addresses: [198.18.{n}.0/24]"),
            _ => format!("resolution: STATIC, endpoints: [{{address: 203.0.113.{n}}}]"),
        };
        let protocol = if n % 2 == 0 { "HTTP" } else { "TCP" };
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: e{n}, namespace: n{}}}\nspec: {{hosts: [h{}.example], \
             ports: [{}], {rest}{seen}}}\n",
            n % 3,
            n % 6,
            port(80 + n / 4, protocol),
        );
    }
    for n in 0..3 {
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: v{n}, namespace: n{n}}}\nspec:\n  hosts: ['{}h{n}.example']\n  \
             http: [{{timeout: {n}s, route: [{{destination: {{host: h0.example}}}}]}}]\n",
            if n == 2 { "*." } else { "" },
        );
    }
    objects(&[&text])
}

fn chosen(pool: &[Arc<Object>], set: u16) -> Vec<Arc<Object>> {
    let chosen = pool.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1);
    chosen.map(|(_, object)| Arc::clone(object)).collect()
}

fn settings(other: bool) -> Settings {
    Settings {
        audit: other,
        allow_any: other,
        internal: if other {
            vec!["10.0.0.0/8".parse().unwrap()]
        } else {
            Vec::new()
        },
        ..Settings::default()
    }
}

fn internal(set: u8) -> Vec<IpNet> {
    let all = ["10.96.0.0/12", "198.18.1.0/24", "fd00::/8"];
    let chosen = all.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1);
    chosen.map(|(_, net)| net.parse().unwrap()).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Rules(u16),
    Settings(bool),
    Internal(u8),
    Workload(CgroupId, usize),
    Gone(CgroupId),
    Answer(usize, u8),
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u16>().prop_map(Step::Rules),
        any::<bool>().prop_map(Step::Settings),
        (0_u8..8).prop_map(Step::Internal),
        (1_u64..5, 0_usize..4).prop_map(|(id, n)| Step::Workload(CgroupId(id), n)),
        (1_u64..5).prop_map(|id| Step::Gone(CgroupId(id))),
        (0_usize..6, 0_u8..4).prop_map(|(name, last)| Step::Answer(name, last)),
        Just(Step::Later),
    ]
}

fn take(state: &mut State, now: &mut Instant, pool: &[Arc<Object>], step: &Step) {
    match *step {
        Step::Rules(set) => state.handle_rules(*now, &chosen(pool, set)),
        Step::Settings(other) => state.plan_settings(*now, settings(other)).commit(),
        Step::Internal(set) => state.plan_internal(*now, internal(set)).commit(),
        Step::Workload(id, n) => {
            let workload = Workload {
                namespace: format!("n{n}"),
                ..Workload::default()
            };
            state.handle_workload(*now, id, workload);
        }
        Step::Gone(id) => state.forget_workload(*now, id),
        Step::Answer(name, last) => {
            let answer = Answer {
                addresses: vec![IpAddr::from([203, 0, 113, last])],
                ttl: Duration::from_mins(1),
            };
            state.handle_answer(*now, &format!("h{name}.example"), Ok(answer));
        }
        Step::Later => {
            *now += Duration::from_secs(100);
            state.handle_timeout(*now);
        }
    }
}

/// Everything that the shell can see.
fn seen(state: &mut State) -> String {
    let ops = state.poll_ops();
    let queries: Vec<_> = std::iter::from_fn(|| state.poll_query()).collect();
    let placed: Vec<_> = (0..6).map(|id| state.owned(CgroupId(id))).collect();
    let names: Vec<_> = (0..4)
        .map(|last| state.names().of(IpAddr::from([203, 0, 113, last])))
        .collect();
    let (timeout, generation) = (state.poll_timeout(), state.generation());
    let waiting = state.addressless().clone();
    state.routes();
    state.share();
    let routes = &state.routes().policies;
    format!(
        "{ops:?} {queries:?} {placed:?} {names:?} {timeout:?} {generation} {waiting:?} {routes:?}"
    )
}

proptest! {
    #[test]
    fn what_was_planned_and_dropped_leaves_no_trace(
        steps in prop::collection::vec((step(), any::<u16>(), any::<bool>()), 1..25),
    ) {
        let pool = pool();
        let mut now = Instant::now();
        let (mut plain, mut planning) = (State::new(settings(false)), State::new(settings(false)));
        for (step, set, other) in steps {
            let plan = planning.plan_rules(now, &chosen(&pool, set));
            drop(plan);
            drop(planning.plan_settings(now, settings(other)));
            drop(planning.plan_internal(now, internal(set as u8)));
            let mut same = now;
            take(&mut plain, &mut now, &pool, &step);
            take(&mut planning, &mut same, &pool, &step);
            prop_assert_eq!(seen(&mut plain), seen(&mut planning), "after {:?}", step);
        }
    }
}

/// The objects that were added and removed between two sets.
fn between(pool: &[Arc<Object>], from: u16, to: u16) -> (Vec<Arc<Object>>, Vec<Arc<Object>>) {
    (chosen(pool, to & !from), chosen(pool, from & !to))
}

proptest! {
    #[test]
    fn a_change_does_what_the_whole_set_does(
        steps in prop::collection::vec((step(), any::<u16>()), 1..25),
    ) {
        let pool = pool();
        let mut now = Instant::now();
        let (mut whole, mut changing) = (State::new(settings(false)), State::new(settings(false)));
        let mut held = 0;
        for (step, dropped) in steps {
            let (added, gone) = between(&pool, held, dropped);
            drop(changing.plan_change(now, &added, &gone));
            let mut same = now;
            take(&mut whole, &mut now, &pool, &step);
            if let Step::Rules(set) = step {
                let (mut added, mut gone) = between(&pool, held, set);
                // An object that only moved is in both lists.
                let moved = chosen(&pool, held & set & dropped);
                added.extend(moved.iter().cloned());
                gone.extend(moved);
                changing.plan_change(now, &added, &gone).commit();
                held = set;
            } else {
                take(&mut changing, &mut same, &pool, &step);
            }
            prop_assert_eq!(seen(&mut whole), seen(&mut changing), "after {:?}", step);
        }
    }
}

#[test]
fn rules_that_do_not_fit_give_way_before_the_first_write() {
    let now = Instant::now();
    let rules = objects(&[&entry("a.example", "DNS", &port(443, "TLS"), "")]);
    let mut state = State::adopting(Settings::default(), Planner::default());
    state.handle_rules(now, &rules);
    let answer = Answer {
        addresses: vec![IpAddr::from([203, 0, 113, 1])],
        ttl: Duration::from_mins(1),
    };
    state.handle_answer(now, "a.example", Ok(answer));
    assert!(state.poll_ops().is_empty(), "the kernel goes on as it is");
    let plan = state.begin(now);
    let writes = plan.ops().to_vec();
    assert_eq!(writes.len(), 2, "{writes:?}");
    drop(plan);
    assert!(state.poll_ops().is_empty());
    state.begin(now).commit();
    assert_eq!(state.poll_ops(), writes);
}

#[test]
fn rules_beyond_the_room_are_not_planned_and_the_former_ones_stay() {
    let now = Instant::now();
    let networks = |n: u32| {
        let one = |n| {
            let spec = format!("addresses: [198.18.{n}.0/24]");
            entry(&format!("h{n}.example"), "NONE", &port(5432, "TCP"), &spec)
        };
        let all: Vec<_> = (0..n).map(one).collect();
        objects(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let planner = Planner::default().within(Room([9, 3]));
    let mut state = State::adopting(Settings::default(), planner);
    state.handle_rules(now, &networks(4));
    let plan = state.begin(now);
    let why = plan.fits().unwrap_err().to_string();
    assert_eq!(why, "4 entries of networks, there is room for 3");
    assert!(plan.ops().is_empty());
    plan.commit();
    assert!(state.poll_ops().is_empty());
    state.handle_rules(now, &networks(3));
    state.begin(now).commit();
    assert_eq!(state.poll_ops().len(), 4);
    let plan = state.plan_rules(now, &networks(30));
    assert!(plan.fits().is_err() && plan.ops().is_empty());
    drop(plan);
    state.handle_rules(now, &networks(2));
    let ops = state.poll_ops();
    let deletes = |op: &&TableOp| matches!(op, TableOp::Delete(..));
    assert_eq!(ops.iter().filter(deletes).count(), 1, "{ops:?}");
}
