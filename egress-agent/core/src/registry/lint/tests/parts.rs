//! Findings about parts of a rule that another object should have: delegates, and what a `DestinationRule` is for.

use super::{HEAD, HTTP, TO_A, entry, findings, rule};

fn destination_rule(spec: &str) -> String {
    format!("---\n{HEAD}kind: DestinationRule\nmetadata: {{name: d}}\nspec: {{{spec}}}\n")
}

#[test]
fn a_delegate_that_a_route_cannot_use_is_named_with_the_reason() {
    let root = |delegate: &str| {
        rule(
            "v",
            &format!("hosts: [a.com], http: [{{delegate: {{{delegate}}}}}]"),
        )
    };
    let leaf = |name: &str, rest: &str| rule(name, &format!("{rest}http: [{{{TO_A}}}]"));
    let elsewhere =
        |rest: &str| leaf("leaf", rest).replace("{name: leaf}", "{name: leaf, namespace: prod}");
    let own = root("name: leaf");
    let other = root("name: leaf, namespace: prod");
    for (text, expected) in [
        (own.clone() + &leaf("leaf", ""), None),
        (own.clone() + &leaf("leaf", "exportTo: ['.'], "), None),
        (other.clone() + &elsewhere(""), None),
        (other.clone() + &elsewhere("exportTo: [default], "), None),
        (own.clone(), Some("there is no VirtualService default/leaf")),
        (
            own.clone() + &leaf("lead", ""),
            Some("there is no VirtualService default/leaf"),
        ),
        (
            own.clone() + &elsewhere(""),
            Some("there is no VirtualService default/leaf"),
        ),
        (
            own + &leaf("leaf", "hosts: [b.a.com], "),
            Some("VirtualService default/leaf has hosts, so it is no delegate"),
        ),
        (
            other.clone() + &elsewhere("exportTo: ['.'], "),
            Some("VirtualService prod/leaf is not exported to namespace default"),
        ),
        (
            other + &elsewhere("exportTo: [stage], "),
            Some("VirtualService prod/leaf is not exported to namespace default"),
        ),
    ] {
        let wild = HTTP.replace("[a.com]", "[a.com, b.a.com]");
        let found = findings(&(entry("a", &wild) + &text));
        let about: Vec<_> = found.iter().filter(|f| f.contains("delegate")).collect();
        match expected {
            Some(expected) => assert!(
                about.len() == 1
                    && about[0].starts_with("1 spec.http[0].delegate: ")
                    && about[0].contains(expected)
                    && about[0].ends_with(": requests of this route get 503 (NC)"),
                "{text}: {found:?}"
            ),
            None => assert_eq!(about, [""; 0], "{text}"),
        }
    }
}

#[test]
fn a_destination_rule_that_no_service_or_port_has_a_use_for_is_named() {
    let pool = "connectionPool: {tcp: {maxConnections: 1}}";
    let of_port = |port: u16| {
        format!("trafficPolicy: {{portLevelSettings: [{{port: {{number: {port}}}, {pool}}}]}}")
    };
    let of_subset = |port: u16| {
        format!(
            "subsets: [{{name: v, labels: {{v: x}}, {}}}]",
            of_port(port)
        )
    };
    let entries =
        entry("a", HTTP) + &entry("b", &HTTP.replace("a.com", "b.com").replace("80", "81"));
    for (spec, expected) in [
        (format!("host: a.com, trafficPolicy: {{{pool}}}"), None),
        (format!("host: '*.com', trafficPolicy: {{{pool}}}"), None),
        (format!("host: A.com, {}", of_port(80)), None),
        (format!("host: '*.com', {}", of_port(81)), None),
        (format!("host: a.com, {}", of_subset(80)), None),
        (
            format!("host: aa.com, trafficPolicy: {{{pool}}}"),
            Some("spec.host: no ServiceEntry lists aa.com: this rule has no effect"),
        ),
        (
            format!("host: '*.a.com', {}", of_port(80)),
            Some("spec.host: no ServiceEntry lists *.a.com: this rule has no effect"),
        ),
        (
            "host: a, subsets: [{name: v, labels: {v: x}}]".to_owned(),
            Some("spec.host: no ServiceEntry lists a.default.svc.cluster.local: this rule"),
        ),
        (
            format!("host: a.com, {}", of_port(81)),
            Some(
                "spec.trafficPolicy.portLevelSettings[0].port: no ServiceEntry lists port 81 of a.com: these settings have \
                 no effect",
            ),
        ),
        (
            format!("host: '*.com', {}", of_port(8080)),
            Some(
                "spec.trafficPolicy.portLevelSettings[0].port: no ServiceEntry lists port 8080 of *.com",
            ),
        ),
        (
            format!("host: a.com, {}", of_subset(81)),
            Some(
                "spec.subsets[0].trafficPolicy.portLevelSettings[0].port: no ServiceEntry lists port 81 of a.com: these",
            ),
        ),
    ] {
        let found = findings(&(entries.clone() + &destination_rule(&spec)));
        match expected {
            Some(expected) => assert!(
                found.len() == 1 && found[0].starts_with(&format!("2 {expected}")),
                "{spec}: {found:?}"
            ),
            None => assert_eq!(found, [""; 0], "{spec}"),
        }
    }
}
