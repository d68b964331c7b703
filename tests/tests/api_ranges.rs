//! The cluster's own ranges, found in the Kubernetes API: allowed without a rule while an object names them.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::api::{FakeApi, Fault, Verb};
use egress_tests::lab::{host, v4, v6};
use egress_tests::{Lab, LabOptions, wait_until};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// The lab and the server. The agent ends first.
struct Site {
    lab: Lab,
    api: FakeApi,
}

impl Site {
    /// A server with the kinds that name ranges, and no agent yet.
    fn new() -> Self {
        let mut lab = Lab::without_agent(LabOptions::default()).unwrap();
        let api = FakeApi::start_in(lab.node()).unwrap();
        api.install_ranges();
        let kubeconfig = api.kubeconfig().unwrap().display().to_string();
        let flags = ["--kubernetes-identity=false", "--kubeconfig", &kubeconfig];
        lab.add_flags(&flags);
        Self { lab, api }
    }

    /// The same with the ranges of Services as objects, as from Kubernetes 1.33 on.
    fn with_service_ranges() -> Self {
        let site = Self::new();
        site.api.install_service_ranges();
        let kubernetes =
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}});
        site.api.put("servicecidrs", kubernetes).unwrap();
        site
    }

    fn node(&self, name: &str, addresses: &[IpAddr], pods: &str) {
        self.heartbeat(name, addresses, pods, 0);
    }

    /// The same as a kubelet writes it every five minutes.
    fn heartbeat(&self, name: &str, addresses: &[IpAddr], pods: &str, time: usize) {
        let address = |ip: &IpAddr| json!({"type": "InternalIP", "address": ip});
        let addresses: Vec<Value> = addresses.iter().map(address).collect();
        let node = json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": pods, "podCIDRs": [pods]},
            "status": {"addresses": addresses, "conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": format!("2026-01-02T03:04:{time:02}Z")},
            ]},
        });
        self.api.put("nodes", node).unwrap();
    }

    fn passes(&self, to: IpAddr) -> bool {
        let to = SocketAddr::new(to, 80);
        self.lab.attempt("tcp", to).unwrap().passed()
    }

    fn becomes(&self, to: IpAddr, passes: bool) {
        wait_until("the ranges are in force", SOON, || {
            (self.passes(to) == passes).then_some(())
        })
        .unwrap();
    }

    /// Waits until `status` has these ranges.
    fn found(&self, of: &str, expected: &[&str]) {
        wait_until("the ranges are found", SOON, || {
            let status = self.lab.status().ok()?;
            (status["cluster"]["found"][of] == json!(expected)).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", self.lab.status().unwrap()["cluster"]));
    }
}

const OTHER: &str = "203.0.113.251";

#[test]
fn what_belongs_to_the_cluster_is_allowed_as_long_as_it_does() {
    let mut site = Site::with_service_ranges();
    let (own, six) = (v4(host::BYSTANDER), v6(host::BYSTANDER));
    site.node("a", &[OTHER.parse().unwrap()], "10.244.1.0/24");
    site.node("b", &[own, six], "10.244.0.0/24");
    site.lab.start_agent().unwrap();
    for to in [own, six] {
        site.becomes(to, true);
    }
    site.found("pods", &["10.244.0.0/23"]);
    site.found("services", &["10.96.0.0/16"]);
    let slice = json!({
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "endpoints": [{"addresses": ["203.0.113.252"]}],
    });
    site.api.put("endpointslices", slice).unwrap();
    site.found("apiServer", &["203.0.113.252/32"]);
    // Another object of the namespace says nothing about the API server.
    let forged = json!({
        "metadata": {"name": "forged", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": ["203.0.113.253"]}],
    });
    site.api.put("endpointslices", forged).unwrap();
    site.api.delete("nodes", "", "b").unwrap();
    for to in [own, six] {
        site.becomes(to, false);
    }
    site.found("pods", &["10.244.1.0/24"]);
    site.found("apiServer", &["203.0.113.252/32"]);
    assert_eq!(
        site.api.requests(Verb::List, "services"),
        0,
        "their ranges are known"
    );
}

#[test]
fn while_the_server_is_away_the_last_ranges_are_allowed_by_the_next_agent_too() {
    let mut site = Site::with_service_ranges();
    let own = v4(host::BYSTANDER);
    site.node("a", &[own], "10.244.1.0/24");
    site.lab.start_agent().unwrap();
    site.becomes(own, true);
    site.api.stop().unwrap();
    site.lab.agent().unwrap().terminate().unwrap();
    site.lab.start_agent().unwrap();
    assert!(site.passes(own), "from the first moment on");
    assert!(!site.passes(v4(host::HTTPBIN)), "nothing else");
    // It came back with another cluster.
    site.node("a", &[OTHER.parse().unwrap()], "10.244.1.0/24");
    site.api.start_again().unwrap();
    site.becomes(own, false);
}

#[test]
fn a_range_that_would_open_the_gate_is_refused_and_said() {
    let mut site = Site::with_service_ranges();
    let own = v4(host::BYSTANDER);
    site.node("a", &[OTHER.parse().unwrap()], "0.0.0.0/0");
    site.node("b", &["203.0.113.250".parse().unwrap()], "192.0.2.0/24");
    site.lab.start_agent().unwrap();
    site.found("nodes", &["203.0.113.250/31"]);
    assert!(!site.passes(own));
    let status = site.lab.status().unwrap();
    let refused = status["cluster"]["refused"].to_string();
    for part in [
        "0.0.0.0/0 of nodes a: it is too wide",
        "192.0.2.0/24 of nodes b: the agent tests",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(status["ready"], true, "{status}");
    let shown = {
        let socket = site.lab.admin_socket().display().to_string();
        site.lab
            .verb(&["status", "--admin-socket", &socket])
            .unwrap()
            .stdout
    };
    assert!(shown.contains("no range of pods was found"), "{shown}");
}

#[test]
fn a_node_is_read_when_it_appears_or_changes_and_not_at_each_heartbeat() {
    const NODES: usize = 60;
    let mut site = Site::with_service_ranges();
    let pods = |n: usize| format!("10.244.{n}.0/24");
    let nodes = |n: usize| [IpAddr::from([10, 1, 0, n as u8])];
    for n in 0..NODES {
        site.node(&format!("n{n}"), &nodes(n), &pods(n));
    }
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    site.api.fault(move |asked| {
        if asked.plural == "nodes" && !asked.table {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    site.lab.start_agent().unwrap();
    let found = |last: &str| {
        site.found(
            "nodes",
            &["10.1.0.0/27", "10.1.0.32/28", "10.1.0.48/29", last],
        );
    };
    found("10.1.0.56/30");
    assert_eq!(reads.load(Ordering::Relaxed), 1, "one list of all");
    for time in 1..50 {
        for n in 0..NODES {
            site.heartbeat(&format!("n{n}"), &nodes(n), &pods(n), time);
        }
    }
    // A new node, and one with another address.
    site.node("new", &nodes(60), &pods(60));
    site.found(
        "pods",
        &[
            "10.244.0.0/19",
            "10.244.32.0/20",
            "10.244.48.0/21",
            "10.244.56.0/22",
            "10.244.60.0/24",
        ],
    );
    let other = v4(host::BYSTANDER);
    site.node("new", &[other], &pods(60));
    site.becomes(other, true);
    assert_eq!(reads.load(Ordering::Relaxed), 3, "one for each change");
    // The next agent knows their ranges from the last one, and reads what differs.
    site.lab.agent().unwrap().terminate().unwrap();
    site.node("n0", &[OTHER.parse().unwrap()], &pods(0));
    site.lab.start_agent().unwrap();
    wait_until("the changed node is read", SOON, || {
        let status = site.lab.status().ok()?;
        status["cluster"]["found"]["nodes"]
            .to_string()
            .contains(OTHER)
            .then_some(())
    })
    .unwrap();
    assert_eq!(reads.load(Ordering::Relaxed), 4, "no node twice");
}

#[test]
fn nodes_that_are_too_large_for_one_answer_are_read_in_pages() {
    let mut site = Site::with_service_ranges();
    for n in 0..60 {
        site.node(
            &format!("n{n}"),
            &[IpAddr::from([10, 1, 0, n])],
            "10.244.0.0/16",
        );
    }
    site.api.fault(|asked| {
        let of_nodes = asked.plural == "nodes" && !asked.table && asked.is_of_cache();
        of_nodes.then(|| Fault::Body(" ".repeat(65 << 20)))
    });
    site.lab.start_agent().unwrap();
    site.found(
        "nodes",
        &[
            "10.1.0.0/27",
            "10.1.0.32/28",
            "10.1.0.48/29",
            "10.1.0.56/30",
        ],
    );
}

#[test]
fn without_ranges_of_services_each_service_counts() {
    let mut site = Site::new();
    let own = v4(host::BYSTANDER);
    site.node("a", &[OTHER.parse().unwrap()], "10.244.1.0/24");
    let service = json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"clusterIPs": [own, "None"]}});
    site.api.put("services", service).unwrap();
    site.lab.start_agent().unwrap();
    site.becomes(own, true);
    let kept = json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIPs": ["10.96.0.1"]}});
    site.api.put("services", kept).unwrap();
    site.api.delete("services", "shop", "a").unwrap();
    site.becomes(own, false);
}
