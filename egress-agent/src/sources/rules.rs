//! Files of Istio's resources as one rule set: all of them decoded and valid, or none.

use super::files::{Feed, SourceFile, digest, follow};
use crate::failure::Failure;
use egress_core::istio::{Message, Object, Severity, decode, validate};
use egress_core::registry::not_done::not_done;
use std::path::PathBuf;
use std::sync::Arc;

/// Problems of one load that are shown; the rest is counted. `egress-agent check` shows all.
const SHOWN: usize = 5;

/// Everything the rule files hold.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// In the order of the files' names and of the documents in them.
    pub objects: Vec<Arc<Object>>,
    /// Of the files' names and texts; tells two sets apart while this process lives.
    pub digest: u64,
    /// What was skipped or has no effect, one line each: file, line, field, reason.
    pub notes: Vec<String>,
}

/// Loads the rules and follows them; see [`follow`].
pub fn follow_rules(
    paths: &[PathBuf],
) -> Result<(Feed<RuleSet>, impl Future<Output = ()> + Send + use<>), Failure> {
    follow(paths, |files| {
        let rules = compile(files)?;
        rules.tell();
        Ok(rules)
    })
}

/// All files as one set, or the first problems as one line.
pub fn compile(files: &[SourceFile]) -> Result<RuleSet, String> {
    let mut rules = RuleSet {
        digest: digest(files),
        ..RuleSet::default()
    };
    let mut problems = Vec::new();
    for file in files {
        let name = file.path.display().to_string();
        let decoded = decode(&name, &file.text);
        let messages = decoded.objects.iter().flat_map(validate);
        let not_done = decoded.objects.iter().flat_map(not_done);
        let messages = messages.chain(not_done);
        for message in decoded.messages.iter().cloned().chain(messages) {
            let line = line(&name, &message);
            if message.severity == Severity::Error {
                problems.push(line);
            } else {
                rules.notes.push(line);
            }
        }
        let skipped = decoded.skipped.iter();
        rules
            .notes
            .extend(skipped.map(|s| format!("{name}:{}: {}: not a rule; skipped", s.line, s.what)));
        rules
            .objects
            .extend(decoded.objects.into_iter().map(|mut object| {
                // Only messages need them, and they are the larger part of an object.
                object.forget_places();
                Arc::new(object)
            }));
    }
    if problems.is_empty() {
        return Ok(rules);
    }
    let more = problems.len().saturating_sub(SHOWN);
    problems.truncate(SHOWN);
    let tail = if more > 0 {
        format!("; and {more} more: see egress-agent check")
    } else {
        String::new()
    };
    Err(problems.join("; ") + &tail)
}

fn line(file: &str, message: &Message) -> String {
    let field = if message.field.is_empty() {
        String::new()
    } else {
        format!("{}: ", message.field)
    };
    format!("{file}:{}: {field}{}", message.line, message.text)
}

impl RuleSet {
    fn tell(&self) {
        for note in &self.notes {
            tracing::warn!("{note}");
        }
        if self.objects.is_empty() {
            tracing::warn!("the rules are empty: every destination is refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile {
            path: name.into(),
            text: text.into(),
        }
    }

    const GOOD: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n\
        spec:\n  hosts: [a.example]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n";

    #[test]
    fn other_kinds_are_skipped_with_a_note() {
        let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
        let rules = compile(&[file("a.yaml", &format!("{GOOD}---\n{other}"))]).unwrap();
        assert_eq!(rules.objects.len(), 1);
        assert!(
            rules
                .notes
                .iter()
                .any(|n| n.starts_with("a.yaml:9") && n.contains("ConfigMap")),
            "{:?}",
            rules.notes
        );
    }

    #[test]
    fn one_bad_file_refuses_the_set_with_file_line_and_field() {
        let bad = GOOD.replace("number: 80", "number: {}");
        let why = compile(&[file("a.yaml", GOOD), file("b.yaml", &bad)]).unwrap_err();
        assert!(why.starts_with("b.yaml:6: spec.ports[0].number: "), "{why}");
        let hosts = GOOD.replace("hosts: [a.example]", "hosts: []");
        let why = compile(&[file("d.yaml", &hosts)]).unwrap_err();
        assert!(why.starts_with("d.yaml:") && why.contains("host"), "{why}");
        let empty = compile(&[file("a.yaml", GOOD), file("c.yaml", "")]).unwrap_err();
        assert!(
            empty.starts_with("c.yaml:1: ") && !empty.contains('\n'),
            "{empty}"
        );
    }

    #[test]
    fn no_file_is_an_empty_set() {
        assert!(compile(&[]).unwrap().objects.is_empty());
    }
}
