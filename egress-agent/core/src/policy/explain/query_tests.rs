//! Queries in words, and flows to port 53.

use super::super::tests::{entries, state_with};
use super::super::{DeniedBy, Explanation, Question as Flow};
use super::{QuerySettings, Question, parse_query};
use crate::policy::state::{Settings, State};
use egress_ebpf::ids::PolicyId;
use hickory_proto::rr::RecordType;
use std::sync::Arc;

fn rules() -> String {
    entries(&[
        (
            "api",
            "hosts: [api.example.com], resolution: DNS, ports: [{number: 443, name: t, protocol: TLS}]",
        ),
        (
            "wild",
            "hosts: [\"*.wild.example\"], ports: [{number: 443, name: t, protocol: TLS}]",
        ),
        (
            "db",
            "hosts: [db.example], resolution: DNS, ports: [{number: 5432, name: t, protocol: TCP}], endpoints: [{address: one.backend.example}]",
        ),
        (
            "vip",
            "hosts: [vip.example], resolution: STATIC, addresses: [192.0.2.7], ports: [{number: 5432, name: t, protocol: TCP}], endpoints: [{address: 203.0.113.1}]",
        ),
    ])
}

fn intercepting(audit: bool) -> State {
    let settings = Settings {
        dns_intercept: true,
        audit,
        ..Settings::default()
    };
    state_with(settings, &rules())
}

fn explain(state: &mut State, name: &str, kind: RecordType) -> Explanation {
    let settings = QuerySettings {
        cluster_domain: Some("cluster.local".into()),
        ..QuerySettings::default()
    };
    let question = Question {
        name: name.into(),
        kind,
    };
    state.explain_query(PolicyId(0), &Arc::new(settings), &question)
}

#[test]
fn each_row_of_the_table_has_its_words() {
    let mut state = intercepting(false);
    for (name, kind, denied, words) in [
        (
            "api.example.com",
            RecordType::A,
            None,
            &[
                "allowed: api.example.com A is asked at the servers in dns.servers",
                "listed by ServiceEntry",
            ][..],
        ),
        (
            "a.wild.example",
            RecordType::A,
            None,
            &["*.wild.example lists it", "dns.belowBurst"],
        ),
        (
            "db.example",
            RecordType::A,
            None,
            &["with 203.0.113.80", "spec.endpoints"],
        ),
        (
            "vip.example",
            RecordType::A,
            None,
            &["with 192.0.2.7", "spec.addresses"],
        ),
        ("localhost", RecordType::A, None, &["with 127.0.0.1"]),
        (
            "use-application-dns.net",
            RecordType::A,
            None,
            &["NXDOMAIN", "Firefox"],
        ),
        (
            "kubernetes.default.svc.cluster.local",
            RecordType::A,
            None,
            &["the server that the client chose"],
        ),
        (
            "api.example.com.shop.svc.cluster.local",
            RecordType::A,
            None,
            &["NXDOMAIN", "search list"],
        ),
        (
            "80.113.0.203.in-addr.arpa",
            RecordType::PTR,
            None,
            &["with api.example.com."],
        ),
        (
            "api.exmaple.com",
            RecordType::A,
            Some("dns-not-listed"),
            &[
                "denied: api.exmaple.com A: no rule lists this name",
                "REFUSED",
                "nearest: ServiceEntry",
            ],
        ),
        (
            "api.example.com",
            RecordType::TXT,
            Some("dns-type"),
            &["dns.types", "without records", "listed by ServiceEntry"],
        ),
        (
            "api.example.com",
            RecordType::ANY,
            Some("dns-type"),
            &["NOTIMP"],
        ),
    ] {
        let explained = explain(&mut state, name, kind);
        assert_eq!(explained.reason, denied, "{name}: {explained:?}");
        assert_eq!(explained.denied, denied.map(|_| DeniedBy::Dns));
        let text = explained.lines.join("\n");
        for word in words {
            assert!(text.contains(word), "{name} {kind}: {word}: {text}");
        }
    }
}

#[test]
fn what_an_audited_policy_would_deny_and_what_off_does_not_read_is_said() {
    let text = explain(&mut intercepting(true), "evil.example", RecordType::A);
    assert!(text.allowed() && text.lines.concat().contains("it would be denied"));
    let mut off = state_with(Settings::default(), &rules());
    let text = explain(&mut off, "evil.example", RecordType::A);
    assert!(text.lines[0].contains("dns.intercept is off"), "{text:?}");
}

#[test]
fn flows_to_port_53_go_to_the_agent() {
    for audit in [false, true] {
        let mut state = intercepting(audit);
        for to in [
            "203.0.113.9:53",
            "[::1]:53",
            "dns.example:53",
            "api.example.com:53",
        ] {
            let explained = state.explain(PolicyId(0), &Flow::parse(to).unwrap());
            let text = explained.lines.join("\n");
            assert!(explained.allowed(), "{to}: {text}");
            assert!(text.contains("explain --query"), "{to}: {text}");
            assert!(!text.contains("name server, or"), "{to}: {text}");
        }
    }
    let mut off = state_with(Settings::default(), &rules());
    let flow = Flow::parse("203.0.113.9:53").unwrap();
    assert!(!off.explain(PolicyId(0), &flow).allowed());
}

#[test]
fn a_query_is_read_as_a_user_writes_it() {
    let question = parse_query("API.Example.com.", "aaaa").unwrap();
    assert_eq!(
        (&*question.name, question.kind),
        ("api.example.com", RecordType::AAAA)
    );
    let caa = parse_query("_443._https.a", "type257").unwrap();
    assert_eq!(caa.kind, RecordType::CAA);
    let long = format!("{}.example", "a".repeat(64));
    for name in [
        "",
        ".",
        "a..b",
        "a b",
        "http://a.example",
        "*.a.example",
        &long,
        &"a.".repeat(128),
    ] {
        assert!(parse_query(name, "A").is_err(), "{name}");
    }
    assert!(parse_query("a.example", "BOGUS").is_err());
}
