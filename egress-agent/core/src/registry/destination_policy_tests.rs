//! Tests which of several `DestinationRule`s for one host applies to a workload.

use super::Registry;
use super::scope::Workload;
use super::test_text::{object, objects};
use super::view::View;
use crate::istio::Object;
use crate::istio::stand_in::stand_in;
use crate::traffic::ClusterPolicy;
use std::sync::Arc;

fn rule(name: &str, rest: &str) -> String {
    let spec = format!("{{host: a.x.com, {rest}}}");
    object("DestinationRule", "one", name, &spec)
}

fn limit(most: u32) -> String {
    format!("trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {most}}}}}}}")
}

fn selecting(label: &str) -> String {
    format!("workloadSelector: {{matchLabels: {{{label}}}}}, ")
}

fn client(namespace: &str, app: &str) -> Workload {
    Workload {
        namespace: namespace.into(),
        labels: [("app".into(), app.into()), ("tier".into(), "a".into())].into(),
        ..Workload::default()
    }
}

fn policy(rules: &[Arc<Object>], client: &Workload) -> ClusterPolicy {
    let port = "{number: 80, name: h, protocol: HTTP}";
    let spec = format!("{{hosts: [a.x.com], resolution: DNS, ports: [{port}]}}");
    let mut all = objects(&object("ServiceEntry", "one", "e", &spec));
    all.extend(rules.iter().cloned());
    let registry = Registry::new(&all, "cluster.local");
    let view = View::new(&registry, registry.scope_of(client));
    let plan = view.plans["a.x.com"].get(80).unwrap();
    ClusterPolicy::clone(&plan.own.policy)
}

/// istio `pilot/pkg/model/sidecar.go`, `SidecarScope.DestinationRule`.
#[test]
fn a_rule_that_selects_the_workload_applies_alone() {
    let older = rule("a", &limit(1));
    let other = "trafficPolicy: {outlierDetection: {}}";
    let of_x = rule("b", &(selecting("app: x") + &limit(2)));
    let of_tier = rule("c", &(selecting("tier: a") + &limit(3)));
    let same = rule("d", &(selecting("app: x") + "subsets: [{name: v}]"));
    let bare = rule("b", &(selecting("app: x") + other));
    let empty = rule("b", &format!("workloadSelector: {{}}, {}", limit(5)));
    for (rules, app, connections) in [
        (vec![&older], "x", Some(1)),
        (vec![&older, &of_x], "x", Some(2)),
        (vec![&of_x, &older], "x", Some(2)),
        (vec![&older, &of_x], "y", Some(1)),
        (vec![&older, &of_x, &of_tier], "x", Some(2)),
        (vec![&older, &of_x, &of_tier], "y", Some(3)),
        (vec![&older, &same, &of_x], "x", Some(2)),
        // The rule is not merged with the one for all.
        (vec![&older, &bare], "x", None),
        (vec![&older, &bare], "y", Some(1)),
        (vec![&older, &empty], "x", Some(5)),
    ] {
        let text: String = rules.into_iter().map(String::as_str).collect();
        let found = policy(&objects(&text), &client("one", app));
        assert_eq!(found.pool.connections, connections, "{app} {text}");
        assert_eq!(found.denied, None, "{app} {text}");
    }
    // A selector is for workloads of the rule's namespace.
    for text in [&of_x, &empty] {
        let rules = objects(&(older.clone() + text));
        let found = policy(&rules, &client("two", "x"));
        assert_eq!(found.pool.connections, Some(1), "{text}");
    }
}

#[test]
fn a_field_that_is_not_carried_out_denies_only_where_its_rule_applies() {
    let denying = "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}";
    let of_x = |rest: &str| selecting("app: x") + rest;
    for (all, selecting, denied_x, denied_y) in [
        (denying, &*of_x(&limit(2)), false, true),
        (&*limit(1), &*of_x(denying), true, false),
    ] {
        let rules = objects(&(rule("a", all) + &rule("b", selecting)));
        for (app, denied) in [("x", denied_x), ("y", denied_y)] {
            let found = policy(&rules, &client("one", app));
            assert_eq!(found.denied.is_some(), denied, "{app} {selecting}");
        }
    }
}

#[test]
fn the_stand_in_of_an_invalid_rule_denies_beside_a_rule_that_selects_the_workload() {
    let invalid = "trafficPolicy: {connectionPool: {}}";
    let valid = rule("b", &(selecting("app: x") + &limit(2)));
    for text in [
        rule("a", invalid),
        rule("c", invalid),
        rule("c", &(selecting("app: x") + invalid)),
        rule("c", &(selecting("tier: a") + invalid)),
    ] {
        let mut rules = objects(&valid);
        rules.push(Arc::new(stand_in(&objects(&text)[0]).unwrap()));
        let found = policy(&rules, &client("one", "x"));
        assert!(found.denied.is_some(), "{text}");
    }
    let mut rules = objects(&valid);
    let other = rule("a", &(selecting("app: z") + invalid));
    rules.push(Arc::new(stand_in(&objects(&other)[0]).unwrap()));
    assert_eq!(policy(&rules, &client("one", "x")).denied, None);
}
