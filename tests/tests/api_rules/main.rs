//! Rules from the Kubernetes API: what is applied is in force, whatever the server does meanwhile.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod away;
mod conditions;
mod election;
mod faults;
mod rollout;
mod scale;
mod site;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use egress_tests::LabOptions;
use egress_tests::api::Verb;
use egress_tests::lab::{v4, v6};
use egress_tests::rules::{GOOGLE, HTTPBIN, TIMEOUT};
use serde_json::{Value, json};
use site::{BYSTANDER, Site, api_only, now, seen_after};
use std::time::Duration;

const HEADERS: &str = "http://httpbin.org/headers";

#[test]
fn an_applied_entry_is_allowed_and_a_deleted_one_is_denied() {
    let site = Site::start(api_only());
    let google = "https://www.google.com/";
    let delay = "http://httpbin.org/delay/5";
    assert_eq!(
        [site.code(HEADERS), site.code(google)],
        [0, 0],
        "nothing listed"
    );
    site.put(HTTPBIN);
    site.wait_code(HEADERS, 200);
    assert_eq!(site.code(google), 0);
    site.put(GOOGLE);
    site.wait_code(google, 200);
    assert_eq!(site.code(delay), 200, "no timeout");
    site.put(TIMEOUT);
    site.wait_code(delay, 504);
    for text in [TIMEOUT, GOOGLE, HTTPBIN] {
        site.take(text);
    }
    site.wait_code(HEADERS, 0);
    site.wait_code(google, 0);
    let status = site.lab.status().unwrap();
    assert_eq!(status["rules"]["objects"], 0);
    let entries = kind(&status, "serviceentries");
    assert_eq!(
        (&entries["synced"], &entries["objects"]),
        (&true.into(), &0.into())
    );
}

#[test]
fn a_rule_file_outweighs_the_object_of_the_same_name() {
    let site = Site::start(LabOptions::default());
    let other = HTTPBIN.replace("httpbin.org", "other.example");
    site.apply(HTTPBIN);
    assert_eq!(site.code(HEADERS), 200);
    // The administrator of the node takes the host away.
    site.lab.rules("own.yaml", &other).unwrap();
    assert_eq!(site.code(HEADERS), 0);
    let notes = site.lab.status().unwrap()["rules"]["notes"].to_string();
    assert!(
        notes.contains("a rule file has ServiceEntry default/"),
        "{notes}"
    );
    site.lab.remove_rules("own.yaml").unwrap();
    assert_eq!(site.code(HEADERS), 200);
}

#[test]
fn an_invalid_object_is_reported_by_its_name_and_its_last_good_version_stays() {
    let mut site = Site::start(api_only());
    site.apply(HTTPBIN);
    let mark = site.lab.agent().unwrap().mark();
    site.put(&HTTPBIN.replace("resolution: DNS", "resolution: SOMEHOW"));
    let agent = site.lab.agent().unwrap();
    let line = agent
        .wait_line(
            mark,
            Duration::from_secs(5),
            "the mistake is reported",
            |l| l.contains("rule not applied"),
        )
        .unwrap();
    assert!(
        line.contains("kubernetes:serviceentry/default/") && line.contains(": spec.resolution"),
        "{line}"
    );
    assert_eq!(site.code(HEADERS), 200);
}

#[test]
fn who_sees_an_object_is_decided_by_namespaces_and_the_root_namespace() {
    // The client is a workload of `shop`.
    let identity = "{cgroup: client, namespace: shop}";
    let options = LabOptions {
        agent: ["--workload", identity, "--root-namespace", "mesh"]
            .map(str::to_owned)
            .to_vec(),
        ..api_only()
    };
    let site = Site::start(options);
    let probe = site.watch_bystander();
    seen_after(&probe, "PermissionDenied", 0);
    let other = BYSTANDER.replace("namespace: shop", "namespace: other");
    let private = other.replace("spec:", "spec:\n  exportTo: ['.']");
    let before = now();
    site.apply(&private);
    site.put(&other);
    seen_after(&probe, "connected", before);
    // A Sidecar of the root namespace is for all namespaces, and imports only their own.
    let before = now();
    site.put(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: mesh}
spec: {egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
",
    );
    seen_after(&probe, "PermissionDenied", before);
    let before = now();
    site.put(BYSTANDER);
    seen_after(&probe, "connected", before);
    probe.end().unwrap();
}

