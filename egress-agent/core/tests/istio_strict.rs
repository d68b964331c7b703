//! Rules files that the gate rejects although istiod would accept them.

use egress_core::istio::{Severity, Strictness, Verdict, decode_as, validate};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec:\n  hosts: [a.com]\n  resolution: DNS\n  ports: [{number: 80, name: h, protocol: HTTP}]\n";

fn found(text: &str, strictness: Strictness) -> Vec<String> {
    let decoded = decode_as("rules.yaml", text, strictness);
    let of_objects = decoded.objects.iter().flat_map(validate);
    let all = decoded.messages.iter().cloned().chain(of_objects);
    let errors = all.filter(|m| m.severity == Severity::Error);
    errors.map(|m| m.to_string()).collect()
}

#[test]
fn a_template_of_helm_is_one_error_that_says_to_render_the_chart() {
    for (from, to, at) in [
        (
            "a.com",
            "\"{{ .Values.host }}\"",
            "5:11: error: spec.hosts[0]: ",
        ),
        (
            "[a.com]",
            "['*.{{ .Values.domain }}']",
            "5:11: error: spec.hosts[0]: ",
        ),
        (
            "[a.com]",
            "\n  - api.{{ .Values.domain }}",
            "6:5: error: spec.hosts[0]: ",
        ),
        ("[a.com]", "\n  - {{ .Values.domain }}", ""),
        ("[a.com]", "{{- toYaml .Values.hosts | nindent 4 }}", ""),
        (
            "number: 80",
            "number: '{{ .Values.port }}'",
            "7:20: error: spec.ports[0].number: ",
        ),
        (
            "DNS",
            "'{{ .Values.resolution }}'",
            "6:15: error: spec.resolution: ",
        ),
        (
            "name: e",
            "name: '{{ .Release.Name }}-e'",
            "3:18: error: metadata.name: ",
        ),
        (
            "name: e",
            "name: e, labels: {'{{ .Values.key }}': x}",
            "3:30: error: metadata.labels: ",
        ),
        ("spec:\n", "spec:\n{{- if .Values.on }}\n", ""),
    ] {
        let text = ENTRY.replacen(from, to, 1);
        assert_ne!(text, ENTRY);
        let errors = found(&text, Strictness::Files);
        let advice = "this looks like a Helm template: render the chart first (helm template)";
        assert!(
            errors.len() == 1 && errors[0].starts_with(at) && errors[0].ends_with(advice),
            "{text}{errors:#?}"
        );
    }
    for (from, to) in [
        (
            "name: e",
            "name: e, annotations: {a: '{{ .CommonLabels.alert }}'}",
        ),
        ("name: e", "name: e, annotations: {a: '{\"a\":{\"b\":{}}}'}"),
        ("spec:", "# {{- if .Values.on }}\nspec:"),
    ] {
        let text = ENTRY.replacen(from, to, 1);
        assert_eq!(found(&text, Strictness::Files), [""; 0], "{text}");
    }
}

/// Objects of published repositories that Istio accepts and the gate rejects. docs/differences.md has the figures.
#[test]
fn eight_of_926_objects_of_published_repositories_are_refused_only_when_read_strictly() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/istio");
    let table = fs::read_to_string(data.join("corpus/verdicts.tsv")).expect("the table is there");
    let rows = table.lines().skip(1);
    let files: BTreeSet<_> = rows.filter_map(|row| row.split('\t').next()).collect();
    let (mut valid, mut documents) = (0, 0);
    let mut refused = Vec::new();
    let mut fields = BTreeMap::<String, usize>::new();
    for file in files {
        let text = fs::read_to_string(data.join("corpus").join(file)).expect("a file is there");
        let lenient = decode_as(file, &text, Strictness::Istio);
        let strict = decode_as(file, &text, Strictness::Files);
        documents += strict.messages.len() - lenient.messages.len();
        assert_eq!(lenient.objects.len(), strict.objects.len(), "{file}");
        for (object, strictly) in lenient.objects.iter().zip(&strict.objects) {
            let takes = |object| Verdict::of(&validate(object)) != Verdict::Invalid;
            if !takes(object) {
                continue;
            }
            valid += 1;
            if takes(strictly) {
                continue;
            }
            refused.push(format!("{file}: {}", strictly.meta.name));
            for message in validate(strictly) {
                if message.severity == Severity::Error {
                    assert!(
                        message.text.starts_with("unknown field"),
                        "{file}: {message}"
                    );
                    let field = message.field.split(['[', ']']).step_by(2).collect();
                    *fields.entry(field).or_default() += 1;
                }
            }
        }
    }
    println!(
        "{} of {valid} objects: {refused:#?} {fields:#?}",
        refused.len()
    );
    assert_eq!((refused.len(), valid, documents), (8, 926, 0));
}

#[test]
fn an_object_without_a_name_is_invalid_in_files() {
    for metadata in [
        "metadata: {}\n",
        "metadata: {name: ''}\n",
        "metadata:\n",
        "",
    ] {
        let text = ENTRY.replace("metadata: {name: e}\n", metadata);
        let errors = found(&text, Strictness::Files);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].ends_with("error: metadata.name: is not set"),
            "{errors:?}"
        );
        assert_eq!(found(&text, Strictness::Istio), [""; 0]);
    }
    let made = ENTRY.replace("{name: e}", "{generateName: e-}");
    assert_eq!(found(&made, Strictness::Files), [""; 0]);
}

#[test]
fn a_document_that_is_no_object_of_kubernetes_says_what_it_is_and_what_to_write() {
    for (text, error) in [
        ("- a\n", "1:1: error: document is a list, not an object"),
        ("a\n", "1:1: error: document is a string, not an object"),
        (
            "kind: ServiceEntry\n",
            "1:1: error: apiVersion: is not set; want networking.istio.io/v1",
        ),
        (
            "apiVersion: networking.istio.io/v1\n",
            "1:1: error: kind: is not set",
        ),
    ] {
        assert_eq!(found(text, Strictness::Files), [error]);
    }
}
