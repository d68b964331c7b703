//! `wait --rule`: when a rule is in force on a node, and on all nodes.

use crate::HEADERS;
use crate::site::{BYSTANDER, Site, api_only};
use egress_tests::LabOptions;
use egress_tests::api::{Fault, Resource, Verb};
use egress_tests::client::Finished;
use egress_tests::rules::HTTPBIN;
use egress_tests::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const RULE: &str = "serviceentry/default/httpbin-ext";

fn wait(site: &Site, arguments: &[&str]) -> Finished {
    let socket = site.lab.admin_socket().display().to_string();
    let mut all = vec!["wait", "--admin-socket", &socket, "--rule"];
    all.extend(arguments);
    site.lab.verb(&all).unwrap()
}

#[test]
fn a_rule_is_enforced_when_the_wait_for_it_returns() {
    let site = Site::start(api_only());
    assert_eq!(site.code(HEADERS), 0);
    for _ in 0..3 {
        site.put(HTTPBIN);
        let waited = wait(&site, &[RULE, "--generation", "1"]);
        assert_eq!((waited.exit, site.code(HEADERS)), (0, 200), "{waited:?}");
        site.take(HTTPBIN);
        let waited = wait(&site, &[RULE, "--gone"]);
        assert_eq!((waited.exit, site.code(HEADERS)), (0, 0), "{waited:?}");
    }
    let waited = wait(&site, &["se/default/httpbin-ext", "--timeout", "300ms"]);
    let says = "serviceentry/default/httpbin-ext: it is not in force (waited 300ms)";
    assert!(
        waited.exit == 1 && waited.stderr.contains(says),
        "{waited:?}"
    );
    let waited = wait(&site, &["gateway/default/a"]);
    assert!(
        waited.exit == 64 && waited.stderr.contains("no kind of rules"),
        "{waited:?}"
    );
}

#[test]
fn a_version_that_the_agent_refuses_ends_the_wait_with_the_reason() {
    let site = Site::start(api_only());
    site.apply(HTTPBIN);
    site.put(&HTTPBIN.replace("resolution: DNS", "resolution: SOMEHOW"));
    let waited = wait(&site, &[RULE, "--generation", "2"]);
    let says = "is refused: kubernetes:serviceentry/default/httpbin-ext: spec.resolution";
    assert!(
        waited.exit == 1 && waited.stderr.contains(says),
        "{waited:?}"
    );
    assert!(waited.elapsed < Duration::from_secs(10), "{waited:?}");
    // The last good version is the first one.
    let waited = wait(&site, &[RULE, "--generation", "1"]);
    assert_eq!(waited.exit, 0, "{waited:?}");
    site.put(HTTPBIN);
    assert_eq!(wait(&site, &[RULE, "--generation", "3"]).exit, 0);
}

/// A site whose agent publishes what it has, as the agent of `node-1`.
fn publishing() -> Site {
    let flags = [
        "--kubernetes-publish-rules",
        "--kubernetes-publish-within=100ms",
        "--kubernetes-node=node-1",
    ];
    let mut site = Site::without_agent(LabOptions {
        agent: flags.map(str::to_owned).to_vec(),
        ..api_only()
    });
    site.api.install(Resource::lease());
    agent_pod(&site, "node-1");
    site.lab.start_agent().unwrap();
    site
}

fn agent_pod(site: &Site, node: &str) {
    let labels = json!({"app.kubernetes.io/name": "egress-agent"});
    let metadata =
        json!({"name": format!("agent-{node}"), "namespace": "default", "labels": labels});
    let pod =
        json!({"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": "Running"}});
    site.api.put("pods", pod).unwrap();
}

fn wait_for_all(site: &Site, arguments: &[&str]) -> Finished {
    let kubeconfig = site.api.kubeconfig().unwrap().display().to_string();
    let mut all = vec!["wait", "--all-nodes", "--kubeconfig", &kubeconfig];
    all.extend(["--namespace", "default", "--rule", RULE]);
    all.extend(arguments);
    site.lab.verb(&all).unwrap()
}

fn writes(site: &Site) -> usize {
    let of = |verb| site.api.requests(verb, "leases");
    of(Verb::Patch) + of(Verb::Create)
}

#[test]
fn one_command_tells_when_all_nodes_have_a_rule_and_names_those_without() {
    let site = publishing();
    site.put(HTTPBIN);
    let waited = wait_for_all(&site, &[]);
    assert_eq!((waited.exit, site.code(HEADERS)), (0, 200), "{waited:?}");
    assert!(
        waited.stdout.contains("is in force on all 1 nodes"),
        "{waited:?}"
    );
    // The agent of another node is dead.
    agent_pod(&site, "node-2");
    let waited = wait_for_all(&site, &["--timeout", "1s"]);
    let says = "is not in force on 1 of 2 nodes: node-2: its agent has published nothing";
    assert!(
        waited.exit == 1 && waited.stderr.contains(says),
        "{waited:?}"
    );
    site.api.delete("pods", "default", "agent-node-2").unwrap();
    assert_eq!(wait_for_all(&site, &["--generation", "1"]).exit, 0);
    site.put(&HTTPBIN.replace("resolution: DNS", "resolution: SOMEHOW"));
    let waited = wait_for_all(&site, &["--generation", "2"]);
    let says = "is refused on 1 of 1 nodes: node-1: kubernetes:serviceentry/default/httpbin-ext: spec.resolution";
    assert!(
        waited.exit == 1 && waited.stderr.contains(says),
        "{waited:?}"
    );
    site.take(HTTPBIN);
    let waited = wait_for_all(&site, &["--gone"]);
    assert_eq!((waited.exit, site.code(HEADERS)), (0, 0), "{waited:?}");
}

#[test]
fn a_node_writes_only_what_changed_and_goes_on_after_a_refusal() {
    let site = publishing();
    site.put(HTTPBIN);
    assert_eq!(wait_for_all(&site, &[]).exit, 0);
    let before = writes(&site);
    // Only the status changes.
    let name = "httpbin-ext";
    let mut object = site.api.get("serviceentries", "default", name).unwrap();
    object["status"] = json!({"conditions": [{"type": "Other", "status": "True"}]});
    site.api.put("serviceentries", object).unwrap();
    // A change of another kind proves that the agent has read it.
    site.api.fault(|asked| {
        let writes = matches!(asked.verb, Verb::Patch | Verb::Create);
        (asked.plural == "leases" && writes).then_some(Fault::Status(403, "Forbidden"))
    });
    let refused = writes(&site);
    site.apply(BYSTANDER);
    let tried = || (writes(&site) > refused).then_some(());
    wait_until("the agent tries to publish", SOON, tried).unwrap();
    assert_eq!(refused, before, "a status is no change of a rule");
    assert_eq!(site.code(HEADERS), 200);
    site.api.no_fault();
    let digests = |lease: &Value| {
        let text = lease["metadata"]["annotations"]["egress-agent/rules"].as_str();
        let report: Value = serde_json::from_str(text.unwrap()).unwrap();
        report["versions"]["ServiceEntry"].clone()
    };
    let lease = || {
        site.api
            .get("leases", "default", "egress-agent-node-1")
            .unwrap()
    };
    let old = digests(&lease());
    let published = || (digests(&lease()) != old).then_some(());
    wait_until("the change is published", SOON, published).unwrap();
    // The lease is deleted, and made again with the next change.
    site.api
        .delete("leases", "default", "egress-agent-node-1")
        .unwrap();
    site.take(BYSTANDER);
    assert_eq!(wait_for_all(&site, &[]).exit, 0);
    assert_eq!(lease()["spec"]["holderIdentity"], "node-1");
}
