//! The state machine from YAML to ops and routes.

mod allocated;
mod bench;
mod by_address;
mod clients;
mod denied_hosts;
mod hints;
mod internal;
mod limits;
mod mirrors;
mod plans;
mod private_answers;
mod relocated;
mod take_over;
mod workloads;

use super::{Settings, State};
use crate::policy::claims::UnlistedAddress;
use crate::policy::diff::TableOp;
use crate::policy::leases::{Answer, Failure};
use crate::policy::tables::Table;
use crate::routing::{HttpDecision, PortKind};
use bench::{Bench, objects};
use egress_ebpf::ids::PolicyId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LAB: &str = include_str!("../../../../../../examples/httpbin-serviceentry.yaml");
const TIMEOUT: &str = include_str!("../../../../../../examples/httpbin-timeout.yaml");
const GOOGLE: &str = include_str!("../../../../../../examples/google.yaml");

fn entry(host: &str, resolution: &str, ports: &str, rest: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e}}\nspec:\n  \
         hosts: [{host:?}]\n  resolution: {resolution}\n  ports: [{ports}]\n  {rest}\n"
    )
}

#[test]
fn an_empty_rule_set_lists_the_name_servers_only() {
    let dns_servers = vec!["192.0.2.53:53".parse().unwrap()];
    let mut bench = Bench::new(
        Settings {
            dns_servers,
            ..Settings::default()
        },
        &[],
    );
    assert_eq!(
        bench.entries(),
        ["192.0.2.53 53 allow", "192.0.2.53 53/udp allow"]
    );
    assert!(bench.state.unresolved().is_empty());
    assert!(matches!(
        bench.http(80, "httpbin.org"),
        HttpDecision::UnlistedHost
    ));

    let mut bare = State::new(Settings::default());
    bare.handle_rules(Instant::now(), &[]);
    assert!(matches!(bare.poll_ops()[..], [TableOp::SetPolicy(PolicyId(0), p)] if p.flags == 0));
}

