//! Decoding of whole files: dialect, kinds, lists, aliases, and the messages about errors.

use egress_core::istio::fields::StringMatch;
use egress_core::istio::service_entry::{Resolution, ServiceEntry};
use egress_core::istio::virtual_service::{RedirectPortSelection, VirtualService};
use egress_core::istio::{Decoded, Severity, Spec, Strictness, decode, decode_as};
use std::fmt::Write as _;

fn service_entry(spec: &str) -> Decoded {
    decode(
        "se.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\nspec:\n{spec}"
        ),
    )
}

fn only_service_entry(spec: &str) -> ServiceEntry {
    let decoded = service_entry(spec);
    match decoded
        .objects
        .into_iter()
        .next()
        .and_then(|object| object.spec)
    {
        Some(Spec::ServiceEntry(entry)) => entry,
        other => panic!("no ServiceEntry but {other:?}"),
    }
}

fn only_virtual_service(spec: &str) -> VirtualService {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec:\n{spec}"
    );
    match decode("vs.yaml", &text)
        .objects
        .into_iter()
        .next()
        .and_then(|object| object.spec)
    {
        Some(Spec::VirtualService(service)) => service,
        other => panic!("no VirtualService but {other:?}"),
    }
}

#[test]
fn a_colon_at_the_end_of_a_flow_scalar_belongs_to_the_address() {
    for (list, expected) in [
        ("[1.2.3.4, 001:db8::]", vec!["1.2.3.4", "001:db8::"]),
        ("[001:db8::, 1.2.3.4]", vec!["001:db8::", "1.2.3.4"]),
        ("[2001:db8::/32]", vec!["2001:db8::/32"]),
        ("[::1]", vec!["::1"]),
        ("[::]", vec!["::"]),
        (
            "[\u{e9}, '\u{1f600}', fe80::, a::]",
            vec!["\u{e9}", "\u{1f600}", "fe80::", "a::"],
        ),
        ("[\n    fe80::,\n    \"::\"\n  ]", vec!["fe80::", "::"]),
    ] {
        assert_eq!(
            only_service_entry(&format!("  addresses: {list}\n")).addresses,
            expected,
            "{list}"
        );
    }
}

