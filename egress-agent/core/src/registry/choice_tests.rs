//! Tests which of several rules for one host decides, beside rules that are invalid, private or for other clients.

use super::Registry;
use super::plan::HostPlan;
use super::scope::Workload;
use super::test_text::{object, objects};
use super::update::Change;
use super::view::{Made, View};
use crate::istio::Object;
use crate::istio::stand_in::stand_in;
use std::sync::Arc;

/// What is in force instead of one invalid object.
fn instead(text: &str) -> Arc<Object> {
    Arc::new(stand_in(&objects(text)[0]).unwrap())
}

fn entry(namespace: &str, host: &str) -> String {
    let port = "{number: 80, name: h, protocol: HTTP}, {number: 8080, name: g, protocol: HTTP}";
    let spec = format!("{{hosts: [{host}], resolution: DNS, ports: [{port}]}}");
    object("ServiceEntry", namespace, "entry", &spec)
}

/// A `VirtualService` of a host with a timeout, for the requests that a match takes.
fn rule(namespace: &str, name: &str, host: &str, matches: &str, seconds: u8) -> String {
    let spec = format!(
        "{{hosts: ['{host}'], http: [{{{matches}timeout: {seconds}s, route: [{{destination: {{host: a.x.com}}}}]}}]}}"
    );
    object("VirtualService", namespace, name, &spec)
}

fn client(namespace: &str, labels: &[(&str, &str)]) -> Workload {
    let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    Workload {
        namespace: namespace.into(),
        labels: labels.collect(),
        ..Workload::default()
    }
}

fn plan(objects: &[Arc<Object>], client: &Workload) -> Arc<HostPlan> {
    let registry = Registry::new(objects, "cluster.local");
    let view = View::new(&registry, registry.scope_of(client));
    Arc::clone(&view.plans["a.x.com"])
}

/// The timeout in seconds of the first route of a port.
fn timeout(objects: &[Arc<Object>], client: &Workload, port: u16) -> u64 {
    let plan = plan(objects, client);
    let route = plan.get(port).unwrap().http.iter().flatten().next();
    route.unwrap().policy.timeout.unwrap_or_default().as_secs()
}

/// Whether the host serves nothing, for an invalid rule.
fn is_denied(objects: &[Arc<Object>], client: &Workload) -> bool {
    let plan = plan(objects, client);
    plan.get(80).unwrap().own.policy.denied.is_some()
}

#[test]
fn a_host_that_sorts_before_the_wildcards_hides_none() {
    let text = entry("one", "a.x.com") + &rule("one", "wild", "*.x.com", "", 3);
    let mut rules = objects(&text);
    for host in ["${HOST}.example.com", "!", "#a.com", "'", "(", "\"", ""] {
        let other = rule("one", "other", &host.replace('\'', "''"), "", 9);
        rules.push(instead(&other));
        assert_eq!(timeout(&rules, &Workload::default(), 80), 3, "{host}");
        rules.pop();
    }
}

#[test]
fn a_rule_without_routes_for_a_port_or_a_client_hides_none() {
    let leaf = object(
        "VirtualService",
        "one",
        "leaf",
        "{http: [{match: [{port: 8080}], timeout: 1s, route: [{destination: {host: a.x.com}}]}]}",
    );
    let delegating = object(
        "VirtualService",
        "one",
        "a",
        "{hosts: [a.x.com], http: [{delegate: {name: leaf}}]}",
    ) + &leaf;
    let older = |matches: &str| rule("one", "a", "a.x.com", matches, 1);
    let (app, two) = (client("one", &[("app", "x")]), client("two", &[]));
    for (older, client, port, expected) in [
        (older(""), &two, 80, 1),
        (older("match: [{port: 8080}], "), &two, 80, 2),
        (older("match: [{port: 8080}], "), &two, 8080, 1),
        (older("match: [{sourceLabels: {app: x}}], "), &app, 80, 1),
        (older("match: [{sourceLabels: {app: x}}], "), &two, 80, 2),
        (older("match: [{sourceNamespace: one}], "), &app, 80, 1),
        (older("match: [{sourceNamespace: one}], "), &two, 80, 2),
        (older("match: [{gateways: [gw]}], "), &two, 80, 2),
        (delegating.clone(), &two, 80, 2),
        (delegating, &two, 8080, 1),
    ] {
        let base = entry("one", "a.x.com") + &older;
        let exact = base.clone() + &rule("one", "b", "a.x.com", "", 2);
        assert_eq!(timeout(&objects(&exact), client, port), expected, "{exact}");
        let wild = base.clone() + &rule("one", "b", "*.x.com", "", 2);
        assert_eq!(timeout(&objects(&wild), client, port), expected, "{wild}");
        if expected == 2 {
            assert_eq!(timeout(&objects(&base), client, port), 0, "{base}");
        }
    }
}

#[test]
fn a_destination_rule_of_a_namespace_without_a_say_has_no_effect() {
    let rule = |namespace: &str, rest: &str| {
        let spec = format!("{{host: a.x.com, {rest}subsets: [{{name: v, labels: {{v: '1'}}}}]}}");
        object("DestinationRule", namespace, "d", &spec)
    };
    let to_subset = object(
        "VirtualService",
        "one",
        "v",
        "{hosts: [a.x.com], http: [{route: [{destination: {host: a.x.com, subset: v}}]}]}",
    );
    let base = entry("one", "a.x.com") + &to_subset;
    for (of, applies) in [
        // The client's, the service's and the root namespace.
        ("two", true),
        ("one", true),
        ("istio-system", true),
        ("three", false),
    ] {
        for rest in ["", "exportTo: ['*'], ", "exportTo: [two], "] {
            let rules = objects(&(base.clone() + &rule(of, rest)));
            let registry = Registry::new(&rules, "cluster.local");
            let scope = registry.scope_of(&client("two", &[]));
            let found = registry.subset("a.x.com", "one", "v", &scope);
            assert_eq!(found.is_some(), applies, "{of} {rest}");
        }
    }
}

