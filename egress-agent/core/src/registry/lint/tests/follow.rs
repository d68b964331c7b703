//! The linter that follows changes has the same findings as a check of all objects.

use super::HEAD;
use crate::istio::{Object, decode};
use crate::registry::lint::{Linter, lint};
use proptest::prelude::*;
use std::sync::Arc;

/// Objects with all kinds of dependences that findings have.
fn pool() -> Vec<Arc<Object>> {
    let object = |kind: &str, name: &str, namespace: &str, spec: &str| {
        format!(
            "---\n{HEAD}kind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
        )
    };
    let ports = "ports: [{number: 80, name: h, protocol: HTTP}]";
    let mut text = String::new();
    for (n, (hosts, rest)) in [
        ("a.com", "resolution: DNS"),
        ("a.com", "resolution: NONE"),
        ("a.com, b.com", "resolution: DNS"),
        ("'*.a.com'", "resolution: NONE"),
        ("'*.co.uk', x.co.uk", "resolution: NONE"),
        ("s.n0.svc.cluster.local", "resolution: DNS, exportTo: ['.']"),
    ]
    .into_iter()
    .enumerate()
    {
        let namespace = format!("n{}", n % 2);
        let spec = format!("hosts: [{hosts}], {rest}, {ports}");
        text += &object("ServiceEntry", &format!("e{n}"), &namespace, &spec);
    }
    for (n, (hosts, to)) in [
        ("a.com", "host: b.com, subset: v1"),
        ("a.com", "host: a.com, port: {number: 81}"),
        ("'*.a.com'", "host: x.a.com"),
        ("'*'", "host: a.com, subset: v2"),
        ("s", "host: s"),
        ("b.com", "host: '*.a.com'"),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = format!("hosts: [{hosts}], http: [{{route: [{{destination: {{{to}}}}}]}}]");
        text += &object("VirtualService", &format!("v{n}"), "n0", &spec);
    }
    // Whether rules of b.com are hidden depends on their delegate.
    let rest = "http: [{delegate: {name: leaf}}]";
    text += &object(
        "VirtualService",
        "delegating",
        "n0",
        &format!("hosts: [b.com], {rest}"),
    );
    let rest = "http: [{route: [{destination: {host: b.com}}]}]";
    text += &object("VirtualService", "leaf", "n0", rest);
    // Delegates that are private, have hosts or are missing.
    for (name, namespace, rest) in [
        ("leaf", "n1", "exportTo: ['.'], "),
        ("leaf", "n1", "hosts: [c.com], "),
    ] {
        let spec = format!("{rest}http: [{{route: [{{destination: {{host: b.com}}}}]}}]");
        text += &object("VirtualService", name, namespace, &spec);
    }
    let rest = "http: [{delegate: {name: leaf, namespace: n1}}]";
    text += &object(
        "VirtualService",
        "abroad",
        "n0",
        &format!("hosts: [a.com], {rest}"),
    );
    for (n, spec) in [
        "host: a.com, subsets: [{name: v1, labels: {v: '1'}}]",
        "host: '*.com', subsets: [{name: v2, labels: {v: '2'}}, {name: v1, labels: {v: '1'}}]",
        "host: '*.a.com', trafficPolicy: {portLevelSettings: [{port: {number: 80}, outlierDetection: {}}]}",
        "host: b.com, trafficPolicy: {portLevelSettings: [{port: {number: 81}, outlierDetection: {}}]}",
    ]
    .into_iter()
    .enumerate()
    {
        text += &object("DestinationRule", &format!("d{n}"), "n0", spec);
    }
    for (n, hosts) in [
        "'n1/*'",
        "'*/x.a.com', '*/*.a.com'",
        "'./a.com', '~n1/b.com'",
    ]
    .into_iter()
    .enumerate()
    {
        let spec = format!("egress: [{{hosts: [{hosts}]}}]");
        text += &object("Sidecar", &format!("s{n}"), "n0", &spec);
    }
    text += &object("WorkloadEntry", "w", "n0", "address: 192.0.2.1");
    let decoded = decode("test.yaml", &text);
    assert!(!decoded.is_broken(), "{:?}", decoded.messages);
    decoded.objects.into_iter().map(Arc::new).collect()
}

fn chosen(pool: &[Arc<Object>], set: u32) -> Vec<Arc<Object>> {
    let chosen = pool.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1);
    chosen.map(|(_, object)| Arc::clone(object)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn findings_that_follow_the_rules_are_those_of_a_look_at_everything(
        sets in prop::collection::vec((any::<u32>(), any::<u32>()), 1..12),
    ) {
        let pool = pool();
        let mut linter = Linter::default();
        let mut held = 0;
        for (set, moved) in sets {
            // An object that only moved is in both lists.
            let moved = held & set & moved;
            let added = chosen(&pool, set & !held | moved);
            let gone = chosen(&pool, held & !set | moved);
            linter.change(&added, &gone);
            held = set;
            let objects = chosen(&pool, set);
            let mut whole: Vec<_> = lint(&objects)
                .into_iter()
                .map(|f| (objects[f.object].to_string(), f.message, f.opens))
                .collect();
            let followed = linter.findings();
            let mut followed: Vec<_> = followed
                .map(|f| (f.object.to_string(), f.message.clone(), f.opens))
                .collect();
            let by_object = |list: &mut Vec<(String, crate::istio::Message, bool)>| {
                list.sort_by(|a, b| a.0.cmp(&b.0));
            };
            by_object(&mut whole);
            by_object(&mut followed);
            prop_assert_eq!(whole, followed);
        }
    }
}
