//! `egress-agent check`: prints a verdict for each object of the given files. Needs no kernel support and
//! no root.
//!
//! Judges the files as a starting agent would. Owns the counts and the exit code; the core has the
//! messages.

use crate::failure::Failure;
use crate::proxy::check_secret;
use crate::sources::files::{self, Reading, Unreadable};
use crate::sources::judge::{Id, twice};
use clap::ValueEnum;
use egress_core::istio::report::Report;
use egress_core::istio::{
    CredentialName, Decoded, Message, Object, Severity, Spec, Strictness, Verdict, decode_as,
    validate,
};
use egress_core::registry::lint::{Finding, lint};
use egress_core::registry::not_done::not_done;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people: each finding with its line and a caret, then counts
    #[default]
    Text,
    /// For programs: one JSON object in a line for each object
    Json,
}

/// The findings in all files.
#[derive(Default)]
struct Counts {
    objects: usize,
    invalid: usize,
    warned: usize,
    /// Documents that are not objects.
    unusable: usize,
    /// Files and folders that cannot be read.
    unreadable: usize,
    /// Fields that are not carried out, and ports that are open to any address.
    strict: usize,
}

/// Writes the verdicts.
///
/// # Errors
/// Anything is invalid: exit code 1. With `strict`, a field is not carried out or a port is open to any
/// address: exit code [`crate::failure::STRICT`].
pub fn run(
    paths: &[PathBuf],
    output: Output,
    strict: bool,
    colour: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let reading = read(paths)?;
    let decode = |f: &Arc<files::SourceFile>| {
        decode_as(&f.path.display().to_string(), &f.text, Strictness::Files)
    };
    let mut all: Vec<Decoded> = reading.files.iter().map(decode).collect();
    all.iter_mut().for_each(check_secrets);
    let written = |report: &Report<'_>| match output {
        Output::Text => report.text(colour),
        Output::Json => report.json_lines(),
    };
    let mut together = across(&all).into_iter().peekable();
    let mut counts = Counts::default();
    for (file, decoded) in reading.files.iter().zip(&all) {
        let name = file.path.display().to_string();
        let mut report = Report::new(&name, &file.text, decoded);
        for (index, object) in decoded.objects.iter().enumerate() {
            let number = counts.objects + index;
            while let Some(finding) = together.next_if(|f| f.object == number) {
                counts.strict += usize::from(finding.opens);
                report.add(index, finding.message);
            }
            // An invalid object is not loaded, so nothing of it is passed over.
            if report.object_verdict(index) == Verdict::Invalid {
                continue;
            }
            for message in not_done(object) {
                counts.strict += usize::from(message.severity > Severity::Note);
                report.add(index, message);
            }
        }
        counts.unusable += decoded.messages.len();
        for object in 0..decoded.objects.len() {
            counts.objects += 1;
            match report.object_verdict(object) {
                Verdict::Valid => {}
                Verdict::Warning => counts.warned += 1,
                Verdict::Invalid => counts.invalid += 1,
            }
        }
        out.write_all(written(&report).as_bytes())?;
    }
    for (path, why) in &reading.failed {
        counts.unreadable += 1;
        let name = path.display().to_string();
        let unread = Decoded {
            messages: vec![unreadable(*why)],
            ..Decoded::default()
        };
        out.write_all(written(&Report::new(&name, "", &unread)).as_bytes())?;
    }
    for folder in &reading.ignored {
        let folder = folder.display();
        eprintln!(
            "egress-agent: {folder} is not read: it is a folder inside a rules folder; name it too"
        );
    }
    let files = reading.files.len() + reading.failed.len();
    conclude(&counts, files, output, strict, out)
}

fn unreadable(why: Unreadable) -> Message {
    Message {
        severity: Severity::Error,
        field: String::new(),
        line: 1,
        column: 1,
        text: format!("cannot be read: {why}"),
    }
}

/// The files that an agent with these paths would read.
///
/// # Errors
/// A path does not exist, or a folder has no rule file: bad usage.
fn read(paths: &[PathBuf]) -> Result<Reading, Failure> {
    let reading = files::read(paths);
    let absent = |(path, _): &&(PathBuf, Unreadable)| paths.contains(path) && !path.exists();
    if let Some((path, why)) = reading.failed.iter().find(absent) {
        return Err(Failure::usage(format_args!("{}: {why}", path.display())));
    }
    let empty = |path: &&PathBuf| {
        let files = reading.files.iter().map(|file| &file.path);
        let failed = reading.failed.iter().map(|(path, _)| path);
        path.is_dir() && !files.chain(failed).any(|file| file.starts_with(path))
    };
    if let Some(folder) = paths.iter().find(empty) {
        let below = match reading.ignored.first() {
            Some(folder) => format!("; {} is not read: name it", folder.display()),
            None => String::new(),
        };
        return Err(Failure::usage(format_args!(
            "{}: the folder has no rule file (.yaml, .yml, .json){below}",
            folder.display()
        )));
    }
    Ok(reading)
}

