//! `egress-agent check`: a verdict for each object of the files named. Needs no kernel, no root.

use crate::failure::Failure;
use crate::sources::files;
use clap::ValueEnum;
use egress_core::istio::report::Report;
use egress_core::istio::{Decoded, Verdict, decode};
use egress_core::registry::lint::{Finding, lint};
use egress_core::registry::not_done::not_done;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Who reads the verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// People: the offending line with a caret, then counts
    #[default]
    Text,
    /// Machines: one JSON object a line and object
    Json,
}

/// Writes the verdicts; a failure if any object is invalid.
pub fn run(
    paths: &[PathBuf],
    output: Output,
    colour: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let files = files::read(paths).map_err(Failure::usage)?;
    let decode = |f: &files::SourceFile| decode(&f.path.display().to_string(), &f.text);
    let all: Vec<Decoded> = files.iter().map(decode).collect();
    let mut together = across(&all).into_iter().peekable();
    let mut worst = Verdict::Valid;
    let (mut objects, mut invalid, mut warned) = (0, 0, 0);
    for (file, decoded) in files.iter().zip(&all) {
        let name = file.path.display().to_string();
        let mut report = Report::new(&name, &file.text, decoded);
        for (index, object) in decoded.objects.iter().enumerate() {
            let number = objects + index;
            while let Some(finding) = together.next_if(|f| f.object == number) {
                report.add(index, finding.message);
            }
            for message in not_done(object) {
                report.add(index, message);
            }
        }
        worst = worst.max(report.verdict());
        for object in 0..decoded.objects.len() {
            objects += 1;
            match report.object_verdict(object) {
                Verdict::Valid => {}
                Verdict::Warning => warned += 1,
                Verdict::Invalid => invalid += 1,
            }
        }
        match output {
            Output::Text => out.write_all(report.text(colour).as_bytes())?,
            Output::Json => out.write_all(report.json_lines().as_bytes())?,
        }
    }
    let broken = all.iter().filter(|d| d.is_broken() && d.objects.is_empty());
    let unusable = match broken.count() {
        0 => String::new(),
        broken => format!("; {} unusable", counted(broken, "file")),
    };
    let summary = format!(
        "{}, {}: {invalid} invalid, {warned} with warnings{unusable}",
        counted(files.len(), "file"),
        counted(objects, "object")
    );
    let found = worst == Verdict::Invalid;
    match output {
        Output::Text => writeln!(out, "{summary}")?,
        Output::Json if found => return Err(Failure::finding(summary).into()),
        Output::Json => {}
    }
    if found {
        return Err(Failure::told().into());
    }
    Ok(())
}

fn counted(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

/// Findings across the objects of all files, in their order.
fn across(files: &[Decoded]) -> Vec<Finding> {
    let objects = files.iter().flat_map(|f| &f.objects);
    let objects: Vec<_> = objects.cloned().map(Arc::new).collect();
    lint(&objects)
}
