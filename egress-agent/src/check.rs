//! `egress-agent check`: a verdict for each object of the files named. Needs no kernel, no root.

use crate::failure::Failure;
use crate::sources::files;
use egress_core::istio::{Message, Severity, decode, validate};
use std::io::Write;
use std::path::PathBuf;

/// Writes every message and one line with the counts; a failure if any object is invalid.
pub fn run(paths: &[PathBuf], out: &mut impl Write) -> anyhow::Result<()> {
    let files = files::read(paths).map_err(Failure::usage)?;
    let (mut objects, mut warnings, mut errors) = (0, 0, 0);
    for file in &files {
        let name = file.path.display().to_string();
        let decoded = decode(&name, &file.text);
        let mut show = |message: &Message| {
            match message.severity {
                Severity::Error => errors += 1,
                Severity::Warning => warnings += 1,
                Severity::Note => {}
            }
            writeln!(out, "{name}:{message}")
        };
        for message in decoded
            .messages
            .iter()
            .cloned()
            .chain(decoded.objects.iter().flat_map(validate))
        {
            show(&message)?;
        }
        for skipped in &decoded.skipped {
            writeln!(
                out,
                "{name}:{}:1: note: {}: not a rule; skipped",
                skipped.line, skipped.what
            )?;
        }
        objects += decoded.objects.len();
    }
    writeln!(
        out,
        "{} files, {objects} objects: {errors} errors, {warnings} warnings",
        files.len()
    )?;
    if errors > 0 {
        return Err(Failure::finding("there are invalid rules").into());
    }
    Ok(())
}
