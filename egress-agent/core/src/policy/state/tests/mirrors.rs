//! Mirrors of a `VirtualService`, from YAML to the snapshot: their addresses, their permission, and what an update of
//! either changes.

use super::bench::{Bench, dialled};
use super::{entry, port};
use crate::policy::state::Settings;
use crate::routing::{HttpDecision, Target};
use crate::traffic::ClusterId;
use egress_ebpf::ids::PolicyId;

/// Enough other objects that an update of one is not an update of all.
fn others() -> String {
    let one = |n: usize| {
        named(
            &format!("other{n}"),
            &listed(&format!("{n}.other.example"), "1"),
        )
    };
    (0..40).map(one).collect::<Vec<_>>().join("---\n")
}

fn named(name: &str, object: &str) -> String {
    object.replace("{name: e}", &format!("{{name: {name}}}"))
}

fn listed(host: &str, last: &str) -> String {
    let endpoints = format!("endpoints: [{{address: 198.51.100.{last}}}]");
    entry(host, "STATIC", &port(80, "HTTP"), &endpoints)
}

fn rule(route: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  \
         hosts: [a.example]\n  http: [{{{route}}}]\n"
    )
}

const TO_A: &str = "route: [{destination: {host: a.example}}]";

/// Mirrors of a request to `a.example`: `HOST:PORT SHARE ADDRESSES`, or why they get nothing.
fn mirrors(bench: &mut Bench) -> Vec<String> {
    let HttpDecision::Act(act) = bench.http(80, "a.example") else {
        panic!("a.example is listed");
    };
    let Some(Target { mirrors, .. }) = act.action.destinations() else {
        return Vec::new();
    };
    let shown = mirrors.iter().flat_map(|all| all.iter()).map(|mirror| {
        let id = &mirror.cluster.id;
        match mirror.denial() {
            Some(why) => format!("{}:{} {why}", id.host, id.port),
            None => format!(
                "{}:{} {} {:?}",
                id.host, id.port, mirror.share, mirror.cluster.endpoints
            ),
        }
    });
    shown.collect()
}

fn all(route: &str, more: &[String]) -> Vec<String> {
    let a = named("a", &listed("a.example", "1"));
    let mut texts = vec![others(), a, rule(route)];
    texts.extend_from_slice(more);
    texts
}

fn put(bench: &mut Bench, texts: &[String]) {
    bench.rules(&texts.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_mirror_has_the_permission_of_a_listed_service_and_an_update_of_that_service_rebuilds_the_route()
 {
    let route = format!("mirror: {{host: b.example}}, mirrorPercentage: {{value: 12.5}}, {TO_A}");
    let b = |last| named("b", &listed("b.example", last));
    let mut bench = Bench::new(Settings::default(), &[]);
    put(&mut bench, &all(&route, &[b("2")]));
    let there = "b.example:80 12.5 % [198.51.100.2:80]";
    assert_eq!(mirrors(&mut bench), [there]);
    put(&mut bench, &all(&route, &[b("3")]));
    assert_eq!(
        mirrors(&mut bench),
        ["b.example:80 12.5 % [198.51.100.3:80]"]
    );
    let to = ClusterId::new("b.example", 80);
    let lists = |bench: &mut Bench, host| {
        let routes = bench.state.routes();
        routes.lists_mirror(PolicyId(0), dialled(80), host, &to)
    };
    assert!(lists(&mut bench, "a.example") && lists(&mut bench, "A.example:80"));
    assert!(!lists(&mut bench, "b.example") && !lists(&mut bench, "0.other.example"));
    put(&mut bench, &all(&route, &[]));
    let denied = "b.example:80 the mirror of the route gets no copy: the route leads to b.example, which is not registered";
    assert_eq!(mirrors(&mut bench), [denied]);
    assert!(!lists(&mut bench, "a.example"));
    put(&mut bench, &all(&route, &[b("2")]));
    assert_eq!(mirrors(&mut bench), [there]);
    // A rule for the mirror's host counts as one for a destination.
    let protected = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\n\
                     spec: {host: b.example, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n";
    put(&mut bench, &all(&route, &[b("2"), protected.to_owned()]));
    let [told] = &mirrors(&mut bench)[..] else {
        panic!("one mirror");
    };
    assert!(told.contains("trafficPolicy.tls.mode"), "{told}");
    put(&mut bench, &all(TO_A, &[b("2")]));
    assert_eq!(mirrors(&mut bench), [""; 0]);
    assert!(!lists(&mut bench, "a.example"));
}

#[test]
fn the_port_and_the_subset_of_a_mirror_are_those_of_a_destination() {
    let b = named("b", &listed("b.example", "2")).replace("number: 80", "number: 8080");
    let of = |mirror: &str| {
        let route = format!("mirrors: [{{destination: {{{mirror}}}}}], {TO_A}");
        mirrors(&mut Bench::new(
            Settings::default(),
            &all(&route, std::slice::from_ref(&b))
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        ))
    };
    // Its only port.
    assert_eq!(
        of("host: b.example"),
        ["b.example:8080 100 % [198.51.100.2:8080]"]
    );
    for (mirror, port) in [
        ("host: b.example, port: {number: 80}", 80),
        ("host: b.example, subset: none", 8080),
    ] {
        let [told] = &of(mirror)[..] else {
            panic!("one mirror of {mirror}");
        };
        assert!(
            told.starts_with(&format!(
                "b.example:{port} the mirror of the route gets no copy"
            )),
            "{told}"
        );
    }
}

#[test]
fn a_redirect_copies_nothing_and_a_delegate_takes_the_mirrors_of_its_root() {
    let b = named("b", &listed("b.default.svc.cluster.local", "2"));
    let redirect = "mirror: {host: b}, redirect: {uri: /there}";
    let mut bench = Bench::new(Settings::default(), &[]);
    put(&mut bench, &all(redirect, std::slice::from_ref(&b)));
    assert_eq!(mirrors(&mut bench), [""; 0]);
    let leaf = |mirror: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: leaf, namespace: two}}\nspec: {{http: [{{{mirror}{TO_A}}}]}}\n"
        )
    };
    // The short name is completed in the namespace of the rule that has it.
    let root = "mirror: {host: b}, mirrorPercent: 7, delegate: {name: leaf, namespace: two}";
    for (mirror, expected) in [
        ("", "b.default.svc.cluster.local:80 7 % [198.51.100.2:80]"),
        (
            "mirror: {host: b.default}, mirrorPercentage: {value: 3}, ",
            "b.default:80 the mirror of the route gets no copy: the route leads to b.default, which is not registered",
        ),
    ] {
        put(&mut bench, &all(root, &[b.clone(), leaf(mirror)]));
        assert_eq!(mirrors(&mut bench), [expected], "{mirror}");
    }
}
