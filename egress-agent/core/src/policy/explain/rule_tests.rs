//! Which rule an explanation names.

use super::tests::{entries, state_of, state_with};
use super::{Explanation, Question};
use crate::policy::leases::{Answer, Lease};
use crate::policy::state::{Settings, State};
use egress_ebpf::ids::PolicyId;
use std::time::{Duration, Instant};

const HTTP: &str = "{number: 80, name: h, protocol: HTTP}";
const TLS: &str = "{number: 443, name: t, protocol: TLS}";

fn rule(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---"
    )
}

fn routes(name: &str, host: &str) -> String {
    let spec = format!(
        "{{hosts: ['{host}'], http: [{{timeout: 3s, route: [{{destination: {{host: '{host}'}}}}]}}]}}"
    );
    rule("VirtualService", name, &spec)
}

fn explain(state: &mut State, question: &str, header: Option<&str>) -> Explanation {
    let mut question = Question::parse(question).unwrap();
    if let Some(header) = header {
        question = question.with_header(header).unwrap();
    }
    state.explain(PolicyId(0), &question)
}

#[test]
fn the_virtual_service_that_is_named_is_the_one_whose_route_takes_the_request() {
    let service = |host: &str, resolution: &str, ports: &str| {
        format!("hosts: ['{host}'], resolution: {resolution}, ports: [{ports}]")
    };
    let (web, other) = (
        service("web.example", "DNS", HTTP),
        service("other.example", "DNS", HTTP),
    );
    let bare = service("bare.example", "DNS", HTTP);
    let (exact, wild) = (
        service("a.x.com", "DNS", &TLS.replace("443", "80")),
        service("*.x.com", "NONE", HTTP),
    );
    let rules = entries(&[
        ("web", &web),
        ("other", &other),
        ("bare", &bare),
        ("exact", &exact),
        ("wild", &wild),
    ]) + &routes("of-web", "web.example")
        + &routes("of-other", "other.example")
        + &routes("of-exact", "a.x.com")
        + &routes("of-wild", "*.x.com");
    let mut state = state_of(rules.trim_end_matches("---"));
    for (question, header, by) in [
        ("http://web.example/", None, Some("of-web")),
        (
            "http://web.example/",
            Some("Host: other.example"),
            Some("of-other"),
        ),
        ("http://web.example/", Some("Host: bare.example"), None),
        (
            "http://bare.example/",
            Some("Host: web.example"),
            Some("of-web"),
        ),
        // The routes of a TLS port take no request.
        ("http://a.x.com/", None, Some("of-wild")),
        ("http://b.x.com/", None, Some("of-wild")),
    ] {
        let found = explain(&mut state, question, header);
        let first = &found.lines[0];
        assert!(found.allowed(), "{question}: {found:?}");
        match by {
            Some(by) => assert!(
                first.contains(&format!(" by VirtualService default/{by} ")),
                "{question} {header:?}: {first}"
            ),
            None => assert!(!first.contains("VirtualService"), "{question}: {first}"),
        }
    }
}

#[test]
fn a_server_name_that_no_tls_route_takes_is_explained_by_the_rule_with_the_routes() {
    let service = format!("hosts: ['*.x.com'], resolution: NONE, ports: [{TLS}]");
    let narrow = "{hosts: ['*.x.com'], tls: [{match: [{port: 443, sniHosts: [a.x.com]}], route: [{destination: {host: '*.x.com'}}]}]}";
    let other = "{hosts: ['*.x.com'], tls: [{match: [{port: 444, sniHosts: [b.x.com]}], route: [{destination: {host: '*.x.com'}}]}]}";
    let gone = "{hosts: ['*.x.com'], tls: [{match: [{port: 443, sniHosts: [c.x.com]}], route: [{destination: {host: gone.com}}]}]}";
    let rules = entries(&[("wild", &service)])
        + &rule("VirtualService", "a-other", other)
        + &rule("VirtualService", "b-narrow", narrow)
        + &rule("VirtualService", "c-gone", gone);
    let mut state = state_of(rules.trim_end_matches("---"));
    for (question, words) in [
        (
            "https://a.x.com/",
            "allowed: TLS with the server name a.x.com goes to *.x.com:443",
        ),
        (
            "https://b.x.com/",
            "denied: no tls route of VirtualService default/b-narrow (rules.yaml:12) takes the server name b.x.com",
        ),
        (
            "https://c.x.com/",
            "denied: VirtualService default/c-gone (rules.yaml:17) sends TLS with the server name c.x.com to gone.com",
        ),
        (
            "http://a.x.com:443/",
            "port 443 of *.x.com is listed for TLS",
        ),
    ] {
        let found = explain(&mut state, question, None);
        assert!(
            found.lines[0].contains(words),
            "{question}: {:?}",
            found.lines
        );
    }
}

#[test]
fn a_flow_that_a_learned_lease_allows_is_explained_by_its_entry() {
    let service = "hosts: ['*.wild.example'], ports: [{number: 5432, name: p, protocol: TCP}, {number: 53, name: u, protocol: UDP}]";
    let settings = Settings {
        dns_intercept: true,
        ..Settings::default()
    };
    let rules = entries(&[("wild", service)]);
    let mut state = state_with(settings, rules.trim_end_matches("---"));
    let answer = Answer {
        addresses: vec!["203.0.113.90".parse().unwrap()],
        ttl: Duration::from_mins(1),
    };
    let lease = Lease {
        policy: PolicyId(0),
        workload: None,
        name: "a.wild.example".into(),
        hosts: vec!["*.wild.example".into()],
        answer,
    };
    state.handle_leases(Instant::now(), &[lease]);
    for (question, words) in [
        (
            "a.wild.example:5432",
            "ServiceEntry default/wild (rules.yaml:2) lists port 5432 without a resolution: it is open at the addresses \
             that the agent's DNS server gave for names of *.wild.example, as long as it leases them",
        ),
        (
            "203.0.113.90:5432",
            "TCP is listed by ServiceEntry default/wild (rules.yaml:2)",
        ),
    ] {
        let found = explain(&mut state, question, None);
        assert!(found.allowed(), "{found:?}");
        assert!(found.lines.iter().any(|line| line == words), "{found:?}");
    }
}

#[test]
fn udp_of_a_denied_host_is_explained_by_the_rule() {
    let service =
        "hosts: [a.example], resolution: DNS, ports: [{number: 53, name: u, protocol: UDP}]";
    let policy = "{host: a.example, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}";
    let rules = entries(&[("udp", service)]) + &rule("DestinationRule", "strict", policy);
    let mut state = state_of(rules.trim_end_matches("---"));
    let found = explain(&mut state, "a.example:53", None);
    let words = "denied: trafficPolicy.tls.mode of DestinationRule default/strict (rules.yaml:7) is not carried out";
    assert!(found.lines[0].starts_with(words), "{found:?}");
}
