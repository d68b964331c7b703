//! Who a pod is, from an API server: rules by namespace, modes by label, names in the log.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::api::Verb;
use egress_tests::cgroup::Cgroup;
use egress_tests::lab::{host, v4};
use egress_tests::pods::Pod;
use egress_tests::pods::cluster::{Cluster, NODE, object};
use egress_tests::pods::held::Held;
use egress_tests::rules::HTTPBIN;
use egress_tests::{Lab, client, pinned, place::Place, wait_until};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const URL: &str = "http://httpbin.org/get";

/// `httpbin.org` for one namespace.
fn httpbin_for(namespace: &str) -> String {
    let named = format!("  name: httpbin-ext\n  namespace: {namespace}");
    let rule = HTTPBIN.replace("  name: httpbin-ext", &named);
    rule.replace("spec:", "spec:\n  exportTo: ['.']")
}

fn app(name: &str) -> Value {
    json!({"app": name})
}

fn code(pod: &Pod) -> u16 {
    pod.curl(&[URL]).unwrap().code
}

fn becomes(what: &str, pod: &Pod, wanted: u16) {
    wait_until(what, SOON, || (code(pod) == wanted).then_some(())).unwrap();
}

/// Waits until the agent has a policy for a pod of its own.
fn owned(lab: &Lab, cgroup: &Cgroup) {
    let id = cgroup.id().unwrap();
    wait_until("the pod has an identity", SOON, || {
        pinned::has_owner(lab.bpf_dir(), id).unwrap().then_some(())
    })
    .unwrap();
}

fn workload(lab: &Lab, uid: &str) -> Value {
    let status = lab.status().unwrap();
    let all = status["workloads"].as_array().unwrap().clone();
    let is_it = |w: &Value| w["pod"] == uid && w["container"].is_null();
    all.into_iter().find(is_it).unwrap_or_default()
}

#[test]
fn two_namespaces_have_different_rules_for_one_host() {
    let cluster = Cluster::start(&[]).unwrap();
    cluster
        .lab
        .rules("httpbin.yaml", &httpbin_for("shop"))
        .unwrap();
    let shop = cluster.pod("shop", "client", &app("client")).unwrap();
    let blog = cluster.pod("blog", "client", &app("client")).unwrap();
    let unknown = cluster.unknown_pod().unwrap();
    becomes("listed for its namespace", &shop, 200);
    owned(&cluster.lab, blog.cgroup());
    assert_eq!((code(&blog), code(&unknown)), (0, 0));
    // A Sidecar by label, and a pod whose label changes while it runs.
    let narrow = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec:
  workloadSelector: {labels: {app: narrow}}
  egress: [{hosts: ['./none.example']}]
";
    cluster.lab.rules("narrow.yaml", narrow).unwrap();
    assert_eq!(code(&shop), 200);
    cluster
        .api
        .put("pods", object(&shop.uid, "shop", "client", &app("narrow")))
        .unwrap();
    becomes("narrowed by its new label", &shop, 0);
    cluster
        .api
        .put("pods", object(&shop.uid, "shop", "client", &app("client")))
        .unwrap();
    becomes("as before", &shop, 200);
    // An identity that comes late judges what runs.
    cluster
        .api
        .put("pods", object(&unknown.uid, "shop", "late", &app("client")))
        .unwrap();
    becomes("known late", &unknown, 200);
}

#[test]
fn a_team_is_audited_by_its_labels_over_a_rollout() {
    let entry = "{pods: {namespace: shop, labels: {team: a}}, mode: audit}";
    let cluster = Cluster::start(&["--workload", entry]).unwrap();
    let labels = json!({"app": "client", "team": "a"});
    let other = cluster.pod("shop", "other", &app("client")).unwrap();
    let blog = cluster.pod("blog", "client", &labels).unwrap();
    for generation in 0..2 {
        let pod = cluster
            .pod("shop", &format!("client-{generation}"), &labels)
            .unwrap();
        becomes("audited", &pod, 200);
        assert_eq!(workload(&cluster.lab, &pod.uid)["mode"], "audit");
        cluster
            .api
            .delete("pods", "shop", &format!("client-{generation}"))
            .unwrap();
    }
    owned(&cluster.lab, other.cgroup());
    owned(&cluster.lab, blog.cgroup());
    assert_eq!((code(&other), code(&blog)), (0, 0));
}

#[test]
fn an_entry_with_a_cgroup_wins_over_the_api() {
    let entry = "{cgroup: 'burstable/pod00000001-*', namespace: blog, serviceAccount: vm}";
    let cluster = Cluster::start(&["--workload", entry]).unwrap();
    cluster
        .lab
        .rules("httpbin.yaml", &httpbin_for("shop"))
        .unwrap();
    let first = cluster.pod("shop", "first", &app("client")).unwrap();
    let second = cluster.pod("shop", "second", &app("client")).unwrap();
    becomes("by the API", &second, 200);
    assert_eq!(code(&first), 0);
    assert_eq!(workload(&cluster.lab, &first.uid)["identity"], "blog/vm");
}

