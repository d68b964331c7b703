//! What each workload sees, and how several share policies.

use super::Registry;
use super::plan::Subset;
use super::scope::Workload;
use super::test_text::object;
use super::view::View;
use crate::istio::{Object, decode};
use crate::policy::state::{Settings, State};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

fn objects(text: &str) -> Vec<Arc<Object>> {
    let decoded = decode("test.yaml", text);
    assert!(!decoded.is_broken(), "{:?}", decoded.messages);
    decoded.objects.into_iter().map(Arc::new).collect()
}

fn workload(namespace: &str, labels: &[(&str, &str)]) -> Workload {
    let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    Workload {
        namespace: namespace.into(),
        labels: labels.collect::<BTreeMap<_, _>>(),
        ..Workload::default()
    }
}

fn entry(namespace: &str, name: &str, rest: &str) -> String {
    let spec = format!(
        "{{hosts: [{name}.com], resolution: DNS, ports: [{{number: 80, name: h, protocol: HTTP}}, \
         {{number: 443, name: t, protocol: TLS}}]{rest}}}"
    );
    object("ServiceEntry", namespace, name, &spec)
}

/// Hosts and ports that a workload sees.
fn sees(text: &str, workload: &Workload) -> Vec<String> {
    let registry = Registry::new(&objects(text), "cluster.local");
    let view = View::new(&registry, registry.scope_of(workload));
    let ports = |s: &super::services::Service| {
        let ports: Vec<_> = s.ports().into_keys().map(|p| p.to_string()).collect();
        format!("{}:{}", s.host, ports.join("+"))
    };
    view.services.values().map(|s| ports(s)).collect()
}

#[test]
fn entries_are_seen_where_they_are_exported_to() {
    let text = entry("one", "all", "")
        + &entry("one", "star", ", exportTo: [\"*\"]")
        + &entry("one", "own", ", exportTo: [\".\"]")
        + &entry("one", "two", ", exportTo: [two, three]")
        + &entry("one", "none", ", exportTo: [\"~\"]");
    for (namespace, expected) in [
        (
            "one",
            &["all.com:80+443", "own.com:80+443", "star.com:80+443"][..],
        ),
        (
            "two",
            &["all.com:80+443", "star.com:80+443", "two.com:80+443"],
        ),
        ("four", &["all.com:80+443", "star.com:80+443"]),
    ] {
        assert_eq!(
            sees(&text, &workload(namespace, &[])),
            expected,
            "{namespace}"
        );
    }
}

#[test]
fn a_sidecar_imports_by_namespace_host_and_port() {
    let entries = entry("one", "a", "") + &entry("one", "b", "") + &entry("two", "c", "");
    for (egress, expected) in [
        (
            "[{hosts: [\"./*\"]}]",
            &["a.com:80+443", "b.com:80+443"][..],
        ),
        (
            "[{hosts: [\"*/*\"]}]",
            &["a.com:80+443", "b.com:80+443", "c.com:80+443"],
        ),
        ("[{hosts: [\"two/*\"]}]", &["c.com:80+443"]),
        ("[{hosts: [\"one/a.com\"]}]", &["a.com:80+443"]),
        ("[{hosts: [\"~/*\"]}]", &[]),
        (
            "[{hosts: [\"*/*\", \"~one/a.com\"]}]",
            &["b.com:80+443", "c.com:80+443"],
        ),
        ("[{hosts: [\"*/*\", \"~one/*\"]}]", &["c.com:80+443"]),
        (
            "[{hosts: [\"*/*\", \"~/b.com\"]}]",
            &["a.com:80+443", "c.com:80+443"],
        ),
        (
            "[{port: {number: 443, name: t, protocol: TLS}, hosts: [\"one/a.com\"]}, {hosts: [\"two/*\"]}]",
            &["a.com:443", "c.com:80+443"],
        ),
    ] {
        let sidecar = object("Sidecar", "one", "s", &format!("{{egress: {egress}}}"));
        let text = entries.clone() + &sidecar;
        assert_eq!(sees(&text, &workload("one", &[])), expected, "{egress}");
        assert_eq!(
            sees(&text, &workload("two", &[])).len(),
            3,
            "another namespace's Sidecar"
        );
    }
}

