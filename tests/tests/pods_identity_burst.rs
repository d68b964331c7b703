//! Many pods that start together, faster than one by one can be handled: each gets its own policy. `cargo xtask bench api`
//! measures how long that takes.

use egress_tests::cgroup::Cgroup;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::pods::cluster::{Cluster, object};
use egress_tests::{pinned, probe, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// As many as the kubelet allows on a node by default.
const PODS: usize = 110;
const NAMESPACES: usize = 10;

fn namespace(pod: usize) -> String {
    format!("ns-{}", pod % NAMESPACES)
}

fn uid(pod: usize) -> String {
    format!("{pod:08x}-4444-4000-8000-000000000000")
}

/// Whether a namespace has the rule.
fn lists(pod: usize) -> bool {
    (pod % NAMESPACES).is_multiple_of(2)
}

/// One server for every second namespace.
fn rules() -> String {
    let rule = |pod: usize| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: bystander, namespace: {}}}
spec:
  hosts: [bystander.example]
  exportTo: ['.']
  ports: [{{number: 443, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: {}}}]
",
            namespace(pod),
            v4(host::BYSTANDER)
        )
    };
    (0..NAMESPACES).filter(|n| lists(*n)).map(rule).collect()
}

#[test]
fn each_pod_of_a_burst_is_under_its_own_policy() {
    let cluster = Cluster::start(&[]).unwrap();
    cluster.lab.rules("bystander.yaml", &rules()).unwrap();
    let owners = || pinned::owners(cluster.lab.bpf_dir()).unwrap();
    let before = owners();
    let group = cluster.lab.workloads().child("besteffort").unwrap();
    let cgroup = |n: usize| group.child(&format!("pod{}", uid(n))).unwrap();
    let name = |n: usize| format!("burst-{n}");
    let put = |n: usize| {
        let labels = json!({"app": name(n)});
        let object = object(&uid(n), &namespace(n), &name(n), &labels);
        cluster.api.put("pods", object).unwrap();
    };
    let create = |n: usize| {
        if n.is_multiple_of(3) {
            put(n);
            return cgroup(n);
        }
        let cgroup = cgroup(n);
        put(n);
        cgroup
    };
    let pods: Vec<Cgroup> = (0..PODS).map(create).collect();
    for pod in &pods {
        let id = pod.id().unwrap();
        wait_until("a pod has its policy", SOON, || {
            let has = pinned::has_owner(cluster.lab.bpf_dir(), id).unwrap();
            has.then_some(())
        })
        .unwrap();
    }

    let status = cluster.lab.status().unwrap();
    let shown = status["workloads"].as_array().unwrap();
    let shown: BTreeMap<&str, &Value> = shown
        .iter()
        .filter_map(|w| Some((w["pod"].as_str()?, w)))
        .collect();
    assert_eq!(shown.len(), PODS, "{status}");
    let to = SocketAddr::new(v4(host::BYSTANDER), 443);
    for (n, pod) in pods.iter().enumerate() {
        let identity = format!("{}/{}", namespace(n), name(n));
        assert_eq!(shown[uid(n).as_str()]["identity"], identity);
        let place = Place {
            cgroup: Some(pod),
            netns: Some(cluster.lab.node()),
            resolver: None,
        };
        let answer = probe::attempt(&place, "tcp", to).unwrap();
        let right = if lists(n) {
            answer.passed()
        } else {
            answer.denied()
        };
        assert!(right, "{identity}: {answer:?}");
    }

    // They end as fast, and nothing is left of them.
    for n in 0..PODS {
        cluster.api.delete("pods", &namespace(n), &name(n)).unwrap();
    }
    drop(pods);
    wait_until("nothing is left of the pods", SOON, || {
        (owners() == before).then_some(())
    })
    .unwrap();
}