#[test]
fn the_lab_runs_through_the_state_machine() {
    let mut bench = Bench::new(Settings::default(), &[LAB]);
    assert!(
        bench.entries().is_empty(),
        "nothing before the first answer"
    );
    assert_eq!(
        bench.state.unresolved(),
        &BTreeSet::from([Arc::from("httpbin.org")])
    );
    assert_eq!(&*bench.state.poll_query().unwrap().name, "httpbin.org");
    assert_eq!(bench.state.poll_query(), None);
    bench.answer("httpbin.org", &["203.0.113.80", "2001:db8::80"]);
    assert!(bench.state.unresolved().is_empty());
    let listed = ["2001:db8::80 80 proxy", "203.0.113.80 80 proxy"];
    assert_eq!(bench.entries(), listed);
    let dialled = ["203.0.113.80:80", "[2001:db8::80]:80"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(bench.endpoints(80, "HTTPBIN.org:80"), Some(dialled.clone()));
    let HttpDecision::Act(act) = bench.http(80, "httpbin.org") else {
        panic!()
    };
    assert_eq!(act.policy.timeout, None, "no VirtualService, no timeout");

    bench.rules(&[LAB, TIMEOUT, GOOGLE]);
    assert_eq!(
        bench.entries(),
        listed,
        "what stays listed is there without a new answer"
    );
    let HttpDecision::Act(act) = bench.http(80, "httpbin.org") else {
        panic!()
    };
    assert_eq!(act.policy.timeout, Some(Duration::from_secs(3)));
    assert_eq!(bench.endpoints(80, "httpbin.org"), Some(dialled));

    bench.answer("www.google.com", &["203.0.113.43"]);
    assert_eq!(bench.entries().last(), Some(&"203.0.113.80 80 proxy"));
    assert!(bench.entries().contains(&"203.0.113.43 443 proxy"));
    assert_eq!(
        bench.tls(443, "www.google.com").as_deref(),
        Some("www.google.com:443")
    );
    assert_eq!(bench.tls(443, "google.com"), None);
    assert!(matches!(
        bench.http(80, "www.google.com"),
        HttpDecision::UnlistedHost
    ));
    assert_eq!(
        bench.state.routes().port(PolicyId(0), 443).unwrap().kind,
        PortKind::Tls
    );

    bench.rules(&[]);
    assert!(bench.entries().is_empty());
    assert_eq!(bench.state.poll_timeout(), None);
}

#[test]
fn answers_that_are_taken_together_do_what_they_do_one_by_one() {
    let hosts = ["a.example", "b.example", "c.example"];
    let texts: Vec<_> = hosts
        .iter()
        .map(|host| {
            let text = entry(
                host,
                "DNS",
                &port(80, "HTTP"),
                "endpoints: [{address: shared.example}]",
            );
            let own = entry(host, "DNS", &port(443, "TLS"), "");
            text.replace("name: e}", &format!("name: {host}}}"))
                + "---\n"
                + &own.replace("name: e}", &format!("name: own-{host}}}"))
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (mut one, mut all) = (
        Bench::new(Settings::default(), &texts),
        Bench::new(Settings::default(), &texts),
    );
    let answers: Vec<(Arc<str>, _)> = (1..)
        .zip(["a.example", "shared.example", "a.example", "c.example"])
        .map(|(last, name)| {
            let addresses = vec![[203, 0, 113, last].into(), [203, 0, 113, 99].into()];
            (
                name.into(),
                Ok(Answer {
                    addresses,
                    ttl: Duration::from_mins(1),
                }),
            )
        })
        .collect();
    for (name, answer) in answers.clone() {
        one.state.handle_answer(one.now, &name, answer);
        one.write();
    }
    let outcomes = all.state.handle_answers(all.now, answers);
    all.write();
    assert!(outcomes.iter().all(|outcome| outcome.changed));
    assert_eq!(one.entries().len(), 6, "{:?}", one.entries());
    assert_eq!(one.entries(), all.entries());
    assert_eq!(one.state.routes().policies, all.state.routes().policies);
    assert_eq!(
        one.state.addressless(),
        &BTreeSet::from([Arc::from("b.example")])
    );
    assert_eq!(all.state.addressless(), one.state.addressless());
}

#[test]
fn what_goes_where_by_protocol_and_resolution() {
    let dns = |protocol: &str| entry("a.example", "DNS", &port(7000, protocol), "");
    let fixed = |protocol: &str, rest: &str| {
        entry(
            "a.example",
            "STATIC",
            &port(7000, protocol),
            &format!("endpoints: [{{{rest}}}]"),
        )
    };
    let none = |protocol: &str, rest: &str| entry("a.example", "NONE", &port(7000, protocol), rest);
    let listed = |action: &str| vec![format!("203.0.113.1 7000{action}")];
    for (text, expected) in [
        (dns("HTTP"), listed(" proxy")),
        (dns("grpc-web"), listed(" proxy")),
        (dns("HTTPS"), listed(" proxy")),
        (dns(""), listed(" proxy")),
        (dns("TCP"), listed(" allow")),
        (dns("Mongo"), listed(" allow")),
        (dns("UDP"), listed("/udp allow")),
        (fixed("TCP", "address: 203.0.113.1"), listed(" allow")),
        (fixed("HTTP", "address: 203.0.113.1"), listed(" proxy")),
        (
            fixed("HTTP", "address: 203.0.113.1, ports: {p: 8443}"),
            listed(" proxy"),
        ),
        (
            fixed("TCP", "address: 203.0.113.1, ports: {p: 8443}"),
            listed(" proxy"),
        ),
        (
            fixed("UDP", "address: 203.0.113.1, ports: {p: 8443}"),
            vec![],
        ),
        (none("HTTP", ""), vec!["::/0 7000 proxy".into()]),
        (none("TLS", ""), vec!["::/0 7000 proxy".into()]),
        (none("TCP", ""), vec!["::/0 7000 allow".into()]),
        (none("TCP", "addresses: [203.0.113.1]"), listed(" allow")),
        (
            none("HTTP", "addresses: [203.0.113.0/24]"),
            vec!["203.0.113.0/120 7000 proxy".into()],
        ),
    ] {
        let mut bench = Bench::new(Settings::default(), &[&text]);
        bench.answer("a.example", &["203.0.113.1"]);
        assert_eq!(bench.entries(), expected, "{text}");
    }
}

fn port(number: u16, protocol: &str) -> String {
    format!("{{number: {number}, name: p, protocol: {protocol:?}}}")
}

#[test]
fn a_virtual_address_is_dialled_by_clients_and_the_endpoint_by_the_proxy() {
    let text = entry(
        "a.example",
        "STATIC",
        &port(80, "HTTP"),
        "addresses: [192.0.2.1]\n  endpoints: [{address: 203.0.113.1, ports: {p: 8080}}]",
    );
    let mut bench = Bench::new(Settings::default(), &[&text]);
    assert_eq!(
        bench.entries(),
        ["192.0.2.1 80 proxy", "203.0.113.1 80 proxy"]
    );
    assert_eq!(
        bench.endpoints(80, "a.example"),
        Some(vec!["203.0.113.1:8080".into()])
    );
}

#[test]
fn endpoints_by_name_are_resolved_instead_of_the_host() {
    let text = entry(
        "*.a.example",
        "DNS",
        &port(80, "HTTP"),
        "endpoints: [{address: b.example}]",
    );
    let mut bench = Bench::new(Settings::default(), &[&text]);
    assert_eq!(
        bench.state.unresolved(),
        &BTreeSet::from([Arc::from("b.example")])
    );
    bench.answer("b.example", &["203.0.113.1"]);
    assert_eq!(bench.entries(), ["203.0.113.1 80 proxy"]);
    assert_eq!(
        bench.endpoints(80, "x.a.example"),
        Some(vec!["203.0.113.1:80".into()])
    );
    assert_eq!(
        bench.state.names().of("203.0.113.1".parse().unwrap()),
        ["*.a.example"]
    );
}

#[test]
fn unlisted_addresses_may_be_decided_by_name() {
    let settings = Settings {
        unlisted_address: UnlistedAddress::ByName,
        ..Settings::default()
    };
    let tcp = entry("b.example", "DNS", &port(5432, "TCP"), "");
    let mut bench = Bench::new(settings, &[LAB, &tcp]);
    bench.answer("httpbin.org", &["203.0.113.80"]);
    bench.answer("b.example", &["203.0.113.9"]);
    assert_eq!(
        bench.entries(),
        [
            "203.0.113.80 80 proxy",
            "203.0.113.9 5432 allow",
            "::/0 80 proxy"
        ]
    );
}

#[test]
fn an_address_of_two_services_goes_to_the_proxy_while_either_needs_it() {
    let tcp = entry("tcp.example", "DNS", &port(443, "TCP"), "");
    let tls = entry("tls.example", "DNS", &port(443, "TLS"), "");
    let mut bench = Bench::new(Settings::default(), &[&tcp, &tls]);
    bench.answer("tcp.example", &["203.0.113.1"]);
    assert_eq!(bench.entries(), ["203.0.113.1 443 allow"]);
    bench.answer("tls.example", &["203.0.113.1"]);
    assert_eq!(bench.entries(), ["203.0.113.1 443 proxy"]);
    let names = bench.state.names().of("203.0.113.1".parse().unwrap());
    assert_eq!(names, ["tcp.example", "tls.example"]);
    bench.rules(&[&tcp]);
    assert_eq!(bench.entries(), ["203.0.113.1 443 allow"]);
}

#[test]
fn a_lease_that_ends_leaves_the_table_and_a_failure_does_not() {
    let mut bench = Bench::new(Settings::default(), &[LAB]);
    bench.answer("httpbin.org", &["203.0.113.1"]);
    bench.answer("httpbin.org", &["203.0.113.2"]);
    assert_eq!(bench.entries().len(), 2);
    assert_eq!(
        bench.endpoints(80, "httpbin.org"),
        Some(vec!["203.0.113.2:80".into()])
    );
    bench
        .state
        .handle_answer(bench.now, "httpbin.org", Err(Failure::NoSuchName));
    bench.now += Duration::from_mins(11);
    bench.state.handle_timeout(bench.now);
    bench.write();
    assert_eq!(bench.entries(), ["203.0.113.2 80 proxy"]);
    assert_eq!(
        bench.state.failing(),
        [(Arc::from("httpbin.org"), Failure::NoSuchName)]
    );
}

#[test]
fn the_same_answer_gives_no_ops_and_no_new_snapshot() {
    let mut bench = Bench::new(Settings::default(), &[LAB]);
    bench.answer("httpbin.org", &["203.0.113.1", "203.0.113.2"]);
    let routes = bench.state.routes();
    bench.answer("httpbin.org", &["203.0.113.2", "203.0.113.1"]);
    assert!(
        Arc::ptr_eq(&routes, &bench.state.routes()),
        "another order is no change"
    );
    bench.state.handle_rules(bench.now, &objects(&[LAB]));
    assert!(bench.state.poll_ops().is_empty(), "nor are the same rules");
}

#[test]
fn the_order_of_files_changes_nothing() {
    let texts = [LAB, TIMEOUT, GOOGLE];
    let tables = |texts: &[&str]| -> (Table, String) {
        let mut bench = Bench::new(Settings::default(), texts);
        bench.answer("httpbin.org", &["203.0.113.80"]);
        let routes = bench.state.routes();
        let routes = format!("{:?}", routes.policies[&PolicyId(0)].ports);
        (bench.state.policies[&PolicyId(0)].ledger.table(), routes)
    };
    let first = tables(&texts);
    assert_eq!(first, tables(&[GOOGLE, LAB, TIMEOUT]));
    assert_eq!(first, tables(&[TIMEOUT, GOOGLE, LAB]));
}
