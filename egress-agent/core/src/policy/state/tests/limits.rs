//! `DestinationRule`s of TCP ports: which settings send their flows through the proxy, and where the proxy leads them.

use super::bench::{Bench, dialled};
use super::{entry, port};
use crate::policy::state::Settings;
use crate::routing::TcpDecision;
use egress_ebpf::ids::PolicyId;
use std::net::SocketAddr;

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r}}\nspec: {{host: a.example, \
         trafficPolicy: {{{policy}}}}}\n"
    )
}

/// A host with a TCP port at two addresses, of which clients dial one.
fn bench(resolution: &str, protocol: &str, policy: &str) -> Bench {
    let rest = match resolution {
        "STATIC" => "endpoints: [{address: 203.0.113.80}, {address: 203.0.113.81}]",
        "NONE" => "addresses: [203.0.113.80/31]",
        _ => "",
    };
    let service = entry("a.example", resolution, &port(5432, protocol), rest);
    let rule = rule(policy);
    let texts = [service.as_str(), rule.as_str()];
    let with_rule = if policy.is_empty() { 1 } else { 2 };
    let mut bench = Bench::new(Settings::default(), &texts[..with_rule]);
    if resolution.starts_with("DNS") {
        bench.answer("a.example", &["203.0.113.80", "203.0.113.81"]);
    }
    bench
}

fn addresses(bench: &mut Bench) -> (Option<u16>, Vec<SocketAddr>) {
    let routes = bench.state.routes();
    match routes.tcp(PolicyId(0), dialled(5432), 0) {
        TcpDecision::Relay(cluster) => (cluster.original_dst, cluster.endpoints.clone()),
        other => panic!("{other:?}"),
    }
}

/// Settings of connections.
const OF_THE_FLOW: [&str; 7] = [
    "connectionPool: {tcp: {maxConnections: 5}}",
    "connectionPool: {tcp: {connectTimeout: 1s}}",
    "connectionPool: {tcp: {maxConnectionDuration: 1h}}",
    "connectionPool: {tcp: {idleTimeout: 60s}}",
    "connectionPool: {tcp: {tcpKeepalive: {time: 60s}}}",
    "connectionPool: {tcp: {tcpKeepalive: {}}}",
    "portLevelSettings: [{port: {number: 5432}, connectionPool: {tcp: {maxConnections: 5}}}]",
];

/// Settings by which the proxy chooses the endpoint.
const OF_THE_CHOICE: [&str; 5] = [
    "outlierDetection: {consecutive5xxErrors: 3}",
    "outlierDetection: {}",
    "loadBalancer: {simple: ROUND_ROBIN}",
    "loadBalancer: {consistentHash: {useSourceIp: true}}",
    "loadBalancer: {simple: LEAST_REQUEST}, connectionPool: {tcp: {maxConnections: 5}}",
];

/// What a flow to a TCP port does not need the proxy for.
const WITHOUT_EFFECT: [&str; 5] = [
    "",
    "connectionPool: {http: {http1MaxPendingRequests: 1, maxRetries: 2, idleTimeout: 5s}}",
    "loadBalancer: {simple: PASSTHROUGH}",
    "loadBalancer: {localityLbSetting: {enabled: false}}",
    "portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 5}}}]",
];

#[test]
fn settings_that_only_the_proxy_carries_out_lead_tcp_through_it() {
    for protocol in ["TCP", "Mongo", "Redis", "MySQL"] {
        for resolution in ["DNS", "DNS_ROUND_ROBIN", "STATIC", "NONE"] {
            let actions = |policy: &str| -> Vec<String> {
                let bench = bench(resolution, protocol, policy);
                let lines = bench.entries().into_iter();
                let words = lines.filter_map(|line| line.rsplit(' ').next());
                words.map(str::to_owned).collect()
            };
            let all = |policy: &str, word: &str| {
                let found = actions(policy);
                let are = !found.is_empty() && found.iter().all(|w| w == word);
                assert!(are, "{protocol} {resolution} {policy}: {found:?}");
            };
            for policy in OF_THE_FLOW {
                all(policy, "proxy");
            }
            for policy in WITHOUT_EFFECT {
                all(policy, "allow");
            }
            for policy in &OF_THE_CHOICE[..4] {
                // With resolution NONE the clients choose.
                all(
                    policy,
                    if resolution == "NONE" {
                        "allow"
                    } else {
                        "proxy"
                    },
                );
            }
            all(OF_THE_CHOICE[4], "proxy");
        }
    }
}

#[test]
fn the_proxy_dials_what_was_dialled_unless_a_setting_chooses_the_endpoint() {
    let both: Vec<SocketAddr> = ["203.0.113.80:5432", "203.0.113.81:5432"]
        .map(|at| at.parse().unwrap())
        .into();
    for resolution in ["DNS", "STATIC"] {
        for policy in OF_THE_FLOW {
            let (as_dialled, _) = addresses(&mut bench(resolution, "TCP", policy));
            assert_eq!(as_dialled, Some(5432), "{resolution} {policy}");
        }
        for policy in OF_THE_CHOICE {
            let found = addresses(&mut bench(resolution, "TCP", policy));
            assert_eq!(found, (None, both.clone()), "{resolution} {policy}");
        }
    }
    for policy in [OF_THE_FLOW[0], OF_THE_CHOICE[4]] {
        let (as_dialled, _) = addresses(&mut bench("NONE", "TCP", policy));
        assert_eq!(as_dialled, Some(5432), "{policy}");
    }
}
