//! `egress-agent check`: a verdict for each object of the files named. Needs no kernel, no root.

use crate::failure::Failure;
use crate::sources::files;
use clap::ValueEnum;
use egress_core::istio::report::Report;
use egress_core::istio::{Verdict, decode};
use std::io::Write;
use std::path::PathBuf;

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
    let mut worst = Verdict::Valid;
    let (mut objects, mut invalid, mut warned) = (0, 0, 0);
    for file in &files {
        let name = file.path.display().to_string();
        let decoded = decode(&name, &file.text);
        let report = Report::new(&name, &file.text, &decoded);
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
    if output == Output::Text {
        let files = files.len();
        writeln!(
            out,
            "files: {files}, objects: {objects}, invalid: {invalid}, with warnings: {warned}"
        )?;
    }
    if worst == Verdict::Invalid {
        return Err(Failure::finding("there are invalid rules").into());
    }
    Ok(())
}
