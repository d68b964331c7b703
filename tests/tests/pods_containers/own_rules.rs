//! Two pods of two namespaces that run side by side, with different rules for the same hosts.

use super::SOON;
use super::node::{Node, Pod};
use egress_tests::lab::{host, v4, v6};
use egress_tests::{Lab, pods, wait_until};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread;

/// Tries of each kind by each pod.
const TRIES: usize = 5;

/// The hosts for one namespace alone, each ruled out for the other in one of two ways: it is not
/// exported, or the other's Sidecar does not import it.
fn only_for(namespace: &str, other: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: httpbin, namespace: {namespace}}}
spec:
  hosts: [httpbin.org]
  exportTo: ['.']
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: google, namespace: {namespace}}}
spec:
  hosts: [www.google.com]
  exportTo: ['.']
  ports: [{{number: 443, name: tls, protocol: TLS}}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: echo, namespace: common}}
spec:
  hosts: [echo.example]
  ports: [{{number: 7, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: {}}}, {{address: '{}'}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: imports, namespace: {namespace}}}
spec: {{egress: [{{hosts: ['./*', 'common/*']}}]}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: imports, namespace: {other}}}
spec: {{egress: [{{hosts: ['./*']}}]}}
",
        v4(host::ECHO),
        v6(host::ECHO)
    )
}

/// What became of a try.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Through,
    Refused,
    Other(String),
}

/// Each kind of flow once, by one family: HTTP through the proxy, TLS by its SNI, TCP straight to
/// its address.
fn each_way(node: &Node, pod: &Pod, family: IpAddr) -> [Outcome; 3] {
    let (flag, echo) = match family {
        IpAddr::V4(_) => ("-4", v4(host::ECHO)),
        IpAddr::V6(_) => ("-6", v6(host::ECHO)),
    };
    let curl = |url: &str| {
        let arguments = [flag, "--cacert", "/ca.pem", url];
        let (code, _, done) = node.curl(pod, &arguments).unwrap();
        match (code, done.exit) {
            (200, 0) => Outcome::Through,
            // "Operation not permitted" while connecting.
            (0, 7) => Outcome::Refused,
            _ => Outcome::Other(format!("{code} {done:?}")),
        }
    };
    let echo = SocketAddr::new(echo, 7).to_string();
    let probe = ["probe", "tcp-echo", &echo];
    let probe = node.cri.exec(&pod.container, &probe).unwrap();
    let direct = match serde_json::from_str::<serde_json::Value>(&probe.stdout) {
        Ok(answer) if answer["errno"].is_null() => Outcome::Through,
        Ok(answer) if answer["errno"] == libc::EPERM => Outcome::Refused,
        _ => Outcome::Other(format!("{probe:?}")),
    };
    [
        curl("http://httpbin.org/get"),
        curl("https://www.google.com/"),
        direct,
    ]
}

/// Who the hosts saw since the counts given, and the counts since then.
fn seen(lab: &Lab, before: [usize; 3]) -> ([BTreeSet<IpAddr>; 3], [usize; 3]) {
    let peers = |origin: &egress_tests::hosts::Origin| -> Vec<IpAddr> {
        let requests = origin.requests();
        requests.iter().map(|seen| seen.peer.ip()).collect()
    };
    let all = [peers(&lab.httpbin), peers(&lab.google), lab.echo.peers()];
    let counts = all.each_ref().map(Vec::len);
    let mut fresh = all.into_iter().zip(before);
    let sets = std::array::from_fn(|_| {
        let (peers, skip) = fresh.next().unwrap();
        peers.into_iter().skip(skip).collect()
    });
    (sets, counts)
}

#[test]
fn two_pods_in_two_namespaces_get_through_to_the_same_hosts_by_their_own_rules() {
    let lab = Lab::start_with(pods::in_namespaces(&[(1, "shop"), (2, "blog")])).unwrap();
    let node = Node::start(&lab).unwrap();
    let trust = (lab.authority().path(), "/ca.pem");
    let shop = node.pod(1, &[], &[trust]).unwrap();
    let blog = node.pod(2, &[], &[trust]).unwrap();
    let mut before = [0; 3];
    // Then the other way round, so that each is seen under its own address.
    for (namespace, listed, other, not_listed) in [
        ("shop", &shop, "blog", &blog),
        ("blog", &blog, "shop", &shop),
    ] {
        lab.rules("rules.yaml", &only_for(namespace, other))
            .unwrap();
        let own = [listed.v4, listed.v6];
        for address in own {
            wait_until(
                "the names are resolved and the proxy is there",
                SOON,
                || {
                    let all = each_way(&node, listed, address);
                    all.iter().all(|o| *o == Outcome::Through).then_some(())
                },
            )
            .unwrap();
        }
        let tries = |pod: &Pod, expected: &Outcome| {
            for _ in 0..TRIES {
                for family in own {
                    for outcome in each_way(&node, pod, family) {
                        assert_eq!(outcome, *expected, "{namespace} is listed");
                    }
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| tries(listed, &Outcome::Through));
            scope.spawn(|| tries(not_listed, &Outcome::Refused));
        });
        let (peers, counts) = seen(&lab, before);
        for (host, peers) in ["httpbin", "google", "echo"].iter().zip(peers) {
            assert_eq!(peers, own.into(), "{host} saw the listed pod alone");
        }
        before = counts;
    }
}
