//! Conditions of Istio's objects: one agent writes them, and only what differs.

use crate::HEADERS;
use crate::site::{BYSTANDER, Site, api_only};
use egress_tests::LabOptions;
use egress_tests::api::{Fault, Resource, Verb};
use egress_tests::rules::HTTPBIN;
use egress_tests::{Lab, wait_until};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);
const PLURAL: &str = "serviceentries";

fn options(node: &str) -> LabOptions {
    let flags = ["--kubernetes-conditions", "--kubernetes-node", node];
    LabOptions {
        agent: flags.map(str::to_owned).to_vec(),
        ..api_only()
    }
}

fn site() -> Site {
    let mut site = Site::without_agent(options("node-1"));
    site.api.install(Resource::lease());
    site.lab.start_agent().unwrap();
    site
}

fn conditions(site: &Site, namespace: &str, name: &str) -> Vec<Value> {
    let object = site.api.get(PLURAL, namespace, name).unwrap();
    let conditions = object["status"]["conditions"].as_array().cloned();
    conditions.unwrap_or_default()
}

/// Waits for the gate's condition about this generation.
fn wait_condition(site: &Site, namespace: &str, name: &str, generation: i64) -> Value {
    wait_until("the condition is written", SOON, || {
        let all = conditions(site, namespace, name);
        let own = all.into_iter().find(|c| c["type"] == "EgressAccepted")?;
        (own["observedGeneration"] == generation).then_some(own)
    })
    .unwrap()
}

#[test]
fn an_object_says_whether_the_gate_accepts_it_beside_what_others_say() {
    let site = site();
    site.put(HTTPBIN);
    let own = wait_condition(&site, "default", "httpbin-ext", 1);
    assert_eq!(
        (&own["status"], &own["reason"]),
        (&json!("True"), &json!("Valid"))
    );
    // Another controller says something of its own, in the same list.
    let mut object = site.api.get(PLURAL, "default", "httpbin-ext").unwrap();
    let other = json!({"type": "Reconciled", "status": "True", "message": "by istiod"});
    object["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .insert(0, other.clone());
    site.api.put(PLURAL, object).unwrap();
    let broken = HTTPBIN.replace("resolution: DNS", "resolution: SOMEHOW");
    let mut object = site.api.get(PLURAL, "default", "httpbin-ext").unwrap();
    object["spec"]["resolution"] = json!("SOMEHOW");
    site.api.put(PLURAL, object).unwrap();
    let own = wait_condition(&site, "default", "httpbin-ext", 2);
    assert_eq!(
        (&own["status"], &own["reason"]),
        (&json!("False"), &json!("Invalid"))
    );
    assert_eq!(conditions(&site, "default", "httpbin-ext")[0], other);
    // The message is that of `check`.
    let path = site.lab.rules_dir().join("broken.yaml");
    std::fs::write(&path, broken).unwrap();
    let checked = site
        .lab
        .verb(&["check", &path.display().to_string()])
        .unwrap();
    let message = own["message"].as_str().unwrap();
    let said = checked.stdout + &checked.stderr;
    for part in message.split(": ") {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(site.code(HEADERS), 200, "the last good version");
}

#[test]
fn only_what_differs_is_written_and_another_writer_or_a_refusal_is_no_loop() {
    let site = site();
    site.put(HTTPBIN);
    wait_condition(&site, "default", "httpbin-ext", 1);
    let writes = || site.api.requests(Verb::Patch, PLURAL);
    assert_eq!(writes(), 1);
    // Another controller writes the same object again and again.
    for n in 0..5 {
        let mut object = site.api.get(PLURAL, "default", "httpbin-ext").unwrap();
        object["status"]["observedGeneration"] = json!(n);
        site.api.put(PLURAL, object).unwrap();
    }
    // Two writes meet another version, and one is forbidden.
    let tries = AtomicUsize::new(0);
    site.api.fault(move |asked| {
        if asked.verb != Verb::Patch || asked.plural != PLURAL {
            return None;
        }
        match tries.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Some(Fault::Status(409, "Conflict")),
            2 => Some(Fault::Status(403, "Forbidden")),
            _ => None,
        }
    });
    site.put(BYSTANDER);
    wait_condition(&site, "shop", "bystander", 1);
    assert_eq!(
        writes(),
        5,
        "one for each of four attempts at the second object"
    );
    let own = &conditions(&site, "default", "httpbin-ext");
    assert_eq!(own.len(), 1, "{own:?}");
    // No write of a status was a change of a rule: the agent has read two objects.
    assert_eq!(site.lab.status().unwrap()["rules"]["objects"], 2);
    assert!(holder(&site).starts_with("node-1_"));
}

/// Who writes; empty if nobody does.
fn holder(site: &Site) -> String {
    let lease = site.api.get("leases", "default", "egress-agent-conditions");
    let holder = lease.map(|lease| lease["spec"]["holderIdentity"].clone());
    let holder = holder.unwrap_or_default();
    holder.as_str().unwrap_or_default().to_owned()
}

#[test]
fn one_agent_of_two_writes_and_the_other_one_once_it_is_stopped() {
    let mut site = site();
    wait_until("the first is elected", SOON, || {
        holder(&site).starts_with("node-1_").then_some(())
    })
    .unwrap();
    let mut second = Lab::without_agent(options("node-2")).unwrap();
    site.api.listen_in(second.node()).unwrap();
    let kubeconfig = site.api.kubeconfig().unwrap().display().to_string();
    second.add_flags(&[
        "--kubernetes-rules",
        "--kubernetes-identity=false",
        "--kubernetes-cluster-ranges=false",
        "--kubeconfig",
        &kubeconfig,
    ]);
    second.start_agent().unwrap();
    let writes = || site.api.requests(Verb::Patch, PLURAL);
    site.put(HTTPBIN);
    wait_condition(&site, "default", "httpbin-ext", 1);
    wait_until("both have the rule", SOON, || {
        let has = |lab: &Lab| Some(lab.status().ok()?["rules"]["objects"] == 1);
        (has(&site.lab)? && has(&second)?).then_some(())
    })
    .unwrap();
    assert_eq!(writes(), 1, "one agent writes");
    assert!(holder(&site).starts_with("node-1_"));

    let since = Instant::now();
    site.lab.agent().unwrap().terminate().unwrap();
    wait_until("the other one is elected", SOON, || {
        holder(&site).starts_with("node-2_").then_some(())
    })
    .unwrap();
    let took = since.elapsed();
    println!("the other agent holds the Lease {took:?} after SIGTERM");
    // It would be free a minute after the last renewal.
    assert!(took < Duration::from_secs(20), "{took:?}");
    site.put(BYSTANDER);
    wait_condition(&site, "shop", "bystander", 1);
    assert_eq!(conditions(&site, "default", "httpbin-ext").len(), 1);
}