#[test]
fn denials_and_status_name_the_pod() {
    let mut cluster = Cluster::start(&[]).unwrap();
    let pod = cluster.pod("shop", "client", &app("client")).unwrap();
    owned(&cluster.lab, pod.cgroup());
    let agent = cluster.lab.agent().unwrap();
    let mark = agent.mark();
    let refused = format!("http://{}/", v4(host::BYSTANDER));
    assert!(pod.curl(&[&refused]).unwrap().refused());
    let line = agent
        .wait_line(mark, SOON, "the denial", |line| line.contains("denied"))
        .unwrap();
    for part in [
        "pod=\"shop/client\"",
        "container=\"main\"",
        "owner=\"Deployment/client\"",
        "workload=\"shop/client\"",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("cgroup="), "{line}");
    let known = workload(&cluster.lab, &pod.uid);
    assert_eq!(known["podName"], "shop/client");
    assert_eq!(
        (&known["identity"], &known["owner"]),
        (&json!("shop/client"), &json!("Deployment/client"))
    );
    assert!(known["cgroup"].as_str().unwrap().ends_with(&pod.uid));
    let socket = cluster.lab.admin_socket().display().to_string();
    let verb = |verb: &[&str]| {
        let mut all = verb.to_vec();
        all.extend(["--admin-socket", &socket]);
        cluster.lab.verb(&all).unwrap()
    };
    let text = verb(&["status"]).stdout;
    assert!(
        text.contains("pod shop/client (Deployment/client)"),
        "{text}"
    );
    assert!(text.contains("kubernetes  1 pods"), "{text}");
    let told = verb(&["explain", "--workload", "shop/client", "httpbin.org:80"]);
    assert_eq!(told.exit, 1, "{told:?}");
}

#[test]
fn a_deleted_pod_keeps_its_identity_until_it_has_ended_and_a_new_one_of_its_name_has_its_own() {
    let cluster = Cluster::start(&[]).unwrap();
    cluster
        .lab
        .rules("httpbin.yaml", &httpbin_for("shop"))
        .unwrap();
    let pod = cluster.pod("shop", "client", &app("client")).unwrap();
    becomes("listed", &pod, 200);
    cluster.api.delete("pods", "shop", "client").unwrap();
    // The next pod's identity proves that the deletion was handled.
    let next = cluster.pod("shop", "client", &app("client")).unwrap();
    becomes("listed for the next", &next, 200);
    assert_eq!(code(&pod), 200, "it still runs");
    let elsewhere = cluster.pod("blog", "client", &app("client")).unwrap();
    owned(&cluster.lab, elsewhere.cgroup());
    assert_eq!(code(&elsewhere), 0);
    let owners = pinned::owners(cluster.lab.bpf_dir()).unwrap();
    drop(pod);
    wait_until("nothing is left of it", SOON, || {
        (pinned::owners(cluster.lab.bpf_dir()).unwrap() == owners - 1).then_some(())
    })
    .unwrap();
}

#[test]
fn while_the_api_is_away_a_restarted_agent_knows_the_pods_and_no_others() {
    let mut cluster = Cluster::start(&[]).unwrap();
    cluster
        .lab
        .rules("httpbin.yaml", &httpbin_for("shop"))
        .unwrap();
    let shop = cluster.pod("shop", "client", &app("client")).unwrap();
    becomes("listed", &shop, 200);
    cluster.api.stop().unwrap();
    let unknown = cluster.unknown_pod().unwrap();
    cluster.lab.agent().unwrap().terminate().unwrap();
    cluster.lab.start_agent().unwrap();
    assert_eq!(code(&shop), 200);
    assert_eq!(code(&unknown), 0);
    // Killed, too: the file is not written at the end only.
    cluster.lab.agent().unwrap().kill().unwrap();
    cluster.lab.start_agent().unwrap();
    becomes("after a kill", &shop, 200);
    let status = cluster.lab.status().unwrap();
    let problem = &status["kubernetes"][0]["problem"];
    assert!(
        problem.as_str().unwrap().contains("cannot connect"),
        "{problem}"
    );
    assert_eq!(status["ready"], true);
    // Back, with changes: one pod is deleted but runs, another is known.
    cluster
        .api
        .put("pods", object(&unknown.uid, "shop", "late", &app("client")))
        .unwrap();
    cluster.api.start_again().unwrap();
    becomes("known when the API is back", &unknown, 200);
    assert_eq!(code(&shop), 200);
}

