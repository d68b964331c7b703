//! The verdict and its text, from rules alone.

use super::{Dialled, Question, QuestionError, Scheme};
use crate::istio::{Object, decode};
use crate::policy::leases::Answer;
use crate::policy::state::{Settings, State};
use crate::routing::TlsDecision;
use egress_ebpf::ids::PolicyId;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bin}
spec: {hosts: [httpbin.org], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: slow}
spec:
  hosts: [httpbin.org]
  http:
  - match: [{uri: {prefix: /delay}}]
    timeout: 3s
    route: [{destination: {host: httpbin.org}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec: {hosts: [\"*.example.com\"], ports: [{number: 443, name: t, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec: {hosts: [db.internal], addresses: [203.0.113.0/24], ports: [{number: 5432, name: p, protocol: TCP}]}
";

/// Service entries of names and specs: five lines each, with the line between documents.
pub(super) fn entries(all: &[(&str, &str)]) -> String {
    let entry = |(name, spec): &(&str, &str)| {
        let version = "networking.istio.io/v1";
        format!(
            "\napiVersion: {version}\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---"
        )
    };
    all.iter().map(entry).collect()
}

fn state() -> State {
    state_of(RULES)
}

pub(super) fn state_of(rules: &str) -> State {
    state_with(Settings::default(), rules)
}

pub(super) fn state_with(settings: Settings, rules: &str) -> State {
    let decoded = decode("rules.yaml", rules);
    assert!(!decoded.is_broken(), "{:?}", decoded.messages);
    let objects: Vec<Arc<Object>> = decoded.objects.into_iter().map(Arc::new).collect();
    let mut state = State::new(settings);
    state.handle_rules(Instant::now(), &objects);
    while let Some(query) = state.poll_query() {
        let answer = Answer {
            addresses: vec!["203.0.113.80".parse().unwrap()],
            ttl: Duration::from_mins(1),
        };
        state.handle_answer(Instant::now(), &query.name, Ok(answer));
    }
    state
}

#[test]
fn a_policy_that_audits_has_the_same_verdicts_and_says_what_it_makes_of_them() {
    let audits = Settings {
        audit: true,
        ..Settings::default()
    };
    let (mut plain, mut audited) = (state(), state_with(audits, RULES));
    for (text, denied) in [
        ("db.internal:5432", false),
        ("http://httpbin.org/", true),
        ("httpbin.org:81", true),
        ("192.0.2.1:53", true),
    ] {
        let question = Question::parse(text).unwrap();
        let (before, mut after) = (
            plain.explain(PolicyId(0), &question),
            audited.explain(PolicyId(0), &question),
        );
        if denied {
            let last = after.lines.pop().unwrap();
            assert!(last.contains("would_deny"), "{text}: {last}");
        }
        assert_eq!(after, before, "{text}");
        assert_eq!(before.allowed(), !denied, "{text}");
    }
}

#[test]
fn questions_are_names_addresses_and_urls() {
    let name = |host: &str, port| Dialled::Name(host.to_owned(), port);
    let address = |text: &str| Dialled::Address(text.parse().unwrap());
    let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
    for (text, to, scheme, authority, path) in [
        ("a.com:80", name("a.com", 80), None, "a.com:80", "/"),
        (
            "http://A.com/x?y#z",
            name("a.com", 80),
            http,
            "A.com",
            "/x?y",
        ),
        ("https://a.com", name("a.com", 443), https, "a.com", "/"),
        (
            "https://a.com:8443?q",
            name("a.com", 8443),
            https,
            "a.com:8443",
            "/?q",
        ),
        (
            "192.0.2.1:53",
            address("192.0.2.1:53"),
            None,
            "192.0.2.1:53",
            "/",
        ),
        (
            "[2001:db8::1]:53",
            address("[2001:db8::1]:53"),
            None,
            "[2001:db8::1]:53",
            "/",
        ),
        (
            "http://192.0.2.1/",
            address("192.0.2.1:80"),
            http,
            "192.0.2.1",
            "/",
        ),
        (
            "http://[2001:db8::1]/",
            address("[2001:db8::1]:80"),
            http,
            "[2001:db8::1]",
            "/",
        ),
    ] {
        let found = Question::parse(text).unwrap();
        assert_eq!((found.to, found.scheme), (to, scheme), "{text}");
        assert_eq!(
            (found.authority.as_str(), found.path.as_str()),
            (authority, path),
            "{text}"
        );
    }
    for (text, error) in [
        ("a.com", QuestionError::NoPort),
        ("192.0.2.1", QuestionError::NoPort),
        ("ftp://a.com", QuestionError::Scheme("ftp".into())),
        ("a b:80", QuestionError::BadHost("a b:80".into())),
    ] {
        assert_eq!(Question::parse(text), Err(error), "{text}");
    }
}

#[test]
fn the_answer_names_the_rule_or_the_nearest_and_the_field() {
    let mut state = state();
    for (question, allowed, words) in [
        (
            "http://httpbin.org/delay/5",
            true,
            "httpbin.org:80 by VirtualService default/slow (rules.yaml:7), timeout 3s",
        ),
        (
            "http://httpbin.org/delay/5",
            true,
            "listed by ServiceEntry default/bin (rules.yaml:2)",
        ),
        (
            "http://httpbin.org/get",
            false,
            "no route of VirtualService default/slow (rules.yaml:7) takes GET /get",
        ),
        (
            "httpbin.org:443",
            false,
            "but not port 443 (field spec.ports)",
        ),
        (
            "httpbim.org:80",
            false,
            "nearest: ServiceEntry default/bin (rules.yaml:2) lists httpbin.org, port 80",
        ),
        (
            "a.example.com:443",
            true,
            "at any address: resolution is NONE",
        ),
        (
            "example.com:443",
            false,
            "lists *.example.com (which is not the name itself)",
        ),
        (
            "unheard.of:1",
            false,
            "no ServiceEntry lists unheard.of (field spec.hosts)",
        ),
        (
            "db.internal:5432",
            true,
            "at the addresses of spec.addresses only",
        ),
        (
            "203.0.113.7:5432",
            true,
            "TCP is listed by ServiceEntry default/db",
        ),
        ("203.0.113.7:80", false, "db.internal lists port 5432 only"),
        (
            "192.0.2.1:80",
            false,
            "port 80 is listed for httpbin.org, if DNS gives this address",
        ),
    ] {
        let found = state.explain(PolicyId(0), &Question::parse(question).unwrap());
        assert_eq!(found.allowed(), allowed, "{question}: {found:?}");
        assert!(
            found.lines.join("\n").contains(words),
            "{question}: {words}\n{found:?}"
        );
    }
}

#[test]
fn a_wildcard_answers_for_a_port_that_the_name_itself_does_not_list() {
    let mut state = state_of(&entries(&[
        (
            "exact",
            "hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}, {number: 53, name: d, protocol: UDP}]",
        ),
        (
            "wild",
            "hosts: [\"*.example.com\"], ports: [{number: 443, name: t, protocol: TLS}]",
        ),
    ]));
    let to = "192.0.2.1:443".parse().unwrap();
    let decision = state
        .routes()
        .tls(PolicyId(0), to, Some("a.example.com"), 0);
    assert!(matches!(decision, TlsDecision::Forward(_)), "{decision:?}");
    let mut explain = |text: &str| state.explain(PolicyId(0), &Question::parse(text).unwrap());
    let found = explain("a.example.com:443");
    assert!(found.allowed(), "as the routes decide: {found:?}");
    assert!(found.lines.join("\n").contains("default/wild"), "{found:?}");
    let found = explain("a.example.com:8080");
    assert!(!found.allowed());
    assert_eq!(found.lines[2], "it lists ports 53/udp and 80 only");
}

#[test]
fn mirrors_are_named_with_their_share_and_why_they_get_nothing() {
    let rules = entries(&[
        (
            "a",
            "hosts: [a.com], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}]",
        ),
        (
            "b",
            "hosts: [b.com], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}]",
        ),
    ]) + "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [a.com]
  http:
  - mirrors: [{destination: {host: b.com}, percentage: {value: 5}}, {destination: {host: c.com}}]
    route: [{destination: {host: a.com}}]
";
    let explained =
        state_of(&rules).explain(PolicyId(0), &Question::parse("http://a.com/").unwrap());
    let text = explained.lines.join("\n");
    assert!(
        text.contains(
            ", 5 % of requests copied to b.com:80, 100 % of requests copied to c.com:80 (denied: "
        ),
        "{text}"
    );
    assert!(explained.allowed());
}
