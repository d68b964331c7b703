//! Istio's own verdicts on 811 objects, and on the objects of published repositories.

use egress_core::istio::{Message, Object, Verdict, decode, validate};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/istio")
        .join(folder)
}

fn rows(table: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(data(table)).expect("the table is in the repository");
    text.lines()
        .skip(1)
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

/// A reason without the star at its end, which the table lost, and without the hint that the gate adds.
fn bare(reason: &str) -> &str {
    let reason = reason.split("; it is an address, and").next();
    reason.unwrap_or_default().trim_end_matches([' ', '*'])
}

/// The messages that Istio would have: without those about unknown fields, which Istio ignores silently.
fn judged(object: &Object) -> Vec<Message> {
    let mut messages = validate(object);
    messages.retain(|message| !message.text.starts_with("unknown field"));
    messages
}

#[test]
fn every_case_gets_istios_verdict_and_nearly_every_reason_is_istios() {
    let (mut wrong, mut reasons, mut same) = (Vec::new(), 0, 0);
    let cases = rows("validation/index.tsv");
    for case in &cases {
        let [file, _, verdict, reason, ..] = case.as_slice() else {
            panic!("a row has too few columns: {case:?}")
        };
        let text = fs::read_to_string(data("validation").join(file))
            .expect("the case is in the repository");
        let decoded = decode(file, &text);
        let messages: Vec<Message> = decoded
            .messages
            .iter()
            .cloned()
            .chain(decoded.objects.iter().flat_map(judged))
            .collect();
        if Verdict::of(&messages).as_str() != verdict {
            wrong.push(format!(
                "{file}: Istio says {verdict} ({reason}), here {messages:#?}"
            ));
        }
        for message in &messages {
            let whole_object = ["", "spec", "apiVersion"].contains(&message.field.as_str());
            assert!(
                message.line > 0 && (message.line > 1 || whole_object),
                "{file}: no place: {message}"
            );
        }
        if !reason.is_empty() {
            let wanted = reason.trim_start_matches("parse: ").split(" ; ");
            for wanted in wanted {
                reasons += 1;
                if messages
                    .iter()
                    .any(|message| bare(&message.text) == bare(wanted))
                {
                    same += 1;
                } else {
                    println!(
                        "{file}: no message {wanted:?} among {:?}",
                        messages.iter().map(|m| &m.text).collect::<Vec<_>>()
                    );
                }
            }
        }
    }
    println!(
        "{} of {} verdicts, {same} of {reasons} reasons agree",
        cases.len() - wrong.len(),
        cases.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {} verdicts differ:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert!(
        same * 100 >= reasons * 95,
        "{same} of {reasons} reasons agree"
    );
}

/// Two objects without a `---` between them. Kubernetes' lenient reader silently drops the first one. Here, as with
/// `kubectl`, the repeated keys are an error.
const WITHOUT_SEPARATOR: &str =
    "Aias00__istio.io/archive_v1.0_docs_reference_config_istio.networking.v1alpha3_index_L167.yaml";

#[test]
fn published_objects_load_as_in_istio_and_in_no_time() {
    let mut wrong = Vec::new();
    let mut slowest = Duration::ZERO;
    let rows = rows("corpus/verdicts.tsv");
    let mut files: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    files.dedup();
    let mut checked = 0;
    for file in files {
        let text =
            fs::read_to_string(data("corpus").join(file)).expect("the file is in the repository");
        let start = Instant::now();
        let decoded = decode(file, &text);
        let verdicts: Vec<_> = decoded
            .objects
            .iter()
            .map(|object| (object, judged(object)))
            .collect();
        slowest = slowest.max(start.elapsed());
        let mut seen = 0;
        for row in rows.iter().filter(|row| row[0] == file) {
            let [_, document, kind, name, _, verdict, reason, ..] = row.as_slice() else {
                panic!("too few columns: {row:?}")
            };
            // The table numbers a file's objects differently, so they are matched by order.
            let next = verdicts[seen..]
                .iter()
                .position(|(object, _)| object.kind.as_str() == kind && object.meta.name == *name);
            let found = next.map(|next| {
                seen += next + 1;
                &verdicts[seen - 1]
            });
            if file == WITHOUT_SEPARATOR {
                assert!(
                    decoded.messages[0]
                        .text
                        .ends_with("is a --- line missing before this object?")
                );
                continue;
            }
            let Some((_, messages)) = found else {
                let ours = [
                    "ServiceEntry",
                    "VirtualService",
                    "DestinationRule",
                    "Sidecar",
                    "WorkloadEntry",
                ]
                .contains(&kind.as_str());
                if ours && verdict == "valid" {
                    wrong.push(format!(
                        "{file} document {document}: {kind} {name} not found: {:?}",
                        decoded.messages
                    ));
                }
                continue;
            };
            checked += 1;
            let ours = Verdict::of(messages).as_str();
            if ours != verdict {
                wrong.push(format!("{file} document {document} {kind} {name}: Istio says {verdict} ({reason}), here {messages:?}"));
            }
        }
    }
    println!("{checked} objects, slowest file {slowest:?}");
    assert!(
        wrong.is_empty(),
        "{} of {checked} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // The limit is for an unoptimised build on a busy machine. An optimised build needs a fortieth of it.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
