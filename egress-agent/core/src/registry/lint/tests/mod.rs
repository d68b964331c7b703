//! Each finding on the smallest rules that have it.

mod follow;
mod imports;
mod parts;

use super::lint;
use crate::istio::{Object, decode};
use std::sync::Arc;

const HEAD: &str = "apiVersion: networking.istio.io/v1\n";

fn entry(name: &str, spec: &str) -> String {
    format!("---\n{HEAD}kind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

fn rule(name: &str, spec: &str) -> String {
    format!("---\n{HEAD}kind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// Findings as `OBJECT FIELD: TEXT`.
fn findings(text: &str) -> Vec<String> {
    let decoded = decode("test.yaml", text);
    assert!(!decoded.is_broken(), "{:?}", decoded.messages);
    let objects: Vec<Arc<Object>> = decoded.objects.into_iter().map(Arc::new).collect();
    let found = lint(&objects).into_iter();
    found
        .map(|f| {
            assert!(f.message.line > 0, "{f:?}");
            format!("{} {}: {}", f.object, f.message.field, f.message.text)
        })
        .collect()
}

const HTTP: &str =
    "hosts: [a.com], resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}]";
const TLS: &str = "hosts: [a.com], resolution: DNS, ports: [{number: 443, name: t, protocol: TLS}]";
const TO_A: &str = "route: [{destination: {host: a.com}}]";

#[test]
fn an_address_as_a_host_of_a_rule_is_told_where_addresses_belong() {
    for host in ["169.254.169.254", "'2001:db8::1'"] {
        let text = rule("v", &format!("hosts: [{host}], http: [{{{TO_A}}}]")) + &entry("a", HTTP);
        let found = findings(&text);
        assert!(
            found.len() == 1 && found[0].ends_with("put addresses in spec.addresses"),
            "{found:?}"
        );
    }
}

#[test]
fn rules_that_fit_together_have_no_finding() {
    let text = entry("a", HTTP)
        + &rule(
            "v",
            &format!("hosts: [a.com], http: [{{timeout: 3s, {TO_A}}}]"),
        );
    assert_eq!(findings(&text), [""; 0]);
}

#[test]
fn a_rule_that_takes_some_ports_or_clients_leaves_the_others_to_a_younger_one() {
    for matches in [
        "match: [{sourceLabels: {app: x}}], ",
        "match: [{sourceNamespace: two}], ",
        "match: [{port: 81}], ",
    ] {
        let text = entry("a", HTTP)
            + &rule("v", &format!("hosts: [a.com], http: [{{{matches}{TO_A}}}]"))
            + &rule("w", &format!("hosts: [a.com], http: [{{{TO_A}}}]"));
        assert_eq!(findings(&text), [""; 0], "{matches}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn each_finding_names_the_object_and_the_field() {
    let matched = "match: [{uri: {prefix: /}}]";
    for (text, expected) in [
        (
            rule("v", &format!("hosts: [b.com], http: [{{{TO_A}}}]")) + &entry("a", HTTP),
            "0 spec.hosts[0]: no ServiceEntry lists b.com",
        ),
        (
            entry("a", HTTP)
                + &rule(
                    "v",
                    "hosts: [a.com], http: [{route: [{destination: {host: b.com}}]}]",
                ),
            "1 spec.http[0].route[0].destination: no ServiceEntry lists b.com",
        ),
        (
            entry("a", HTTP)
                + &rule(
                    "v",
                    &format!("hosts: [a.com], http: [{{mirror: {{host: b.com}}, {TO_A}}}]"),
                ),
            "1 spec.http[0].mirror: no ServiceEntry lists b.com: this destination gets no copy",
        ),
        (
            entry("a", HTTP)
                + &rule(
                    "v",
                    &format!(
                        "hosts: [a.com], http: [{{mirrors: [{{destination: {{host: a.com, port: {{number: 81}}}}}}], {TO_A}}}]"
                    ),
                ),
            "1 spec.http[0].mirrors[0].destination: a.com has no port 81: this destination gets no copy",
        ),
        (
            entry("a", HTTP)
                + &rule(
                    "v",
                    "hosts: [a.com], http: [{route: [{destination: {host: a.com, port: {number: 81}}}]}]",
                ),
            "1 spec.http[0].route[0].destination: a.com has no port 81",
        ),
        (
            entry("a", HTTP)
                + &rule(
                    "v",
                    "hosts: [a.com], http: [{route: [{destination: {host: a.com, subset: s}}]}]",
                ),
            "1 spec.http[0].route[0].destination: no DestinationRule defines subset s of a.com",
        ),
        (
            entry("a", HTTP)
                + &rule("v", &format!("hosts: [a.com], http: [{{{TO_A}}}]"))
                + &rule(
                    "w",
                    &format!("hosts: [a.com], http: [{{timeout: 1s, {TO_A}}}]"),
                ),
            "2 spec.hosts[0]: its http routes are not in force for a.com: those of VirtualService default/v are",
        ),
        (
            entry("a", HTTP)
                + &rule(
                    "u",
                    &format!("hosts: [a.com], http: [{{match: [{{port: 81}}], {TO_A}}}]"),
                )
                + &rule("v", &format!("hosts: [a.com], http: [{{{TO_A}}}]"))
                + &rule(
                    "w",
                    &format!("hosts: [a.com], http: [{{timeout: 1s, {TO_A}}}]"),
                ),
            "3 spec.hosts[0]: its http routes are not in force for a.com: those of VirtualService default/v are",
        ),
        (
            entry(
                "a",
                "hosts: [a.com], resolution: NONE, ports: [{number: 90, name: p, protocol: TCP}]",
            ),
            "0 spec.ports[0]: with resolution NONE and no addresses this opens port 90 to any address",
        ),
        (
            entry(
                "a",
                "hosts: [a.com], ports: [{number: 90, name: p, protocol: TCP}]",
            ),
            "0 spec.ports[0]: port 90 serves nothing: without resolution",
        ),
        (
            entry(
                "a",
                "hosts: [a.com], ports: [{number: 443, name: p, protocol: TLS}]",
            ),
            "0 spec.ports[0]: with resolution NONE and no addresses any address gets port 443",
        ),
        (
            entry("a", HTTP)
                + &rule(
                    "v",
                    &format!(
                        "hosts: [a.com], http: [{{{matched}, {TO_A}}}, {{timeout: 1s, {TO_A}}}]"
                    ),
                ),
            "1 spec.http[1]: this route can never match: http[0] takes every request",
        ),
        (
            entry(
                "a",
                &HTTP.replace("a.com", "\"*.co.uk\"").replace("DNS", "NONE"),
            ),
            "0 spec.hosts: *.co.uk covers names of many owners",
        ),
        (
            entry(
                "a",
                &HTTP
                    .replace("a.com", "\"*.github.io\"")
                    .replace("DNS", "NONE"),
            ),
            "0 spec.hosts: *.github.io covers names of many owners",
        ),
        (
            entry(
                "a",
                &HTTP.replace("a.com", "\"*.com\"").replace("DNS", "NONE"),
            ),
            "0 spec.hosts: *.com covers names of many owners",
        ),
        (
            entry("a", TLS)
                + &rule(
                    "v",
                    &format!("hosts: [a.com], http: [{{timeout: 3s, {TO_A}}}]"),
                ),
            "1 spec.http[0].timeout: the timeout can have no effect",
        ),
        (
            entry("a", HTTP)
                + &rule(
                    "v",
                    &format!("hosts: [a.com], tls: [{{match: [{{sniHosts: [a.com]}}], {TO_A}}}]"),
                ),
            "1 spec.tls: tls routes can have no effect",
        ),
        (
            entry(
                "a",
                &HTTP
                    .replace("a.com", "\"*.amazonaws.com\"")
                    .replace("DNS", "NONE"),
            ),
            "0 spec.hosts: *.amazonaws.com covers names of many owners",
        ),
        (
            entry("a", &HTTP.replace("80", "443")),
            "0 spec.ports[0]: port 443 usually speaks HTTPS or TLS",
        ),
        (
            rule(
                "v",
                &format!("hosts: [a.com], gateways: [g], http: [{{{TO_A}}}]"),
            ),
            "0 spec.gateways: it does nothing here",
        ),
        (
            entry("a", TLS)
                + &rule(
                    "v",
                    "hosts: [a.com], tls: [{match: [{sniHosts: [a.com]}], route: [{destination: {host: b.com}}]}]",
                ),
            "1 spec.tls[0].route[0].destination: no ServiceEntry lists b.com: this destination is closed",
        ),
        (
            entry("a", HTTP) + &entry("b", &HTTP.replace("DNS", "NONE")),
            "1 spec.hosts: not in force: ServiceEntry default/a lists a.com too",
        ),
        (
            entry("a", HTTP) + &entry("b", &HTTP.replace("HTTP", "TCP")),
            "1 spec.ports[0]: port 80 of a.com has another protocol in an older entry",
        ),
    ] {
        let found = findings(&text);
        assert!(
            found.iter().any(|f| f.starts_with(expected)),
            "{expected}\n{found:?}\n{text}"
        );
    }
}

#[test]
fn a_wildcard_below_an_owner_is_no_finding() {
    let text = entry(
        "a",
        &HTTP
            .replace("a.com", "\"*.example.com\"")
            .replace("DNS", "NONE, addresses: [192.0.2.1]"),
    );
    assert_eq!(findings(&text), [""; 0]);
}

/// The same port under two hosts is one finding, and only that one says that a port is open.
#[test]
fn only_the_finding_of_an_open_port_says_that_it_opens() {
    let text = entry(
        "a",
        "hosts: ['a.com', '*.co.uk'], resolution: NONE, ports: [{number: 90, name: p, protocol: TCP}]",
    );
    let objects = decode("test.yaml", &text).objects.into_iter().map(Arc::new);
    let found = lint(&objects.collect::<Vec<_>>());
    let opens: Vec<bool> = found
        .iter()
        .map(|f| {
            let says = f.message.text.contains("opens port 90");
            assert_eq!(f.opens, says, "{found:?}");
            says
        })
        .collect();
    assert_eq!(opens.iter().filter(|opens| **opens).count(), 1, "{found:?}");
    assert!(opens.len() > 1, "{found:?}");
}

#[test]
fn a_port_that_an_entry_lists_twice_is_no_finding_about_an_older_entry() {
    let twice = "hosts: [a.com], resolution: DNS, ports: [{number: 443, name: t, protocol: HTTPS}, {number: 443, name: h, protocol: HTTP}]";
    let found = findings(&entry("e", twice));
    assert!(!found.iter().any(|f| f.contains("older")), "{found:?}");
}
