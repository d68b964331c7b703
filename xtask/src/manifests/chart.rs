//! The chart as Helm renders it.

use super::tools;
use crate::workspace::root;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One rendered object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The template, below the chart's folder of templates.
    pub source: String,
    /// Its YAML, without a separator.
    pub text: String,
}

fn folder() -> PathBuf {
    root().join("deploy/chart/egress-agent")
}

/// The documented sets of values, which are the files in the chart's folder `ci`.
pub fn value_sets() -> Result<Vec<PathBuf>> {
    let folder = folder().join("ci");
    let mut sets: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    sets.sort();
    Ok(sets)
}

/// The objects of the chart with these files of values, in the order in which Helm installs them.
pub fn render(values: &[&PathBuf]) -> Result<Vec<Rendered>> {
    let fixed = [
        "template",
        "egress-agent",
        "--namespace",
        "egress-system",
        "--set",
        "namespace.create=true",
    ];
    let text = helm(&fixed, values)?;
    Ok(split(&text))
}

/// Fails if Helm finds a mistake in the chart or in the values.
pub fn lint(values: &[&PathBuf]) -> Result<()> {
    helm(&["lint", "--strict", "--quiet"], values).map(drop)
}

fn helm(arguments: &[&str], values: &[&PathBuf]) -> Result<String> {
    let mut command = Command::new(tools::helm()?);
    command.args(arguments).arg(folder());
    for file in values {
        command.arg("--values").arg(file);
    }
    let output = command.output().context("cannot run helm")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let shown: Vec<_> = values.iter().filter_map(|path| path.file_name()).collect();
        let shown = shown.join(Path::new(" ").as_os_str());
        bail!(
            "helm {} with {}: {}{}",
            arguments[0],
            shown.display(),
            said.trim(),
            errors.trim()
        );
    }
    Ok(said)
}

/// Helm begins each object with a line that names its template.
fn split(text: &str) -> Vec<Rendered> {
    const BEGIN: &str = "---\n# Source: egress-agent/templates/";
    let objects = text.split(BEGIN).skip(1);
    objects
        .filter_map(|object| {
            let (source, text) = object.split_once('\n')?;
            Some(Rendered {
                source: source.to_owned(),
                text: format!("{}\n", text.trim_matches('\n')),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_is_known_by_its_template() {
        let text = "---\n# Source: egress-agent/templates/a.yaml\nkind: A\n---\n\
                    # Source: egress-agent/templates/tests/b.yaml\n# Why.\nkind: B\n\n";
        let objects = split(text);
        let pairs: Vec<(&str, &str)> = objects
            .iter()
            .map(|o| (o.source.as_str(), o.text.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("a.yaml", "kind: A\n"),
                ("tests/b.yaml", "# Why.\nkind: B\n")
            ]
        );
    }
}