fn conclude(
    counts: &Counts,
    files: usize,
    output: Output,
    strict: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let unusable = match counts.unusable {
        0 => String::new(),
        documents => format!("; {} unusable", counted(documents, "document")),
    };
    let unreadable = match counts.unreadable {
        0 => String::new(),
        files => format!("; {} unreadable", counted(files, "file")),
    };
    let summary = format!(
        "{}, {}: {} invalid, {} with warnings{unusable}{unreadable}",
        counted(files, "file"),
        counted(counts.objects, "object"),
        counts.invalid,
        counts.warned,
    );
    let findings = counts.strict;
    let failure = if counts.invalid + counts.unusable + counts.unreadable > 0 {
        Some(Failure::finding(&summary))
    } else if strict && findings > 0 {
        Some(Failure::strict(format_args!(
            "{summary}; {} that --strict rejects",
            counted(findings, "finding")
        )))
    } else {
        None
    };
    match (output, failure) {
        (Output::Json, Some(failure)) => Err(failure.into()),
        (Output::Json, None) => Ok(()),
        (Output::Text, None) => Ok(writeln!(out, "{summary}")?),
        (Output::Text, Some(failure)) => {
            writeln!(out, "{}", failure.message)?;
            Err(failure.said().into())
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

/// Reports Secrets whose certificates cannot be used, at the line at which each starts.
fn check_secrets(decoded: &mut Decoded) {
    for (line, secret) in &decoded.secrets {
        if let Err(text) = check_secret(secret) {
            decoded.messages.push(Message {
                severity: Severity::Error,
                field: String::new(),
                line: *line,
                column: 1,
                text,
            });
        }
    }
}

/// Rules that name a Secret or ConfigMap which none of the files has.
fn without_secret(files: &[Decoded], object: &Object) -> Option<Message> {
    let Some(Spec::DestinationRule(rule)) = &object.spec else {
        return None;
    };
    let named = |name| CredentialName::of_rule(name, &object.meta.namespace);
    let mut secrets = rule.credential_names().filter_map(named);
    let missing = secrets.find(|wanted| {
        let mut all = files.iter().flat_map(|file| &file.secrets);
        !all.any(|(_, secret)| wanted.of_authorities().any(|name| secret.name == name))
    })?;
    Some(Message {
        severity: Severity::Warning,
        field: "spec.trafficPolicy.tls.credentialName".to_owned(),
        line: object.line,
        column: 1,
        text: format!("no file has {missing}: connections are denied until one has it"),
    })
}

/// Findings across the objects of all files, in the order of the objects: objects that are given more
/// than once, and what valid objects do together.
fn across(files: &[Decoded]) -> Vec<Finding> {
    let objects: Vec<&Object> = files.iter().flat_map(|f| &f.objects).collect();
    let is_valid = |o: &Object| validate(o).iter().all(|m| m.severity < Severity::Error);
    let valid = || objects.iter().enumerate().filter(|(_, o)| is_valid(o));
    let again = twice(valid().map(|(_, o)| (Id::of(o), *o)));
    let mut findings: Vec<Finding> = Vec::new();
    for (number, object) in valid() {
        if let Some(again) = again.get(&Id::of(object)) {
            let severity = if again.same {
                Severity::Warning
            } else {
                Severity::Error
            };
            findings.push(Finding {
                object: number,
                opens: false,
                message: Message {
                    severity,
                    field: "metadata.name".to_owned(),
                    line: object.line,
                    column: 1,
                    text: again.text(object),
                },
            });
        }
    }
    for (number, object) in valid() {
        let message = without_secret(files, object);
        findings.extend(message.map(|message| Finding {
            object: number,
            opens: false,
            message,
        }));
    }
    let shared: Vec<_> = objects.into_iter().cloned().map(Arc::new).collect();
    findings.extend(lint(&shared));
    findings.sort_by_key(|f| f.object);
    findings
}