#[test]
fn both_spellings_of_a_field_are_read_and_camel_case_wins() {
    let service = only_virtual_service(
        "  http:\n  - retries: {attempts: 3, per_try_timeout: 2s, perTryTimeout: 1s, retry_on: 5xx}\n  tls:\n  - match: [{sni_hosts: [a.com]}]\n",
    );
    let retries = service.http[0].retries.as_ref().expect("retries are set");
    assert_eq!(retries.per_try_timeout.expect("set").nanos(), 1_000_000_000);
    assert_eq!(retries.retry_on, "5xx");
    assert_eq!(service.tls[0].r#match[0].sni_hosts, ["a.com"]);
}

#[test]
fn enums_are_read_by_exact_name_or_number() {
    assert_eq!(
        only_service_entry("  resolution: DNS\n").resolution(),
        Resolution::Dns
    );
    assert_eq!(
        only_service_entry("  resolution: 2\n").resolution(),
        Resolution::Dns
    );
    assert_eq!(
        only_service_entry("  resolution: null\n").resolution(),
        Resolution::None
    );
    for bad in ["dns", "Dns", "'2'", "9", "on"] {
        let decoded = service_entry(&format!("  resolution: {bad}\n"));
        assert!(decoded.objects[0].spec.is_none(), "{bad}");
        assert_eq!(decoded.objects[0].messages[0].field, "spec.resolution");
        assert_eq!(
            (
                decoded.objects[0].messages[0].line,
                decoded.objects[0].messages[0].column
            ),
            (5, 15)
        );
    }
}

#[test]
fn an_unknown_field_is_a_warning_with_the_nearest_known_name() {
    let decoded = service_entry("  hosts: [a.com]\n  resoluton: DNS\n");
    let object = &decoded.objects[0];
    assert!(object.spec.is_some());
    let message = &object.messages[0];
    assert_eq!(message.severity, Severity::Warning);
    assert_eq!(
        message.text,
        "unknown field \"resoluton\", did you mean \"resolution\"?"
    );
    assert_eq!(
        (message.field.as_str(), message.line, message.column),
        ("spec.resoluton", 6, 3)
    );
}

#[test]
fn of_two_members_of_a_oneof_the_later_declared_is_kept_as_in_istiod() {
    let uri = "  http:\n  - match:\n    - uri: {prefix: /b, exact: /a}\n";
    let service = only_virtual_service(uri);
    assert_eq!(
        service.http[0].r#match[0].uri,
        Some(StringMatch::Prefix("/b".to_owned()))
    );
    let redirect = "  http:\n  - redirect: {derivePort: FROM_REQUEST_PORT, port: 80}\n";
    let service = only_virtual_service(redirect);
    let redirect = service.http[0].redirect.as_ref().expect("redirect is set");
    assert_eq!(
        (redirect.port, redirect.derive_port),
        (None, Some(RedirectPortSelection::FromRequestPort))
    );

    let text = format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec:\n{uri}");
    let message = &decode("f", &text).objects[0].messages[0];
    assert_eq!(message.severity, Severity::Note);
    assert_eq!(message.field, "spec.http[0].match[0].uri");
    assert_eq!(
        message.text,
        "only one of exact, prefix may be set; Istio uses prefix"
    );
}

#[test]
fn duplicate_keys_and_syntax_errors_are_told_with_their_line_and_spare_the_other_documents() {
    let good = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec: {hosts: [a.com]}\n";
    for (bad, line, text) in [
        (
            "a: 1\nb: 2\na: 3\n",
            8,
            "key \"a\" already set in map, on line 6",
        ),
        ("a: [1, 2\nb: 3\n", 7, ""),
        ("a: &x [*x]\n", 6, ""),
    ] {
        let decoded = decode("f", &format!("{good}---\n{bad}---\n{good}"));
        assert_eq!(decoded.objects.len(), 2, "{bad}");
        assert_eq!(decoded.objects[1].document, 2);
        assert_eq!(decoded.messages.len(), 1, "{bad}");
        assert_eq!(
            decoded.messages[0].line, line,
            "{bad}: {}",
            decoded.messages[0].text
        );
        assert!(decoded.messages[0].text.contains(text));
        assert!(decoded.is_broken());
    }
}

#[test]
fn other_kinds_are_skipped_lists_are_opened_and_other_versions_are_noted() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.istio.io/v1beta1\n  kind: ServiceEntry\n  metadata: {name: a, namespace: ns}\n  spec: {hosts: [a.com]}\n- apiVersion: v1\n  kind: Service\n---\n# nothing\n---\napiVersion: networking.istio.io/v2\nkind: ServiceEntry\nmetadata: {name: b}\nspec: {hosts: [a.com]}\n---\napiVersion: networking.istio.io/v1\nkind: Gateway\n";
    let decoded = decode("f", text);
    assert_eq!(decoded.objects.len(), 2);
    assert_eq!(decoded.objects[0].meta.namespace, "ns");
    assert!(decoded.objects[0].spec.is_some());
    assert_eq!(decoded.objects[1].meta.namespace, "default");
    assert_eq!(decoded.objects[1].messages[0].severity, Severity::Note);
    let skipped: Vec<&str> = decoded
        .skipped
        .iter()
        .map(|skipped| skipped.what.as_str())
        .collect();
    assert_eq!(skipped, ["v1 Service", "networking.istio.io/v1 Gateway"]);
}

#[test]
fn merge_keys_and_aliases_are_expanded() {
    let entry = only_service_entry(
        "  hosts: &h [a.com]\n  subjectAltNames: *h\n  ports:\n  - &p {number: 80, name: http, protocol: HTTP}\n  - <<: *p\n    number: 81\n    name: b\n",
    );
    assert_eq!(entry.subject_alt_names, ["a.com"]);
    assert_eq!(
        (entry.ports[1].number, entry.ports[1].protocol.as_str()),
        (81, "HTTP")
    );
}

