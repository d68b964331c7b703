//! Files of Istio's resources as one rule set: all of them decoded and valid, or none.

use super::files::{Feed, SourceFile, digest, follow};
use crate::failure::Failure;
use egress_core::istio::{Message, Object, Severity, decode, validate};
use egress_core::registry::not_done::not_done;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

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
    let read = Mutex::new(Read::default());
    follow(paths, move |files| {
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = compile_over(files, &mut read)?;
        rules.tell();
        Ok(rules)
    })
}

/// All files as one set, or the first problems as one line.
pub fn compile(files: &[SourceFile]) -> Result<RuleSet, String> {
    compile_over(files, &mut Read::default())
}

/// What each file held at the last load. A file that did not change keeps its objects, the same
/// `Arc`s, by which the registry knows that it need not look at them again.
type Read = BTreeMap<PathBuf, Held>;

#[derive(Clone, Debug, Default)]
struct Held {
    digest: u64,
    objects: Vec<Arc<Object>>,
    notes: Vec<String>,
    problems: Vec<String>,
}

fn compile_over(files: &[SourceFile], read: &mut Read) -> Result<RuleSet, String> {
    let mut rules = RuleSet {
        digest: digest(files),
        ..RuleSet::default()
    };
    let mut problems = Vec::new();
    let mut now = Read::new();
    for file in files {
        let own = digest(std::slice::from_ref(file));
        let held = match read.remove(&file.path) {
            Some(held) if held.digest == own => held,
            _ => load(file, own),
        };
        rules.objects.extend(held.objects.iter().cloned());
        rules.notes.extend(held.notes.iter().cloned());
        problems.extend(held.problems.iter().cloned());
        now.insert(file.path.clone(), held);
    }
    *read = now;
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

fn load(file: &SourceFile, digest: u64) -> Held {
    let mut held = Held {
        digest,
        ..Held::default()
    };
    let name = file.path.display().to_string();
    let decoded = decode(&name, &file.text);
    let messages = decoded.objects.iter().flat_map(validate);
    let not_done = decoded.objects.iter().flat_map(not_done);
    let messages = messages.chain(not_done);
    for message in decoded.messages.iter().cloned().chain(messages) {
        let line = line(&name, &message);
        if message.severity == Severity::Error {
            held.problems.push(line);
        } else {
            held.notes.push(line);
        }
    }
    let skipped = decoded.skipped.iter();
    held.notes
        .extend(skipped.map(|s| format!("{name}:{}: {}: not a rule; skipped", s.line, s.what)));
    held.objects = decoded
        .objects
        .into_iter()
        .map(|mut object| {
            // Only messages need them, and they are the larger part of an object.
            object.forget_places();
            Arc::new(object)
        })
        .collect();
    held
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
    fn a_file_that_did_not_change_keeps_its_objects() {
        let mut read = Read::default();
        let (a, b) = (file("a.yaml", GOOD), file("b.yaml", GOOD));
        let first = compile_over(&[a.clone(), b], &mut read).unwrap();
        let edited = file("b.yaml", &GOOD.replace("80", "81"));
        let second = compile_over(&[a, edited], &mut read).unwrap();
        assert!(Arc::ptr_eq(&first.objects[0], &second.objects[0]));
        assert!(!Arc::ptr_eq(&first.objects[1], &second.objects[1]));
    }

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