#[test]
fn only_the_secret_that_a_rule_names_is_read() {
    only_the_named_one_is_read(
        "secrets",
        "ca",
        &["metadata.name=ca", "metadata.name=ca-cacert"],
    );
}

#[test]
fn only_the_config_map_that_a_rule_names_is_read() {
    only_the_named_one_is_read("configmaps", "configmap://shop/ca", &["metadata.name=ca"]);
}

/// `credential` is the rule's `credentialName`, and `selectors` those that the agent may list with.
fn only_the_named_one_is_read(plural: &'static str, credential: &str, selectors: &[&'static str]) {
    const WWW: u8 = 120;
    let identity = "{cgroup: client, namespace: shop, labels: {app: web}}";
    let options = LabOptions {
        agent: ["--workload", identity].map(str::to_owned).to_vec(),
        ..api_only()
    };
    let site = Site::start(options);
    site.lab
        .dns
        .set("www.shop.example", &[v4(WWW), v6(WWW)], 30);
    let origin = site.lab.world();
    let names = ["www.shop.example"];
    let origin = origin
        .https(&[v4(WWW), v6(WWW)], 443, site.lab.authority(), &names)
        .unwrap();
    let authority = std::fs::read_to_string(site.lab.authority().path()).unwrap();
    let (kind, value) = match plural {
        "secrets" => ("Secret", BASE64.encode(&authority)),
        _ => ("ConfigMap", authority),
    };
    let with_authority = |name: &str| {
        let value = json!(value);
        format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\ndata: {{ca.crt: {value}}}\n"
        )
    };
    site.put(&with_authority("other"));
    assert_eq!(
        site.api.requests(Verb::List, plural),
        0,
        "no rule names one"
    );
    let watches = selectors.len();
    let selectors = selectors.to_vec();
    site.api.fault(move |asked| {
        let selector = asked.query.get("fieldSelector");
        let narrow =
            asked.namespace == "shop" && selector.is_some_and(|f| selectors.contains(&f.as_str()));
        let listed = asked.plural == plural && asked.name.is_empty();
        (listed && !narrow).then_some(egress_tests::api::Fault::Status(403, "Forbidden"))
    });
    site.apply(
        &"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: www, namespace: shop}
spec: {hosts: [www.shop.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: www, namespace: shop}
spec:
  host: www.shop.example
  workloadSelector: {matchLabels: {app: web}}
  trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'NAME'}}
"
        .replace("NAME", credential),
    );
    let url = "http://www.shop.example/get";
    assert_eq!(site.code(url), 503, "it does not exist");
    site.put(&with_authority("ca"));
    let works = || (site.code(url) == 200).then_some(());
    egress_tests::wait_until("it is in use", Duration::from_secs(5), works).unwrap();
    assert!(origin.handshakes() > 0);
    assert_eq!(site.api.watches(plural), watches);
    site.api.delete(plural, "shop", "ca").unwrap();
    let gone = || (site.code(url) != 200).then_some(());
    egress_tests::wait_until("it is gone", Duration::from_secs(5), gone).unwrap();
}

/// The status of one kind.
fn kind(status: &Value, plural: &str) -> Value {
    let kinds = status["kubernetes"].as_array().unwrap();
    let found = kinds.iter().find(|kind| kind["kind"] == plural);
    found
        .unwrap_or_else(|| panic!("no {plural} in {kinds:?}"))
        .clone()
}
