//! Claims that follow single addresses are those that a policy built anew has.

use super::bench::objects;
use super::{Settings, entry, port};
use crate::policy::leases::{Answer, Bounds, Lease, LeaseSettings};
use crate::policy::state::{PolicyState, State};
use egress_ebpf::ids::{CgroupId, PolicyId};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Hosts that share names, ports and addresses with each other.
fn rules() -> Vec<String> {
    let both = format!("{}, {}", port(80, "HTTP"), port(5432, "TCP"));
    let moved = "{number: 443, name: m, protocol: TLS, targetPort: 8443}";
    let names = "endpoints: [{address: h0.example}, {address: h1.example, ports: {p: 81}}]";
    let held = "addresses: [203.0.113.1, 203.0.113.2/31]";
    let fixed = "endpoints: [{address: 203.0.113.3}, {address: 203.0.113.4}]";
    let mut all = vec![
        entry("h0.example", "DNS", &both, ""),
        entry("h1.example", "DNS_ROUND_ROBIN", moved, ""),
        entry("h2.example", "DNS", &both, names),
        entry("h3.example", "NONE", &port(5432, "TCP"), held),
        entry("h4.example", "STATIC", &both, fixed),
        entry("h0.example", "DNS", &port(53, "UDP"), ""),
    ];
    // `resolution` is not written, so these ports are open to learned addresses only.
    let wild = |host: &str, ports: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e}}\nspec: {{hosts: [{host:?}], \
             ports: [{ports}]}}\n"
        )
    };
    all.push(wild("*.wild.example", &both));
    all.push(wild("*.a.wild.example", &port(53, "UDP")));
    for (n, text) in all.iter_mut().enumerate() {
        *text = text.replace("name: e}", &format!("name: e{n}}}"));
    }
    all
}

fn addresses(set: u8) -> Vec<IpAddr> {
    let all = (1..=6).map(|n| IpAddr::from([203, 0, 113, n]));
    let chosen = all.enumerate().filter(|(n, _)| set >> n & 1 == 1);
    chosen.map(|(_, ip)| ip).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Answer(usize, u8, u64),
    Learned(u64, usize, u8),
    InUse(u8),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_usize..2, 1_u8..64, 0_u64..300)
            .prop_map(|(name, set, ttl)| Step::Answer(name, set, ttl)),
        (1_u64..3, 0_usize..6, 1_u8..64).prop_map(|(id, name, set)| Step::Learned(id, name, set)),
        (0_u8..64).prop_map(Step::InUse),
        (1_u64..400).prop_map(Step::Later),
    ]
}

fn lease(workload: u64, name: usize, set: u8) -> Lease {
    let names: [(&str, &[&str]); 6] = [
        ("h0.example", &["h0.example"]),
        ("h1.example", &["h1.example"]),
        ("a.wild.example", &["*.wild.example"]),
        ("b.wild.example", &["*.wild.example"]),
        ("x.a.wild.example", &["*.a.wild.example", "*.wild.example"]),
        ("y.a.wild.example", &["*.a.wild.example", "*.wild.example"]),
    ];
    let (name, hosts) = names[name];
    Lease {
        policy: PolicyId(0),
        workload: Some(CgroupId(workload)),
        name: name.into(),
        hosts: hosts.iter().map(|h| (*h).into()).collect(),
        answer: Answer {
            addresses: addresses(set),
            ttl: Duration::from_secs(1),
        },
    }
}

fn take(state: &mut State, now: &mut Instant, step: &Step) {
    match *step {
        Step::Answer(name, set, ttl) => {
            let answer = Answer {
                addresses: addresses(set),
                ttl: Duration::from_secs(ttl),
            };
            state.handle_answer(*now, &format!("h{name}.example"), Ok(answer));
        }
        Step::Learned(workload, name, set) => {
            state.handle_leases(*now, &[lease(workload, name, set)]);
        }
        Step::InUse(set) => {
            let used: BTreeSet<IpAddr> = addresses(set).into_iter().collect();
            state.handle_in_use(*now, &used, Duration::from_mins(1));
        }
        Step::Later(seconds) => *now += Duration::from_secs(seconds),
    }
    state.handle_timeout(*now);
}

proptest! {
    #[test]
    fn addresses_one_by_one_make_the_table_that_all_at_once_make(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let leases = LeaseSettings {
            max_addresses: 4,
            learned: Bounds { of_workload: 2, names: 3, addresses: 3 },
            ..LeaseSettings::default()
        };
        let settings = Settings { leases, ..Settings::default() };
        let mut now = Instant::now() + Duration::from_hours(1);
        let mut state = State::new(settings.clone());
        let texts = rules();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        state.handle_rules(now, &objects(&texts));
        for step in steps {
            take(&mut state, &mut now, &step);
            let held = &state.policies[&PolicyId(0)];
            let anew = PolicyState::new(held.view.clone(), held.audit, &settings, &state.leases);
            prop_assert_eq!(held.ledger.table(), anew.ledger.table(), "after {:?}", step);
        }
    }
}

#[test]
fn the_shared_address_of_a_learned_name_stays_while_one_name_has_it() {
    let mut now = Instant::now();
    let mut state = State::new(Settings::default());
    let texts = rules();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    state.handle_rules(now, &objects(&texts));
    let entries = |state: &State| -> Vec<String> {
        let table = state.policies[&PolicyId(0)].ledger.table();
        let at = table.keys().map(|target| format!("{target:?}"));
        at.filter(|text| text.contains("203.0.113.6")).collect()
    };
    let before = entries(&state);
    take(&mut state, &mut now, &Step::Learned(1, 2, 32));
    take(&mut state, &mut now, &Step::Later(300));
    take(&mut state, &mut now, &Step::Learned(1, 3, 32));
    let both = entries(&state);
    assert!(both.len() > before.len(), "{both:?}");
    take(&mut state, &mut now, &Step::Later(400));
    assert_eq!(state.names_learned(), 1);
    assert_eq!(entries(&state), both);
    take(&mut state, &mut now, &Step::Later(400));
    assert_eq!(entries(&state), before);
}
