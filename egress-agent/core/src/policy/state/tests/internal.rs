//! Ranges that every workload may reach.

use super::bench::Bench;
use super::{entry, port};
use crate::policy::state::Settings;
use egress_ebpf::ids::PolicyId;

#[test]
fn internal_ranges_pass_on_every_port() {
    let internal = vec!["10.96.0.0/12".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let bench = Bench::new(
        Settings {
            internal,
            ..Settings::default()
        },
        &[],
    );
    let expected = [
        "10.96.0.0/108 0 allow",
        "10.96.0.0/108 0/udp allow",
        "fd00::/8 0 allow",
        "fd00::/8 0/udp allow",
    ];
    assert_eq!(bench.entries(), expected);
}

#[test]
fn changed_internal_ranges_change_their_entries_only() {
    let nets = |all: &[&str]| all.iter().map(|net| net.parse().unwrap()).collect();
    let entries = [
        entry(
            "a.example",
            "STATIC",
            &port(80, "HTTP"),
            "endpoints: [{address: 10.96.0.9}]",
        ),
        entry(
            "b.example",
            "NONE",
            &port(81, "TCP"),
            "addresses: [10.97.0.0/16]",
        ),
    ];
    let rules: Vec<&str> = entries.iter().map(String::as_str).collect();
    let sets: [Vec<_>; 4] = [
        nets(&["10.96.0.0/12"]),
        nets(&["10.96.0.0/12", "10.97.0.0/16", "198.51.100.7/32"]),
        nets(&["fd00::/8", "10.97.0.0/16"]),
        Vec::new(),
    ];
    let mut changing = Bench::new(Settings::default(), &rules);
    for internal in sets {
        let plan = changing.state.plan_internal(changing.now, internal.clone());
        assert_eq!((plan.work().policies, plan.work().services), (1, 0));
        plan.commit();
        changing.write();
        let settings = Settings {
            internal,
            ..Settings::default()
        };
        let mut fresh = Bench::new(settings, &rules);
        assert_eq!(changing.entries(), fresh.entries());
        let passed = |bench: &mut Bench| {
            bench.state.routes().policies[&PolicyId(0)]
                .passthrough
                .clone()
        };
        assert_eq!(passed(&mut changing), passed(&mut fresh));
    }
}