#[test]
fn a_selecting_sidecar_comes_before_the_namespaces_and_that_before_the_root_ones() {
    let policy =
        |mode: &str| format!("outboundTrafficPolicy: {{{mode}}}, egress: [{{hosts: [\"*/*\"]}}]");
    let select = format!(
        "{{workloadSelector: {{labels: {{app: x}}}}, {}}}",
        policy("mode: ALLOW_ANY")
    );
    let selecting = object("Sidecar", "one", "z", &select);
    let default = object("Sidecar", "one", "a", &format!("{{{}}}", policy("")));
    let root = object(
        "Sidecar",
        "istio-system",
        "r",
        &format!("{{{}}}", policy("mode: ALLOW_ANY")),
    );
    let root_selecting = object("Sidecar", "istio-system", "q", &select);
    let all = [&selecting, &default, &root].map(String::as_str).concat();
    for (text, namespace, labels, expected) in [
        (&all, "one", &[("app", "x"), ("v", "1")][..], Some(true)),
        // `{}` is REGISTRY_ONLY, number 0 of its enum.
        (&all, "one", &[("app", "y")], Some(false)),
        (&all, "two", &[("app", "x")], Some(true)),
        (
            &(default.clone() + &root_selecting),
            "two",
            &[("app", "x")],
            None,
        ),
        (&selecting, "one", &[], None),
    ] {
        let registry = Registry::new(&objects(text), "cluster.local");
        let scope = registry.scope_of(&workload(namespace, labels));
        assert_eq!(
            scope.allow_any(),
            expected,
            "{namespace} {labels:?}\n{text}"
        );
    }
}

#[test]
fn workloads_that_see_the_same_share_a_policy_and_it_goes_with_the_last() {
    let now = Instant::now();
    let narrow = entry("one", "own", ", exportTo: [\".\"]");
    let rules = objects(&(entry("one", "all", "") + &narrow));
    let mut state = State::new(Settings::default());
    state.handle_rules(now, &rules);
    for (id, namespace) in [(1, "one"), (2, "one"), (3, "two"), (4, "three")] {
        state.handle_workload(
            now,
            CgroupId(id),
            workload(namespace, &[("pod", namespace)]),
        );
    }
    let policies = [1, 2, 3, 4, 5].map(|id| state.policy_of(CgroupId(id)));
    assert_eq!(policies[0], policies[1], "the same namespace");
    assert_ne!(policies[0], PolicyId(0));
    assert_eq!(
        policies[2..],
        [PolicyId(0); 3],
        "nothing but what all see, also for a workload that was never reported"
    );
    assert_eq!(state.unresolved().len(), 2);
    let routes = state.routes();
    let hosts = |policy: PolicyId| routes.port(policy, 80).unwrap().hosts.len();
    assert_eq!((hosts(PolicyId(0)), hosts(policies[0])), (1, 2));

    state.forget_workload(now, CgroupId(1));
    assert!(state.routes().policies.contains_key(&policies[0]));
    state.forget_workload(now, CgroupId(2));
    assert!(!state.routes().policies.contains_key(&policies[0]));
    assert_eq!(state.unresolved().len(), 1, "a name that only it needed");

    // The rule by which they differ is removed and then added again. Each change is written before the next.
    drop(state.poll_ops());
    state.handle_workload(now, CgroupId(1), workload("one", &[]));
    let own = state.policy_of(CgroupId(1));
    state.handle_rules(now, &rules[..1]);
    assert_eq!(state.policy_of(CgroupId(1)), PolicyId(0));
    drop(state.poll_ops());
    state.handle_rules(now, &rules);
    let anew = state.policy_of(CgroupId(1));
    assert!(
        anew != PolicyId(0) && anew != own,
        "flows may still carry the former id"
    );
    assert_eq!(state.policy_of(CgroupId(3)), PolicyId(0));
}

