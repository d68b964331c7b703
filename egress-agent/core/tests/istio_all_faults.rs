//! One answer names every fault of an object: what decoding and what validation finds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use egress_core::istio::{Severity, Strictness, Verdict, decode_as, validate};

/// Field and start of the text of each error, sorted.
fn faults(kind: &str, spec: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
    );
    let decoded = decode_as("rules.yaml", &text, Strictness::Files);
    assert!(
        decoded.messages.is_empty(),
        "{:?}\n{text}",
        decoded.messages
    );
    let found = validate(decoded.objects.first().unwrap());
    assert_eq!(Verdict::of(&found), Verdict::Invalid, "{text}");
    let errors = found.iter().filter(|m| m.severity == Severity::Error);
    let mut all: Vec<_> = errors
        .map(|m| {
            let words: Vec<_> = m.text.split(' ').take(2).collect();
            format!("{}: {}", m.field, words.join(" ").trim_end_matches(':'))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_fault_of_form_and_a_fault_of_meaning_are_told_together() {
    for (kind, spec, expected) in [
        (
            "ServiceEntry",
            "{hosts: [a.com], resolutions: DNS, ports: [{number: 80, name: h, protocol: HTTPX}]}",
            vec![
                "spec.ports[0].protocol: unsupported protocol",
                "spec.resolutions: unknown field",
            ],
        ),
        (
            "ServiceEntry",
            "{hosts: [a.com], foo: 1, ports: [{number: 99999, name: h, protocol: HTTP}], exportTo: [1]}",
            vec![
                "spec.exportTo[0]: json: cannot",
                "spec.foo: unknown field",
                "spec.ports[0].number: port number",
            ],
        ),
        (
            "ServiceEntry",
            "{hosts: [\"*\"], ports: [{number: abc, name: h, protocol: FOO}]}",
            vec![
                "spec.hosts[0]: invalid host",
                "spec.ports[0].number: json: cannot",
                "spec.ports[0].protocol: unsupported protocol",
            ],
        ),
        (
            "VirtualService",
            "{hosts: [a.com], http: [{timout: 1s, route: [{destination: {host: a.com, subset: \"_\"}}]}, {timeout: 1ns, route: [{destination: {host: a.com}}]}]}",
            vec![
                "spec.http[0].route[0].destination.subset: subset name",
                "spec.http[0].timout: unknown field",
                "spec.http[1].timeout: duration must",
            ],
        ),
    ] {
        assert_eq!(faults(kind, spec), expected, "{spec}");
    }
}

/// Consequences of a value that cannot be read are not reported as further faults.
#[test]
fn a_fault_is_told_once_and_not_what_comes_of_it() {
    for (kind, spec, expected) in [
        // If the misspelt hosts and resolution were ignored, the object would have neither.
        (
            "ServiceEntry",
            "{host: [a.com], resolutoin: STATIC, endpoints: [{address: 192.0.2.1}], ports: [{number: 80, name: h, protocol: HTTP}]}",
            vec!["spec.host: unknown field", "spec.resolutoin: unknown field"],
        ),
        (
            "ServiceEntry",
            "{hosts: 5, resolution: DNS, ports: [{number: 80, name: h, protocol: HTTP}]}",
            vec!["spec.hosts: json: cannot"],
        ),
        (
            "ServiceEntry",
            "{hosts: [a.com], resolution: STATICX, endpoints: [{address: 192.0.2.1}], ports: [{number: 80, name: h, protocol: HTTP}]}",
            vec!["spec.resolution: unknown value"],
        ),
        (
            "ServiceEntry",
            "{hosts: [\"*.a.com\"], resolution: DNS, endpoints: 5, ports: [{number: 80, name: h, protocol: HTTP}]}",
            vec!["spec.endpoints: json: cannot"],
        ),
        // The object already has the field that is meant, so nothing replaces it.
        (
            "ServiceEntry",
            "{hosts: [a.com], hosst: [\"*\"], ports: [{number: 80, name: h, protocol: HTTP}]}",
            vec!["spec.hosst: unknown field"],
        ),
        // A fault inside a misspelt field is reported under the field's correct name.
        (
            "ServiceEntry",
            "{hosts: [a.com], port: [{number: 80, name: h, protocol: HTTPX, foo: 1}]}",
            vec![
                "spec.port: unknown field",
                "spec.ports[0].foo: unknown field",
                "spec.ports[0].protocol: unsupported protocol",
            ],
        ),
    ] {
        assert_eq!(faults(kind, spec), expected, "{spec}");
    }
}