#[test]
fn the_stand_in_of_an_invalid_object_is_seen_where_the_object_was() {
    let base = objects(&entry("one", "a.x.com"));
    let denied = |text: &str, client: &Workload| {
        let mut rules = base.clone();
        rules.push(instead(text));
        is_denied(&rules, client)
    };
    let virtual_service = |export_to: &str| {
        let spec = format!("{{hosts: [a.x.com], {export_to}http: [{{}}]}}");
        object("VirtualService", "two", "v", &spec)
    };
    let destination_rule = |rest: &str| {
        let spec = format!("{{host: a.x.com, {rest}trafficPolicy: {{connectionPool: {{}}}}}}");
        object("DestinationRule", "two", "d", &spec)
    };
    // Of a DestinationRule, clients of its own namespace see it without an exportTo.
    let (own, other) = (
        client("two", &[("app", "x")]),
        client("three", &[("app", "x")]),
    );
    for (export_to, own_sees, other_sees) in [
        ("", true, true),
        ("exportTo: ['.'], ", true, false),
        ("exportTo: [two], ", true, false),
        ("exportTo: [three], ", false, true),
        ("exportTo: ['*'], ", true, true),
        // Not valid, so it may have meant anyone.
        ("exportTo: ['two!'], ", true, true),
        ("exportTo: ['~'], ", true, true),
        ("exportTo: ['.', 5], ", true, true),
        ("exportTo: ['.', {}], ", true, true),
        ("exportTo: '.', ", true, true),
        ("exportTo: ['.', '*'], ", true, true),
        ("exportto: ['.'], ", true, true),
        ("exportTo: ['.'], export_to: ['*'], ", true, true),
        ("exportTo: ['.'], exportTo: ['*'], ", true, true),
        ("exportTo: ['{{ .Release.Namespace }}'], ", true, true),
    ] {
        let text = virtual_service(export_to);
        assert_eq!(denied(&text, &own), own_sees, "{text}");
        assert_eq!(denied(&text, &other), other_sees, "{text}");
        let text = destination_rule(export_to);
        assert_eq!(denied(&text, &own), own_sees, "{text}");
    }
    let unlabelled = client("two", &[]);
    for (rest, labelled_sees, unlabelled_sees) in [
        ("workloadSelector: {matchLabels: {app: x}}, ", true, false),
        ("workloadSelector: {matchLabels: {app: z}}, ", false, false),
        ("workloadSelector: {matchLabels: {}}, ", true, true),
        ("workloadSelector: {matchLabels: {'a*': x}}, ", true, true),
        ("workloadSelector: {labels: {app: z}}, ", true, true),
        (
            "workloadSelector: {matchLabels: {app: '{{ .Release.Name }}'}}, ",
            true,
            true,
        ),
        ("workloadSelector: {matchLabels: {app: 5}}, ", true, true),
        // The two together are not valid.
        (
            "exportTo: ['*'], workloadSelector: {matchLabels: {app: z}}, ",
            true,
            true,
        ),
    ] {
        let text = destination_rule(rest);
        assert_eq!(denied(&text, &own), labelled_sees, "{text}");
        assert_eq!(denied(&text, &unlabelled), unlabelled_sees, "{text}");
    }
    let nowhere = virtual_service("exportTo: ['.'], ");
    for namespace in ["'{{ .Release.Namespace }}'", "5"] {
        let text = nowhere.replace("namespace: two", &format!("namespace: {namespace}"));
        assert!(denied(&text, &other), "{text}");
    }
}

#[test]
fn a_rule_with_a_short_name_is_imported_by_the_full_name_of_its_host() {
    let full = "payments.one.svc.cluster.local";
    let port = "{number: 80, name: h, protocol: HTTP}";
    let spec = format!("{{hosts: [{full}], resolution: DNS, ports: [{port}]}}");
    let base = object("ServiceEntry", "one", "entry", &spec);
    let short =
        "{hosts: [payments], http: [{timeout: 1s, route: [{destination: {host: payments}}]}]}";
    let short = objects(&object("VirtualService", "one", "short", short));
    for (imports, applies) in [
        ("./payments.one.svc.cluster.local", true),
        ("*/payments.one.svc.cluster.local", true),
        ("one/*.one.svc.cluster.local", true),
        ("one/*", true),
    ] {
        let sidecar = format!("{{egress: [{{hosts: ['{imports}']}}]}}");
        let mut rules = objects(&(base.clone() + &object("Sidecar", "one", "s", &sidecar)));
        let mut registry = Registry::new(&rules, "cluster.local");
        let scope = registry.scope_of(&client("one", &[]));
        let mut later = View::new(&registry, scope.clone());
        rules.extend(short.clone());
        let Change::Some(touched) = registry.update(&rules).change else {
            panic!("few objects are applied one by one");
        };
        let _ = later.update(&registry, &touched, &mut Made::default());
        for (how, view) in [
            ("at first", &View::new(&registry, scope)),
            ("later", &later),
        ] {
            let plan = view.plans[full].get(80).unwrap();
            let route = plan.http.iter().flatten().next().unwrap();
            assert_eq!(route.policy.timeout.is_some(), applies, "{imports} {how}");
        }
    }
}
