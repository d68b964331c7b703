//! `lint` and `tidy`: the checks before a change is submitted.
//!
//! Owns the list of checks and the walk over the sources. `tidy` has the house rules.

use crate::tidy::{self, Finding};
use crate::workspace::{all, cargo, root, show};
use crate::{circles, deny, ebpf, manifests, provision, tasks};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no source of this project.
const SKIPPED: [&str; 4] = ["target", ".git", "data", "corpus"];

/// Format, clippy, docs, the house rules, the generated pages, the manifests and the dependencies.
pub fn run() -> Result<()> {
    if std::env::var_os("EGRESS_BPF_OBJECT").is_none() && ebpf::find()?.is_none() {
        provision::toolchain()?;
    }
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    // Every check runs, even if an earlier one failed, so that one run shows all failures.
    let results = [
        show(&mut cargo(&["fmt", "--all", "--check"])),
        tidy(),
        show(&mut cargo(&clippy)),
        show(&mut doc),
        tasks::docs(true),
        manifests::check(),
        deny::check(),
    ];
    all(results)
}

/// The house rules over every source file.
pub fn tidy() -> Result<()> {
    let mut paths = Vec::new();
    sources(root(), &mut paths)?;
    paths.sort();
    let shown = |path: &PathBuf| {
        let below = path.strip_prefix(root()).unwrap_or(path);
        below.to_string_lossy().into_owned()
    };
    let all: Vec<String> = paths.iter().map(shown).collect();
    let (mut broken, mut files) = (0, 0);
    for path in tidy::beside_their_folder(&all) {
        broken += 1;
        eprintln!("tidy: {path}: a module with a folder is the folder's mod.rs");
    }
    for (path, shown) in paths.iter().zip(&all) {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        files += 1;
        for finding in tidy::check(shown, &text) {
            match finding {
                Finding::Note(note) => eprintln!("tidy: note: {shown}: {note}"),
                Finding::Broken { line, rule } => {
                    broken += 1;
                    eprintln!("tidy: {shown}:{line}: {rule}");
                }
            }
        }
    }
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    for finding in circles::findings(&circles::all(root())?, &architecture) {
        broken += 1;
        eprintln!("tidy: {finding}");
    }
    if broken > 0 {
        bail!("tidy: {broken} findings in {files} files");
    }
    eprintln!("tidy: {files} files, no findings");
    Ok(())
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !path.is_symlink() {
            if !SKIPPED.contains(&name.as_str()) {
                sources(&path, found)?;
            }
        } else if tidy::is_checked(&name) {
            found.push(path);
        }
    }
    Ok(())
}
