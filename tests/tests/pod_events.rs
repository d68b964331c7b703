//! Events on pods for denied egress, from an API server's side.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::api::{Fault, Resource, Verb};
use egress_tests::lab::{host, v4};
use egress_tests::pods::Pod;
use egress_tests::pods::cluster::Cluster;
use egress_tests::rules::HTTPBIN;
use egress_tests::{probe, wait_until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// Time between two counts of repeats.
const MINUTE: Duration = Duration::from_mins(1);
/// The most Events of a pod at a time.
const OF_A_POD: usize = 9;

fn cluster() -> Cluster {
    let cluster = Cluster::without_agent(&["--kubernetes-events"]).unwrap();
    cluster.api.install(Resource::event());
    let mut cluster = cluster.with_pods().unwrap();
    cluster.lab.start_agent().unwrap();
    cluster
}

/// A pod that the agent knows.
fn pod(cluster: &Cluster, name: &str) -> Pod {
    let pod = cluster.pod("shop", name, &json!({"app": name})).unwrap();
    wait_until("the agent knows the pod", SOON, || {
        let status = cluster.lab.status().ok()?;
        let workloads = status["workloads"].as_array()?;
        let name = format!("shop/{name}");
        workloads
            .iter()
            .any(|w| w["podName"] == *name)
            .then_some(())
    })
    .unwrap();
    pod
}

fn dial(pod: &Pod, port: u16) {
    let to = SocketAddr::new(v4(host::BYSTANDER), port);
    assert!(
        probe::attempt(&pod.place(), "tcp", to).unwrap().denied(),
        "{to}"
    );
}

fn events(cluster: &Cluster, pod: &str) -> Vec<Value> {
    let all = cluster.api.all("events");
    all.into_iter()
        .filter(|e| e["regarding"]["name"] == pod)
        .collect()
}

#[test]
fn a_denied_pod_has_one_event_for_a_destination_that_says_what_to_do() {
    let cluster = cluster();
    let client = pod(&cluster, "client");
    for _ in 0..5 {
        dial(&client, 81);
    }
    let written = || events(&cluster, "client").pop();
    let event = wait_until("the Event is written", SOON, written).unwrap();
    let note = event["note"].as_str().unwrap();
    let to = SocketAddr::new(v4(host::BYSTANDER), 81);
    for part in [
        &format!("Egress to {to} is denied (not-listed)"),
        "ServiceEntry that namespace shop",
    ] {
        assert!(note.contains(part), "{note}");
    }
    let regarding = &event["regarding"];
    assert_eq!(
        (
            &regarding["uid"],
            &regarding["kind"],
            &event["metadata"]["namespace"]
        ),
        (&json!(client.uid), &json!("Pod"), &json!("shop"))
    );
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Warning"), &json!("EgressDenied"))
    );
    assert_eq!(event["reportingInstance"], "node-1");
    // Repeats are counted in the same Event, once a minute.
    dial(&client, 81);
    let counted = || {
        let all = events(&cluster, "client");
        (all[0]["series"]["count"] == 6).then_some(all)
    };
    let all = wait_until("the repeat is counted", SOON + MINUTE, counted).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(cluster.api.requests(Verb::Create, "events"), 1);
}

#[test]
fn what_the_proxy_denies_is_named_by_its_host() {
    let cluster = cluster();
    cluster.lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let client = pod(&cluster, "client");
    let url = "http://httpbin.org/get";
    wait_until("the rule applies", SOON, || {
        (client.curl(&[url]).unwrap().code == 200).then_some(())
    })
    .unwrap();
    client.curl(&["-H", "Host: other.example", url]).unwrap();
    let named = || {
        let all = events(&cluster, "client");
        let notes = all.iter().filter_map(|e| e["note"].as_str());
        let mut notes =
            notes.filter(|note| note.starts_with("Egress to other.example:80 is denied"));
        notes.next().map(str::to_owned)
    };
    let note = wait_until("the Event is written", SOON, named).unwrap();
    assert!(
        note.contains("list the host and the port in a ServiceEntry"),
        "{note}"
    );
}

#[test]
fn a_pod_that_dials_at_random_writes_few_events_and_hides_no_other_pod() {
    let cluster = cluster();
    let (scanner, client) = (pod(&cluster, "scanner"), pod(&cluster, "client"));
    for port in 1000..1040 {
        dial(&scanner, port);
    }
    dial(&client, 81);
    let both = || {
        let seen = events(&cluster, "client").len() == 1;
        (seen && events(&cluster, "scanner").len() == OF_A_POD).then_some(())
    };
    wait_until("the Events of both", SOON, both).unwrap();
    let further = events(&cluster, "scanner");
    let further = further
        .iter()
        .filter(|e| e["note"].as_str().unwrap().contains("further destinations"));
    assert_eq!(further.count(), 1);
    assert_eq!(cluster.api.requests(Verb::Create, "events"), OF_A_POD + 1);
}

#[test]
fn a_server_that_hangs_or_forbids_delays_no_verdict_and_gets_the_events_later() {
    let mut cluster = cluster();
    let client = pod(&cluster, "client");
    cluster
        .api
        .fault(|asked| (asked.plural == "events").then_some(Fault::Hang));
    dial(&client, 81);
    wait_until("the agent tries", SOON, || {
        (cluster.api.requests(Verb::Create, "events") > 0).then_some(())
    })
    .unwrap();
    let start = Instant::now();
    for port in 2000..2020 {
        dial(&client, port);
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(cluster.lab.status().unwrap()["ready"] == true);
    let mark = cluster.lab.agent().unwrap().mark();
    cluster
        .api
        .fault(|asked| (asked.plural == "events").then_some(Fault::Status(403, "Forbidden")));
    cluster.api.cut();
    let agent = cluster.lab.agent().unwrap();
    agent
        .wait_line(
            mark,
            Duration::from_mins(1),
            "the refusal is logged",
            |line| line.contains("cannot write an Event") && line.contains("403"),
        )
        .unwrap();
    cluster.api.no_fault();
    let written = || (!events(&cluster, "client").is_empty()).then_some(());
    wait_until("the Events are written", Duration::from_mins(1), written).unwrap();
}
