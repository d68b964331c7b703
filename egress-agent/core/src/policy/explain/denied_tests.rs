//! Destinations that the gate denies although a rule lists them, and requests with more than a path.

use super::tests::{entries, state_of};
use super::{DeniedBy, Question, QuestionError};
use egress_ebpf::ids::PolicyId;

/// Ports that are dialled with another protocol than the listed one, and destinations that do not exist.
const UNMEANT: [(&str, &str); 6] = [
    (
        "web",
        "hosts: [web.example], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}, {number: 443, name: t, protocol: TLS}]",
    ),
    (
        "open",
        "hosts: [db.example], resolution: NONE, ports: [{number: 5432, name: p, protocol: TCP}]",
    ),
    (
        "nowhere",
        "hosts: [nowhere.example], resolution: STATIC, ports: [{number: 80, name: h, protocol: HTTP}]",
    ),
    (
        "vip",
        "hosts: [vip.example], addresses: [203.0.113.9], resolution: STATIC, ports: [{number: 80, name: h, protocol: HTTP}, {number: 22, name: s, protocol: TCP}]",
    ),
    (
        "led",
        "hosts: [led.example], resolution: DNS, ports: [{number: 9000, name: p, protocol: TCP}, {number: 8443, name: t, protocol: TLS}]",
    ),
    (
        "web-too, labels: {chart: other}",
        "hosts: [web.example], resolution: DNS, ports: [{number: 8443, name: t, protocol: TLS}]",
    ),
];

/// No route leads to a listed host.
const AWAY: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: away}
spec:
  hosts: [led.example]
  tcp: [{match: [{port: 9000}], route: [{destination: {host: gone.example, port: {number: 9000}}}]}]
  tls: [{match: [{port: 8443, sniHosts: [led.example]}], route: [{destination: {host: gone.example, port: {number: 8443}}}]}]
";

fn unmeant() -> String {
    entries(&UNMEANT) + AWAY
}

#[test]
fn a_destination_that_the_gate_denies_is_denied_with_its_reason() {
    let mut state = state_of(&unmeant());
    for (question, denied, words) in [
        ("http://web.example/", None, "GET / goes to web.example:80"),
        (
            "https://web.example:80/",
            Some(DeniedBy::Closed),
            "reason=\"the protocol of the flow is not that of the port\"",
        ),
        (
            "http://web.example:443/",
            Some(DeniedBy::Closed),
            "port 443 of web.example is listed for TLS",
        ),
        (
            "other.example:5432",
            None,
            "ServiceEntry default/open (rules.yaml:7) opens port 5432 to any address",
        ),
        (
            "other.example:5433",
            Some(DeniedBy::Kernel),
            "no ServiceEntry lists other.example",
        ),
        (
            "nowhere.example:80",
            Some(DeniedBy::Kernel),
            "ServiceEntry default/nowhere (rules.yaml:12) lists no address for nowhere.example",
        ),
        (
            "vip.example:80",
            Some(DeniedBy::Status(503)),
            "no healthy upstream",
        ),
        (
            "vip.example:22",
            Some(DeniedBy::Closed),
            "lists no address for vip.example",
        ),
        ("led.example:9000", Some(DeniedBy::Closed), "led.example"),
        ("led.example:8443", Some(DeniedBy::Closed), "led.example"),
    ] {
        let found = state.explain(PolicyId(0), &Question::parse(question).unwrap());
        assert_eq!(found.denied, denied, "{question}: {found:?}");
        let lines = found.lines.join("\n");
        assert!(lines.contains(words), "{question}: {words}\n{lines}");
    }
}

#[test]
fn a_request_is_explained_with_its_method_and_headers() {
    let rules = format!(
        "{}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: picky}}
spec:
  hosts: [web.example]
  http:
  - match: [{{method: {{exact: POST}}, headers: {{x-key: {{exact: one}}}}}}]
    route: [{{destination: {{host: web.example}}}}]
",
        unmeant()
    );
    let mut state = state_of(&rules);
    let question = || Question::parse("http://web.example/").unwrap();
    let post = || question().with_method("POST").unwrap();
    let keyed = |q: Question| q.with_header("X-Key: one").unwrap();
    for (question, denied) in [
        (keyed(post()), None),
        (post(), Some(DeniedBy::Status(404))),
        (keyed(question()), Some(DeniedBy::Status(404))),
    ] {
        assert_eq!(
            state.explain(PolicyId(0), &question).denied,
            denied,
            "{question:?}"
        );
    }
    let mut denied = |text: &str, method: &str, header: &str| {
        let question = Question::parse(text).unwrap().with_method(method).unwrap();
        state
            .explain(PolicyId(0), &question.with_header(header).unwrap())
            .denied
    };
    // A Host that is given as a header counts.
    for (text, method, header, expected) in [
        (
            "http://web.example/",
            "GET",
            "Host: other.example",
            Some(DeniedBy::Status(502)),
        ),
        (
            "http://web.example/",
            "GET",
            "Transfer-Encoding: gzip",
            Some(DeniedBy::Status(501)),
        ),
        (
            "http://web.example/",
            "BREW",
            "X-Key: one",
            Some(DeniedBy::Status(400)),
        ),
        (
            "http://web.example/%00",
            "POST",
            "X-Key: one",
            Some(DeniedBy::Status(400)),
        ),
        ("http://web.example/", "POST", "X-Key: one", None),
    ] {
        assert_eq!(
            denied(text, method, header),
            expected,
            "{text} {method} {header}"
        );
    }
    let bad = question().with_header("no colon");
    assert!(matches!(bad, Err(QuestionError::Header(_))));
}

#[test]
fn a_port_whose_resolution_is_not_spelt_out_is_said_to_serve_nothing() {
    let mut state = state_of(&entries(&[(
        "db",
        "hosts: [db.example], ports: [{number: 5432, name: p, protocol: TCP}, {number: 443, name: t, protocol: TLS}]",
    )]));
    for (question, unspelt) in [
        ("db.example:5432", true),
        ("other.example:5432", true),
        ("203.0.113.9:5432", true),
        ("[2001:db8::9]:5432", true),
        ("db.example:5433", false),
        ("203.0.113.9:5433", false),
    ] {
        let explanation = state.explain(PolicyId(0), &Question::parse(question).unwrap());
        let lines = explanation.lines.join("\n");
        assert_eq!(explanation.denied, Some(DeniedBy::Kernel), "{lines}");
        assert_eq!(
            lines.contains("resolution is not spelt out"),
            unspelt,
            "{lines}"
        );
        assert!(!unspelt || !lines.contains("but not port"), "{lines}");
    }
}
