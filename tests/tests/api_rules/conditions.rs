//! Conditions of Istio's objects: one agent writes them, and only what differs.

use crate::HEADERS;
use crate::site::{BYSTANDER, Site, api_only};
use egress_tests::LabOptions;
use egress_tests::api::{Fault, Resource, Verb};
use egress_tests::rules::HTTPBIN;
use egress_tests::wait_until;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const PLURAL: &str = "serviceentries";

fn site() -> Site {
    let flags = ["--kubernetes-conditions", "--kubernetes-node=node-1"];
    let mut site = Site::without_agent(LabOptions {
        agent: flags.map(str::to_owned).to_vec(),
        ..api_only()
    });
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
    let holder = site
        .api
        .get("leases", "default", "egress-agent-conditions")
        .unwrap();
    let holder = holder["spec"]["holderIdentity"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(holder.starts_with("node-1_"), "{holder}");
}