#[test]
fn what_would_grow_without_bound_is_refused() {
    let mut laughs = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{list}]").expect("a string takes all");
    }
    let deep = "[".repeat(100_000);
    let long = "a".repeat(5 << 20);
    for text in [laughs.as_str(), deep.as_str(), long.as_str()] {
        let decoded = decode("f", text);
        assert!(decoded.is_broken());
        assert!(decoded.objects.is_empty());
    }
}

#[test]
fn what_aliases_copy_is_bounded_by_bytes_too_and_over_the_whole_file() {
    let long = format!(
        "a: &a {}\nb:\n{}",
        "x".repeat(1 << 20),
        "- *a\n".repeat(100)
    );
    let bomb = format!(
        "---\nkind: X\na: &a [{}]\nb: &b [{}]\nc: [{}]\n",
        ["x"; 60].join(","),
        ["*a"; 60].join(","),
        ["*b"; 50].join(",")
    );
    for text in [long, bomb.repeat(10)] {
        let decoded = decode("f", &text);
        assert!(decoded.is_broken());
        let told = &decoded.messages.last().expect("something is said").text;
        assert!(told.contains("of the file copy more than"), "{told}");
    }
    // One such document is still accepted.
    assert!(
        !decode("f", &bomb)
            .messages
            .iter()
            .any(|m| m.text.contains("copy more"))
    );
}

#[test]
fn a_path_through_a_long_key_is_shortened() {
    let decoded = service_entry(&format!("  ? {}\n  : 1\n", "k".repeat(9000)));
    let field = &decoded.objects[0].messages[0].field;
    assert!(
        field.starts_with("spec.kkk") && field.ends_with("k..."),
        "{field}"
    );
    assert!(field.len() < 1100, "{}", field.len());
}

/// Errors beyond the limit of messages are not lost. Their cost is not tested here.
#[test]
fn mistakes_beyond_the_bound_still_refuse_the_object() {
    let mut text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a.com\n  subsets:\n  - name: a\n    labels:\n".to_owned();
    for n in 0..5000 {
        writeln!(text, "      k{n}: '-'").expect("a string takes all");
    }
    let decoded = decode("f", &text);
    let found = egress_core::istio::validate(&decoded.objects[0]);
    assert_eq!(found.len(), 100);
    assert!(
        found
            .last()
            .expect("100")
            .text
            .starts_with("too many messages")
    );
    assert_eq!(
        egress_core::istio::Verdict::of(&found),
        egress_core::istio::Verdict::Invalid
    );
}

#[test]
fn an_empty_file_says_so() {
    for text in ["", "\n", "---\n---\n", "# comment\n"] {
        let decoded = decode("f", text);
        assert_eq!(decoded.messages[0].text, "file holds no object", "{text:?}");
    }
}

#[test]
fn a_file_with_a_spelling_that_kubectl_does_not_accept_gets_a_note() {
    let text = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.example]
  http: [{route: [{destination: {host: a.example}}], mirror_percent: 5}]
  tls: [{match: [{sni_hosts: [a.example], port: 443}], route: [{destination: {host: a.example}}]}]
";
    let messages = |strictness| {
        let decoded = decode_as("vs.yaml", text, strictness);
        let object = decoded.objects.into_iter().next().unwrap();
        assert!(!object.is_broken());
        let shown = object.messages.iter().map(ToString::to_string);
        shown.collect::<Vec<_>>()
    };
    assert_eq!(
        messages(Strictness::Files),
        [
            "7:19: note: spec.tls[0].match[0].sni_hosts: kubectl does not accept this spelling: write sniHosts"
        ]
    );
    assert_eq!(messages(Strictness::Istio), [""; 0]);
}
