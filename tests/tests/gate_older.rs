//! Sockets that are older than the gate, in a workload whose policy lists less than its root's default.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{host, v4, v6};
use egress_tests::{Background, Lab, LabOptions};
use std::net::SocketAddr;
use std::time::Duration;

const ESCAPE: &str = env!("CARGO_BIN_EXE_escape");
const SOON: Duration = Duration::from_secs(30);

/// The root's default allows any destination and sees no entry; the workload sees a name to check and
/// nothing else.
const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec:
  hosts: [web.example]
  exportTo: ['.']
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.10}, {address: '2001:db8:2::10'}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: ['./*']}]
";

/// A socket of this kind, before its first use.
fn older(lab: &Lab, path: &str, to: SocketAddr) -> Background {
    let mut command = lab.command(ESCAPE).unwrap();
    let (to, own) = (to.to_string(), to.ip().to_string());
    command.args(["try", path, &to, &to, &to, &own, "1"]);
    let socket = Background::start(command).unwrap();
    socket
        .wait_line("it is ready", SOON, |line| line == "ready")
        .unwrap();
    socket
}

#[test]
fn a_socket_older_than_the_gate_is_judged_by_its_own_cgroups_policy() {
    let entry = "{cgroup: client, namespace: shop}";
    let flags = [
        "--workload",
        entry,
        "--outbound-traffic-policy",
        "ALLOW_ANY",
    ];
    let mut lab = Lab::without_agent(LabOptions::flags(&flags)).unwrap();
    lab.write_rules("rules.yaml", RULES).unwrap();
    let (web, other) = (host::HTTPBIN, host::ECHO);
    let mut sockets = Vec::new();
    let listed_by_nobody = SocketAddr::new(v4(other), 7);
    assert!(lab.attempt("tcp-echo", listed_by_nobody).unwrap().passed());
    for (path, host, port) in [
        // Listed for the proxy, which the connect of an older socket does not reach.
        ("older-socket", web, 80),
        ("older-socket", other, 7),
        ("older-datagram", other, 7),
    ] {
        for ip in [v4(host), v6(host)] {
            let to = SocketAddr::new(ip, port);
            sockets.push((path, to, older(&lab, path, to)));
        }
    }
    lab.start_agent().unwrap();
    let answer = lab.attempt("tcp-echo", listed_by_nobody).unwrap();
    assert!(answer.denied(), "the workload has a policy of its own");
    for (path, to, socket) in sockets {
        let end = socket.end().unwrap();
        let end = end.as_str().unwrap_or_default();
        assert!(end.starts_with("stop "), "{path} {to}: {end}");
    }
    let log = lab.agent().unwrap().log_since(0);
    for to in ["198.51.100.10:80", "[2001:db8:2::10]:80"] {
        let denied = |line: &String| line.contains(to) && line.contains("no-proxy");
        assert!(log.iter().any(denied), "{to}: {log:#?}");
    }
}