#[test]
fn rules_for_a_source_apply_to_it_alone() {
    let rule = object(
        "VirtualService",
        "one",
        "v",
        "{hosts: [all.com], http: [{match: [{sourceLabels: {app: x}}], timeout: 1s, route: [{destination: {host: all.com}}]}, \
         {match: [{sourceNamespace: two}], timeout: 2s, route: [{destination: {host: all.com}}]}, \
         {timeout: 3s, route: [{destination: {host: all.com}}]}]}",
    );
    let registry = Registry::new(
        &objects(&(entry("one", "all", "") + &rule)),
        "cluster.local",
    );
    for (of, expected) in [
        (workload("one", &[("app", "x"), ("v", "1")]), vec![1]),
        (workload("two", &[("app", "y")]), vec![2]),
        (workload("one", &[]), vec![3]),
    ] {
        let view = View::new(&registry, registry.scope_of(&of));
        let plan = view.plans["all.com"].get(80).unwrap();
        let routes = plan.http.iter().flatten();
        let seconds: Vec<_> = routes
            .map(|r| r.policy.timeout.unwrap().as_secs())
            .collect();
        assert_eq!(seconds[..1], expected, "{of:?}");
    }
}

#[test]
fn delegates_subsets_and_selected_workloads_lead_where_istio_says() {
    let text = entry("one", "all", "")
        + &object(
            "VirtualService",
            "one",
            "root",
            "{hosts: [all.com], http: [{match: [{uri: {prefix: /d}}], timeout: 4s, delegate: {name: leaf, namespace: two}}, \
             {match: [{uri: {prefix: /n}}], delegate: {name: nobody}}, {route: [{destination: {host: all.com, subset: v1}}]}]}",
        )
        + &object(
            "VirtualService",
            "two",
            "leaf",
            "{http: [{match: [{uri: {prefix: /d/x}}], route: [{destination: {host: all.com}}]}, {timeout: 9s, route: [{destination: {host: all.com, subset: none}}]}]}",
        )
        + &object(
            "DestinationRule",
            "one",
            "d",
            "{host: all.com, subsets: [{name: v1, labels: {v: \"1\"}}]}",
        );
    let registry = Registry::new(&objects(&text), "cluster.local");
    let view = View::everything(&registry);
    let plan = view.plans["all.com"].get(80).unwrap();
    // The route without its delegate denies.
    let (led, denied): (Vec<_>, Vec<_>) =
        plan.http.iter().flatten().partition(|r| r.action.is_ok());
    assert_eq!(denied.len(), 1);
    let seen: Vec<_> = led
        .iter()
        .map(|r| {
            (
                r.matches.len(),
                r.policy.timeout.map(|t| t.as_secs()),
                r.action.as_ref().unwrap().destinations().unwrap()[0]
                    .to
                    .subset
                    .clone(),
            )
        })
        .collect();
    let v1 = Subset::Labels(Arc::new(BTreeMap::from([("v".into(), "1".into())])));
    assert_eq!(
        seen,
        [
            (1, Some(4), Subset::All),
            (1, Some(9), Subset::Undefined),
            (0, None, v1)
        ]
    );

    let selected = object(
        "ServiceEntry",
        "one",
        "s",
        "{hosts: [s.com], resolution: STATIC, ports: [{number: 80, name: h, protocol: HTTP}], workloadSelector: {labels: {app: s}}}",
    ) + &object(
        "WorkloadEntry",
        "one",
        "w1",
        "{address: 203.0.113.1, labels: {app: s}}",
    ) + &object(
        "WorkloadEntry",
        "one",
        "w2",
        "{address: 203.0.113.2, labels: {app: t}}",
    ) + &object(
        "WorkloadEntry",
        "two",
        "w3",
        "{address: 203.0.113.3, labels: {app: s}}",
    );
    let registry = Registry::new(&objects(&selected), "cluster.local");
    let view = View::everything(&registry);
    assert_eq!(
        view.services["s.com"].entries[0]
            .endpoints
            .as_ref()
            .unwrap()
            .len(),
        1
    );
}
