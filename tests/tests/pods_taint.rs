//! The startup taint of a node: the agent removes it once it is ready, and leaves other taints.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::api::{Resource, Verb};
use egress_tests::cgroup::Cgroup;
use egress_tests::pods::cluster::{Cluster, NODE};
use egress_tests::readiness::{not_ready, spawn};
use egress_tests::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn taints(cluster: &Cluster) -> Value {
    let node = cluster.api.get("nodes", "", NODE).unwrap();
    node["spec"]["taints"].clone()
}

#[test]
fn a_node_gets_pods_once_its_gate_is_closed_and_not_before() {
    let empty = Cgroup::new().unwrap();
    let root = empty.path().display().to_string();
    let flags = [
        "--kubernetes-identity=false",
        "--kubernetes-startup-taint",
        "--cgroup",
        &root,
    ];
    let cluster = Cluster::without_agent(&flags).unwrap();
    cluster.api.install(Resource::core("Node", "nodes", false));
    let other = json!({"key": "dedicated", "value": "db", "effect": "NoSchedule"});
    let ours = json!({"key": "egress-agent/not-ready", "effect": "NoSchedule"});
    let node = json!({"metadata": {"name": NODE}, "spec": {"taints": [ours, other]}});
    cluster.api.put("nodes", node).unwrap();
    let agent = spawn(&cluster.lab, &cluster.lab.agent_place(), &[]).unwrap();
    not_ready(&cluster.lab, "no workload is below").unwrap();
    assert_eq!(taints(&cluster), json!([ours, other]));
    assert_eq!(cluster.api.requests(Verb::Patch, "nodes"), 0);
    let _first = empty.child("first").unwrap();
    wait_until("the taint is removed", SOON, || {
        (taints(&cluster) == json!([other])).then_some(())
    })
    .unwrap();
    assert_eq!(cluster.api.requests(Verb::Patch, "nodes"), 1);
    drop(agent);
}
