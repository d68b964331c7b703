//! Answers that are not the ones of the host's own name: endpoints that are names, and targets of aliases.

use super::super::answer::filter_message;
use super::super::bench::{directory, in_cluster, listing, question};
use super::super::listing::Directory;
use super::super::records::{address, alias, message};
use super::super::settings::QuerySettings;
use super::{Decision, Forward, Reason, judge, judge_after};
use crate::policy::leases::{Answer, InForce};
use crate::policy::leases::{LeaseSettings, Leases, PrivateAnswers};
use crate::policy::state::Settings;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: database}
spec:
  hosts: [db.example, "*.shard.example"]
  resolution: DNS
  ports: [{number: 5432, name: db, protocol: TCP}]
  endpoints: [{address: one.backend.example}, {address: 203.0.113.5}, {address: two.backend.example}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vip}
spec:
  hosts: [vip.example]
  addresses: [192.0.2.7]
  resolution: DNS
  ports: [{number: 5432, name: db, protocol: TCP}]
  endpoints: [{address: one.backend.example}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other}
spec:
  hosts: [a.example, b.example]
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}]
"#;

fn rules() -> Directory {
    directory(RULES, Settings::default(), in_cluster())
}

fn in_force(answers: &[(&str, &[&str])]) -> InForce {
    let (mut leases, now) = (Leases::new(LeaseSettings::default()), Instant::now());
    let names: BTreeSet<Arc<str>> = answers.iter().map(|(name, _)| (*name).into()).collect();
    leases.want(now, &names);
    for (name, ips) in answers {
        let answer = Answer {
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ttl: Duration::from_mins(1),
        };
        leases.handle_answer(now, name, Ok(answer));
    }
    leases.in_force()
}

#[test]
fn endpoints_that_are_names_are_answered_with_the_addresses_in_the_kernel() {
    let directory = rules();
    let told = |name: &str, kind, in_force: &InForce| match judge(
        listing(&directory),
        &question(name, kind),
    ) {
        Decision::Endpoints(endpoints) => endpoints.answer(kind, in_force).map(|local| {
            assert_eq!(local.code, ResponseCode::NoError);
            let records = local.records.iter().map(ToString::to_string);
            records.collect::<Vec<_>>().join(" ")
        }),
        other => panic!("{name}: {other:?}"),
    };
    let one = ("one.backend.example", &["203.0.113.1", "2001:db8::1"][..]);
    let two = ("two.backend.example", &["203.0.113.2", "203.0.113.1"][..]);
    let both = in_force(&[one, two]);
    for name in ["db.example", "a.b.shard.example"] {
        let four = told(name, RecordType::A, &both).unwrap();
        assert_eq!(four, "203.0.113.5 203.0.113.1 203.0.113.2");
        assert_eq!(told(name, RecordType::AAAA, &both).unwrap(), "2001:db8::1");
        assert_eq!(told(name, RecordType::HTTPS, &both).unwrap(), "");
    }
    let none = InForce::default();
    assert_eq!(
        told("db.example", RecordType::A, &none).unwrap(),
        "203.0.113.5"
    );
}

#[test]
fn names_without_an_address_are_no_host_without_addresses() {
    let endpoints = super::Endpoints {
        fixed: Vec::new(),
        names: vec!["one.backend.example".into()],
    };
    assert_eq!(endpoints.answer(RecordType::A, &InForce::default()), None);
    let six = in_force(&[("one.backend.example", &["2001:db8::1"])]);
    let answer = endpoints.answer(RecordType::A, &six).unwrap();
    assert!(answer.records.is_empty());
}

#[test]
fn addresses_that_clients_dial_come_before_endpoints() {
    let directory = rules();
    match judge(listing(&directory), &question("vip.example", RecordType::A)) {
        Decision::Local(local) => assert_eq!(local.records[0].to_string(), "192.0.2.7"),
        other => panic!("{other:?}"),
    }
}

