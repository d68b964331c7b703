//! Tests for which clients the routes of a delegate are.

use super::Registry;
use super::plan::HttpPlan;
use super::scope::Workload;
use super::view::View;
use crate::istio::decode;
use crate::traffic::NoAction;
use std::sync::Arc;

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// The routes of port 80.
fn routes(rules: &str, client: &Workload) -> Vec<HttpPlan> {
    let port = "{number: 80, name: h, protocol: HTTP}";
    let entry = format!("{{hosts: [a.x.com], resolution: DNS, ports: [{port}]}}");
    let text = object("ServiceEntry", "e", &entry) + rules;
    let decoded = decode("test.yaml", &text);
    assert!(!decoded.is_broken(), "{:?}", decoded.messages);
    let objects: Vec<_> = decoded.objects.into_iter().map(Arc::new).collect();
    let registry = Registry::new(&objects, "cluster.local");
    let view = View::new(&registry, registry.scope_of(client));
    let plan = view.plans["a.x.com"].get(80).unwrap();
    plan.http.iter().flatten().cloned().collect()
}

fn seconds(route: &HttpPlan) -> u64 {
    route.policy.timeout.unwrap_or_default().as_secs()
}

/// The timeouts of the routes of port 80, in seconds; 0 is that of the service itself.
fn timeouts(rules: &str, client: &Workload) -> Vec<u64> {
    routes(rules, client).iter().map(seconds).collect()
}

/// istio `pilot/pkg/model/virtualservice.go`, `mergeHTTPMatchRequest`: a match of a delegate without gateways has those
/// of the root's match.
#[test]
fn the_gateways_of_a_delegates_match_are_those_of_the_roots_match() {
    let (gateway, mesh) = ("gateways: [gw]", "gateways: [gw, mesh]");
    let (own_mesh, own_gateway) = ("{gateways: [mesh]}", "{gateways: [gw]}");
    let (any, path) = ("", "{uri: {prefix: /a}}");
    for (of_root, of_route, of_leaf, expected) in [
        (gateway, own_mesh, any, true),
        (gateway, own_mesh, path, true),
        (gateway, own_mesh, own_mesh, true),
        (gateway, own_mesh, own_gateway, false),
        (gateway, own_gateway, any, false),
        (gateway, own_gateway, own_mesh, false),
        (mesh, any, any, true),
        (mesh, any, path, true),
        (mesh, any, own_mesh, true),
        (mesh, any, own_gateway, false),
        (mesh, own_gateway, any, false),
        (mesh, own_gateway, path, false),
        (mesh, own_mesh, path, true),
        (mesh, path, own_mesh, true),
        (mesh, path, own_gateway, false),
    ] {
        let matches = |m: &str| format!("match: [{m}], ");
        let root = format!(
            "{{hosts: [a.x.com], {of_root}, http: [{{{}delegate: {{name: leaf}}}}]}}",
            matches(of_route)
        );
        let leaf = format!(
            "{{http: [{{{}timeout: 1s, route: [{{destination: {{host: a.x.com}}}}]}}]}}",
            matches(of_leaf)
        );
        // A rule that another match puts in force for workloads.
        let keep = root.replace(
            "http: [",
            "http: [{match: [{gateways: [mesh], port: 8080}], timeout: 9s, route: [{destination: {host: a.x.com}}]}, ",
        );
        for root in [&root, &keep] {
            let rules =
                object("VirtualService", "root", root) + &object("VirtualService", "leaf", &leaf);
            let found = timeouts(&rules, &Workload::default());
            let expected = if expected { [1] } else { [0] };
            assert_eq!(found, expected, "{rules}");
        }
    }
}

#[test]
fn a_delegates_match_keeps_its_clients_and_ports() {
    let root =
        "{hosts: [a.x.com], http: [{match: [{sourceLabels: {app: x}}], delegate: {name: leaf}}]}";
    let leaf = "{http: [{match: [{sourceLabels: {tier: a}}, {port: 8080}], timeout: 1s, route: [{destination: {host: a.x.com}}]}]}";
    let rules = object("VirtualService", "root", root) + &object("VirtualService", "leaf", leaf);
    for (labels, expected) in [
        (&[("app", "x"), ("tier", "a")][..], 1),
        (&[("app", "x")], 0),
        (&[("tier", "a")], 0),
        (&[("app", "x"), ("tier", "b")], 0),
    ] {
        let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let client = Workload {
            labels: labels.collect(),
            ..Workload::default()
        };
        assert_eq!(timeouts(&rules, &client), [expected], "{client:?}");
    }
}

#[test]
fn requests_for_a_delegate_that_cannot_be_used_are_denied() {
    let leaf = "http: [{timeout: 1s, route: [{destination: {host: a.x.com}}]}]}";
    let (has_hosts, private) = (
        format!("{{hosts: [b.x.com], {leaf}"),
        format!("{{exportTo: [other], {leaf}"),
    );
    for leaf in [None, Some(&has_hosts), Some(&private)] {
        let leaf = leaf.map(|spec| object("VirtualService", "leaf", spec));
        let leaf = leaf.unwrap_or_default();
        for (matches, behind) in [("", 0), ("match: [{uri: {prefix: /a}}], ", 9)] {
            let root = format!(
                "{{hosts: [a.x.com], http: [{{{matches}delegate: {{name: leaf}}}}, {{timeout: 9s, route: [{{destination: \
                 {{host: a.x.com}}}}]}}]}}"
            );
            let rules = object("VirtualService", "root", &root) + &leaf;
            let routes = routes(&rules, &Workload::default());
            let Err(NoAction::NotCarriedOut(why)) = &routes[0].action else {
                panic!("{rules}: {routes:?}");
            };
            assert_eq!(
                &**why,
                "spec.http[0].delegate of VirtualService default/root (test.yaml:7) names VirtualService default/leaf, \
                 which is missing, has hosts or is not exported to the namespace, so it serves nothing"
            );
            assert_eq!(routes[0].matches.is_empty(), behind == 0);
            assert_eq!(seconds(&routes[1]), 9, "the routes behind it stay");
        }
    }
    // Clients that the root's route is not for are left to the service itself.
    let root =
        "{hosts: [a.x.com], http: [{match: [{sourceLabels: {app: x}}], delegate: {name: leaf}}]}";
    let rules = object("VirtualService", "root", root);
    assert_eq!(timeouts(&rules, &Workload::default()), [0]);
}