#[test]
fn an_agent_that_starts_before_the_api_denies_until_it_knows() {
    let mut cluster = Cluster::without_agent(&[]).unwrap().with_pods().unwrap();
    cluster.api.stop().unwrap();
    let shop = cluster.pod("shop", "client", &app("client")).unwrap();
    cluster.lab.start_agent().unwrap();
    cluster
        .lab
        .rules("httpbin.yaml", &httpbin_for("shop"))
        .unwrap();
    assert_eq!(code(&shop), 0);
    cluster.api.start_again().unwrap();
    becomes("known", &shop, 200);
}

/// The cgroup of a pod that the kubelet runs from a file has the hash of the file in its name; a pod on the node's network
/// has no namespace of its own.
#[test]
fn static_pods_and_pods_on_the_node_s_network_have_identities() {
    let cluster = Cluster::start(&[]).unwrap();
    cluster
        .lab
        .rules("httpbin.yaml", &httpbin_for("kube-system"))
        .unwrap();
    let hash = "0123456789abcdef0123456789abcdef";
    let whole = cluster
        .lab
        .workloads()
        .child(&format!("pod{hash}"))
        .unwrap();
    let container = whole.child(&"7d".repeat(32)).unwrap();
    let in_it = Place {
        cgroup: Some(&container),
        netns: Some(cluster.lab.node()),
        resolver: Some(cluster.lab.resolver()),
    };
    let code = || client::curl(&in_it, &[URL]).unwrap().code;
    assert_eq!(code(), 0);
    let mut mirror = object(
        "9f9f9f9f-1111-4222-8333-444455556666",
        "kube-system",
        "etcd-node-1",
        &app("etcd"),
    );
    mirror["metadata"]["annotations"] = json!({
        "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash,
        "kubernetes.io/config.seen": "2026-01-02T03:04:05Z", "kubernetes.io/config.source": "file",
    });
    mirror["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "Node", "name": NODE, "controller": true, "uid": "1f1f1f1f-1111-4222-8333-444455556666",
    }]);
    mirror["spec"]["hostNetwork"] = json!(true);
    cluster.api.put("pods", mirror).unwrap();
    wait_until("listed for its namespace", SOON, || {
        (code() == 200).then_some(())
    })
    .unwrap();
    assert_eq!(
        workload(&cluster.lab, hash)["podName"],
        "kube-system/etcd-node-1"
    );
}

/// `EGRESS_TEST_PODS` sets another number.
#[test]
fn nothing_is_left_of_pods_that_were_created_and_deleted() {
    let pods: u16 = std::env::var("EGRESS_TEST_PODS").map_or(100, |n| n.parse().unwrap());
    let mut cluster = Cluster::start(&[]).unwrap();
    cluster
        .lab
        .rules("httpbin.yaml", &httpbin_for("shop"))
        .unwrap();
    let empty = Held::now(&mut cluster.lab).unwrap();
    let round = |cluster: &Cluster, n: u16| {
        let name = format!("client-{n}");
        let pod = cluster.pod("shop", &name, &json!({"app": name})).unwrap();
        owned(&cluster.lab, pod.cgroup());
        if n.is_multiple_of(10) {
            becomes("listed", &pod, 200);
        }
        drop(pod);
        cluster.api.delete("pods", "shop", &name).unwrap();
    };
    for n in 0..20 {
        round(&cluster, n);
    }
    let before = empty.wait_empty(&mut cluster.lab, SOON).unwrap();
    let resident = cluster.lab.agent().unwrap().resident().unwrap();
    let watches = cluster.api.requests(Verb::Watch, "pods");
    let connections = cluster.api.connections();
    for n in 20..20 + pods {
        round(&cluster, n);
    }
    before
        .wait_back(&mut cluster.lab, pods.into(), SOON)
        .unwrap();
    let status = cluster.lab.status().unwrap();
    assert_eq!(status["kubernetes"][0]["objects"], 0);
    assert_eq!(status["workloads"].as_array().unwrap().len(), 0, "{status}");
    assert_eq!(cluster.api.watches("pods"), 1);
    assert_eq!(cluster.api.requests(Verb::Watch, "pods"), watches);
    assert_eq!(cluster.api.requests(Verb::List, "pods"), 1);
    assert!(cluster.api.connections() <= connections);
    let grown = cluster
        .lab
        .agent()
        .unwrap()
        .resident()
        .unwrap()
        .saturating_sub(resident);
    println!(
        "resident memory grew by {} KiB over {pods} pods",
        grown >> 10
    );
    assert!(grown < 4 << 20, "{grown} bytes");
    let file = cluster.lab.admin_socket().with_extension("pods");
    wait_until("the identities of no pod are kept", SOON, || {
        (std::fs::read_to_string(&file).ok()?.lines().count() == 2).then_some(())
    })
    .unwrap();
    assert!(Path::new(&file).is_file());
}
