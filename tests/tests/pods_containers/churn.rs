//! Pods of containerd that come and go, with their objects in an API server.

use super::node::Node;
use super::{SOON, get};
use egress_tests::api::FakeApi;
use egress_tests::pods::cluster::{Cluster, object};
use egress_tests::pods::held::Held;
use egress_tests::pods::uid;
use egress_tests::rules::HTTPBIN;
use egress_tests::scrape::Scrape;
use egress_tests::wait_until;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::{fs, thread};

const PODS: u16 = 100;
/// At the same time: a round mostly waits for the runtime.
const TOGETHER: usize = 4;
/// In the node's namespace.
const METRICS: &str = "127.0.0.1:15020";
/// What the agent's memory may grow by meanwhile.
const GROWTH: u64 = 4 << 20;

/// The life of a pod, as the scheduler, the kubelet and a user see it.
fn life(api: &FakeApi, node: &Node, workloads: &Path, number: u16) {
    let name = format!("client-{number}");
    let object = object(&uid(number), "shop", &name, &json!({"app": name}));
    api.put("pods", object).unwrap();
    let pod = node.pod(number, &[], &[]).unwrap();
    assert_eq!(get(node, &pod, "http://httpbin.org/get"), 200);
    node.cri.remove(&pod.sandbox).unwrap();
    api.delete("pods", "shop", &name).unwrap();
    let cgroup = workloads.join(format!("burstable/pod{}", uid(number)));
    wait_until("the pod's cgroup can be removed", SOON, || {
        fs::remove_dir(&cgroup).ok()
    })
    .unwrap();
}

type Series = BTreeSet<(String, BTreeMap<String, String>)>;

fn series(cluster: &Cluster) -> Series {
    let scrape = Scrape::of(cluster.lab.node(), METRICS.parse().unwrap()).unwrap();
    let samples = scrape.samples.into_iter();
    samples.map(|sample| (sample.name, sample.labels)).collect()
}

/// The network devices of the node: each pod has a cable there.
fn devices(cluster: &Cluster) -> usize {
    let count = || fs::read_to_string("/proc/thread-self/net/dev").map(|all| all.lines().count());
    cluster.lab.node().run(count).unwrap().unwrap()
}

#[test]
fn nothing_is_left_of_a_hundred_pods_that_came_and_went() {
    let flags = ["--monitoring-address", METRICS];
    let mut cluster = Cluster::for_runtime(&flags).unwrap();
    let empty = Held::now(&mut cluster.lab).unwrap();
    let of_shop = HTTPBIN.replace(
        "  name: httpbin-ext",
        "  name: httpbin-ext\n  namespace: shop",
    );
    let of_shop = of_shop.replace("spec:", "spec:\n  exportTo: ['.']");
    cluster.lab.rules("httpbin.yaml", &of_shop).unwrap();
    let node = Node::start(&cluster.lab).unwrap();
    let next = AtomicU16::new(1);
    let live_until = |cluster: &Cluster, last: u16| {
        let (api, workloads) = (&cluster.api, cluster.lab.workloads().path());
        let all = || loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number > last {
                next.store(last + 1, Ordering::Relaxed);
                return;
            }
            life(api, &node, workloads, number);
        };
        thread::scope(|scope| {
            for _ in 0..TOGETHER {
                scope.spawn(all);
            }
        });
    };
    // The first pods bring what the agent keeps for any number of them.
    let first = 2 * u16::try_from(TOGETHER).unwrap();
    live_until(&cluster, first);
    let before = empty.wait_empty(&mut cluster.lab, SOON).unwrap();
    let (series_before, devices_before) = (series(&cluster), devices(&cluster));
    let resident = |cluster: &mut Cluster| cluster.lab.agent().unwrap().resident().unwrap();
    let resident_before = resident(&mut cluster);

    live_until(&cluster, first + PODS);
    before
        .wait_back(&mut cluster.lab, PODS.into(), SOON)
        .unwrap();
    wait_until("no pod is known", SOON, || {
        let status = cluster.lab.status().ok()?;
        let objects = &status["kubernetes"][0]["objects"];
        let workloads = status["workloads"].as_array()?;
        (*objects == 0 && workloads.is_empty()).then_some(())
    })
    .unwrap();
    wait_until("no cable is left", SOON, || {
        (devices(&cluster) <= devices_before).then_some(())
    })
    .unwrap();
    let new: Series = series(&cluster)
        .difference(&series_before)
        .cloned()
        .collect();
    assert!(new.len() < usize::from(PODS) / 10, "{new:?}");
    let grown = resident(&mut cluster).saturating_sub(resident_before);
    println!(
        "{PODS} pods created and deleted: {} KiB more are resident, {} new metric series",
        grown >> 10,
        new.len()
    );
    assert!(grown < GROWTH, "{grown} bytes");
}
