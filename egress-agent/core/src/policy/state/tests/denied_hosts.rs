//! A host that serves nothing has no entry in the kernel's tables that allows a flow, of TCP and of UDP.

use super::bench::{Bench, objects};
use super::{entry, port};
use crate::istio::decode;
use crate::istio::stand_in::stand_in;
use crate::policy::leases::{Answer, Lease};
use crate::policy::state::Settings;
use egress_ebpf::ids::PolicyId;
use std::sync::Arc;
use std::time::Duration;

const HEAD: &str = "apiVersion: networking.istio.io/v1\nkind: ";

fn rule(kind: &str, spec: &str) -> String {
    format!("{HEAD}{kind}\nmetadata: {{name: r}}\nspec: {spec}\n")
}

/// Entries that allow flows, with answers for the host and for a name below it.
fn allowed(service: &str, rule: Option<(&str, bool)>) -> Vec<String> {
    let mut bench = Bench::new(Settings::default(), &[]);
    let mut rules = objects(&[service]);
    if let Some((text, is_valid)) = rule {
        let object = decode("test.yaml", text).objects.remove(0);
        let object = if is_valid {
            Some(object)
        } else {
            stand_in(&object)
        };
        rules.extend(object.map(Arc::new));
    }
    bench.state.handle_rules(bench.now, &rules);
    bench.write();
    if bench.state.unresolved().contains("a.x.com") {
        bench.answer("a.x.com", &["203.0.113.80"]);
    }
    let answer = Answer {
        addresses: vec!["203.0.113.90".parse().unwrap()],
        ttl: Duration::from_mins(1),
    };
    let lease = Lease {
        policy: PolicyId(0),
        workload: None,
        name: "b.x.com".into(),
        hosts: vec!["*.x.com".into()],
        answer,
    };
    bench.state.handle_leases(bench.now, &[lease]);
    bench.write();
    let entries = bench.entries().into_iter();
    let allowed = entries.filter(|line| line.ends_with("allow"));
    allowed.map(str::to_owned).collect()
}

#[test]
fn a_denied_host_has_no_port_that_is_open() {
    let ports = format!("{}, {}", port(53, "UDP"), port(5432, "TCP"));
    let fixed = "endpoints: [{address: 203.0.113.70}]";
    let unspelt = entry("*.x.com", "NONE", &ports, "").replace("resolution: NONE\n", "\n");
    let fixed_net = "addresses: [198.51.100.0/24]";
    let services = [
        entry("a.x.com", "DNS", &ports, ""),
        entry("a.x.com", "DNS_ROUND_ROBIN", &ports, ""),
        entry("a.x.com", "STATIC", &ports, fixed),
        entry("a.x.com", "NONE", &ports, ""),
        entry("a.x.com", "NONE", &ports, fixed_net),
        unspelt,
    ];
    for service in &services {
        assert_eq!(allowed(service, None).len(), 2, "{service}");
        let (service_rule, traffic_rule) = ("VirtualService", "DestinationRule");
        for (kind, spec, is_valid) in [
            (service_rule, "{hosts: ['*.x.com'], http: [{}]}", false),
            (service_rule, "{hosts: ['*.x.com'], htttp: []}", false),
            (
                traffic_rule,
                "{host: '*.x.com', trafficPolicy: {connectionPool: {}}}",
                false,
            ),
            (
                traffic_rule,
                "{host: '*.x.com', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}",
                true,
            ),
        ] {
            let rule = rule(kind, spec);
            let left = allowed(service, Some((&rule, is_valid)));
            assert_eq!(left, [""; 0], "{service}{rule}");
        }
        let of_port = "{host: '*.x.com', trafficPolicy: {portLevelSettings: [{port: {number: 53}, tls: {mode: ISTIO_MUTUAL}}]}}";
        let left = allowed(service, Some((&rule("DestinationRule", of_port), true)));
        assert_eq!(left.len(), 1, "{service} {left:?}");
        assert!(left.iter().all(|line| line.contains(" 5432 ")), "{left:?}");
    }
}