fn after(directory: &Directory, name: &str, kind: RecordType, of: &[&str]) -> Decision {
    let names = |_: &str| of.iter().map(|name| (*name).into()).collect();
    judge_after(listing(directory), &question(name, kind), names)
}

fn forwarded(decision: Decision) -> Forward {
    match decision {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_target_of_an_alias_is_forwarded_as_the_listed_names() {
    let directory = rules();
    let of = ["a.example", "b.example", "gone.example"];
    let forward = forwarded(after(&directory, "x.cdn.example", RecordType::A, &of));
    let asked = question("x.cdn.example", RecordType::A);
    let names: Vec<_> = forward.listed_names(&asked.name);
    let names: Vec<_> = names.iter().map(|n| (&*n.name, &*n.hosts[0])).collect();
    assert_eq!(
        names,
        [("a.example", "a.example"), ("b.example", "b.example")]
    );
    let answers = [
        alias("X.cdn.example.", 20, "Y.cdn.example."),
        address("y.cdn.example.", 60, "203.0.113.1"),
        address("y.cdn.example.", 60, "10.0.0.1"),
    ];
    let leases = LeaseSettings {
        private_answers: vec![PrivateAnswers {
            host: Some("b.example".into()),
            network: "10.0.0.0/8".parse().unwrap(),
        }],
        ..LeaseSettings::default()
    };
    let message = message(&asked, &answers);
    let filtered = filter_message(listing(&directory), &leases, &asked, &forward, &message);
    let filtered = filtered.unwrap();
    let given = filtered.leases.iter();
    let given: Vec<_> = given
        .map(|l| (&*l.name, l.answer.addresses.len()))
        .collect();
    assert_eq!(given, [("a.example", 1), ("b.example", 2)]);
    let target = ("y.cdn.example".into(), Duration::from_secs(20));
    assert_eq!(filtered.targets, [target]);
}

#[test]
fn an_alias_opens_nothing_that_its_rule_or_the_settings_deny() {
    let directory = rules();
    let decision = |name: &str, kind, of: &[&str]| match after(&directory, name, kind, of) {
        Decision::Deny(denial) => denial.reason,
        other => panic!("{name}: {other:?}"),
    };
    let a = RecordType::A;
    assert_eq!(decision("x.cdn.example", a, &[]), Reason::Unlisted);
    // The rule that listed the name is gone, or gives the host other addresses.
    for name in ["gone.example", "db.example", "vip.example"] {
        assert_eq!(decision("x.cdn.example", a, &[name]), Reason::Unlisted);
    }
    let text = RecordType::TXT;
    let kind = Reason::Kind(text);
    assert_eq!(decision("x.cdn.example", text, &["a.example"]), kind);
    // Names that are judged before an alias.
    let reverse = "1.113.0.203.in-addr.arpa";
    assert_eq!(
        decision(reverse, RecordType::PTR, &["a.example"]),
        Reason::Reverse
    );
    match after(&directory, "use-application-dns.net", a, &["a.example"]) {
        Decision::Local(local) => assert_eq!(local.code, ResponseCode::NXDomain),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_target_in_a_domain_of_the_search_list_exists() {
    let directory = rules();
    let target = "db.corp.example";
    let forward = forwarded(after(&directory, target, RecordType::A, &["a.example"]));
    assert_eq!(forward.services.len(), 1);
    let alone = directory_of(QuerySettings::default());
    assert!(matches!(
        after(&alone, target, RecordType::A, &[]),
        Decision::Deny(_)
    ));
}

fn directory_of(queries: QuerySettings) -> Directory {
    directory(RULES, Settings::default(), queries)
}

#[test]
fn an_audited_policy_records_no_target_of_an_alias() {
    let audit = Settings {
        audit: true,
        ..Settings::default()
    };
    let directory = directory(RULES, audit, in_cluster());
    let recorded = |of: &[&str]| {
        let decision = after(&directory, "x.cdn.example", RecordType::A, of);
        forwarded(decision).recorded
    };
    assert_eq!(recorded(&[]), Some(Reason::Unlisted));
    assert_eq!(recorded(&["a.example"]), None);
}
