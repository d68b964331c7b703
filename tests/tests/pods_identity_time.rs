//! How long it takes until an identity from the API is a policy in the kernel. Alone in its file, so that no other test
//! runs at the same time.

use egress_tests::bench::Precedence;
use egress_tests::cgroup::Cgroup;
use egress_tests::pods::cluster::{Cluster, object};
use egress_tests::rules::HTTPBIN;
use egress_tests::{pinned, wait_until};
use serde_json::json;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// For 99 of 100 pods.
const AT_ONCE: Duration = Duration::from_millis(20);

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100) - 1]
}

/// From both a pod's cgroup and its object to the policy of the cgroup in the kernel. `EGRESS_TEST_PODS` sets another
/// number of pods.
#[test]
fn an_identity_is_a_policy_at_once() {
    let pods: u16 = std::env::var("EGRESS_TEST_PODS").map_or(220, |n| n.parse().unwrap());
    let _precedence = Precedence::take();
    let mut cluster = Cluster::start(&[]).unwrap();
    cluster.lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let group = cluster.lab.workloads().child("besteffort").unwrap();
    let uid = |n: u16| format!("{n:08x}-1111-4000-8000-000000000000");
    let since = |began: Instant, cgroup: &Cgroup| {
        let id = cgroup.id().unwrap();
        while !pinned::has_owner(cluster.lab.bpf_dir(), id).unwrap() {
            assert!(began.elapsed() < SOON, "no policy");
        }
        began.elapsed()
    };
    // The engine answers, so that it has handled all that came before.
    let idle = |objects: u16| {
        wait_until("the agent is idle", SOON, || {
            let status = cluster.lab.status().ok()?;
            (status["kubernetes"][0]["objects"] == objects).then_some(())
        })
        .unwrap();
    };
    let (mut cgroup_first, mut object_first, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for n in 1..=pods {
        let object = object(
            &uid(n),
            "shop",
            &format!("client-{n}"),
            &json!({"app": n.to_string()}),
        );
        let folder = format!("pod{}", uid(n));
        let put = || cluster.api.put("pods", object).unwrap();
        kept.push(if n % 2 == 0 {
            let cgroup = group.child(&folder).unwrap();
            idle(n - 1);
            let began = Instant::now();
            put();
            cgroup_first.push(since(began, &cgroup));
            cgroup
        } else {
            put();
            idle(n);
            let began = Instant::now();
            let cgroup = group.child(&folder).unwrap();
            object_first.push(since(began, &cgroup));
            cgroup
        });
    }
    let resident = cluster.lab.agent().unwrap().resident().unwrap();
    println!("resident memory with {pods} pods: {} KiB", resident >> 10);
    for (what, times) in [
        ("cgroup first", cgroup_first),
        ("object first", object_first),
    ] {
        let (half, most) = (percentile(times.clone(), 50), percentile(times, 99));
        println!("{what}: identity to policy p50 {half:?}, p99 {most:?}");
        assert!(most < AT_ONCE, "{what}: p99 {most:?}");
    }
}
