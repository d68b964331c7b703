//! `manifests`: renders `deploy/kubernetes` from the Helm chart, and checks both.
//!
//! Owns the rendered files and the order of the checks. `chart` runs Helm, `istio` has the schemas of Istio's objects,
//! `selector` compares the labels of pods, `tools` installs Helm and the validator.

mod chart;
mod istio;
mod selector;
mod tools;

use crate::workspace::{all, root};
use anyhow::{Context as _, Result, bail, ensure};
use chart::Rendered;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The API that the manifests are written for.
const API: &str = "1.34";
/// Kinds of other projects, which the validator does not know.
const FOREIGN: &str = "apiVersion: monitoring.coreos.com/";
/// The first lines of a rendered file.
const HEAD: &str = "# Rendered from deploy/chart/egress-agent by `cargo xtask manifests`.\n";

/// Writes the rendered files.
pub fn write() -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let files = files(&chart::render(&[])?);
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !files.iter().any(|(known, _)| *known == name) {
            fs::remove_file(&path)?;
        }
    }
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// Fails if the rendered files are not those of the chart, if a combination of values renders an object that the API
/// rejects or a pod that a DaemonSet of the chart would adopt, or if an Istio object in examples and documentation does not match its definition.
pub fn check() -> Result<()> {
    let plain = chart::render(&[])?;
    all([current(&files(&plain)), combinations(plain)])
}

fn folder() -> PathBuf {
    root().join("deploy/kubernetes")
}

/// The rendered files by name. `kubectl apply -f FOLDER` takes them in the order of their names, and Helm has sorted
/// the objects in each by kind.
fn files(rendered: &[Rendered]) -> Vec<(&'static str, String)> {
    let file_of = |source: &str| match source {
        "namespace.yaml" => Some("10-namespace.yaml"),
        "config.yaml" => Some("20-config.yaml"),
        // Helm runs these on demand.
        _ if source.starts_with("tests/") => None,
        _ => Some("30-agent.yaml"),
    };
    ["10-namespace.yaml", "20-config.yaml", "30-agent.yaml"]
        .map(|name| {
            let own = rendered
                .iter()
                .filter(|object| file_of(&object.source) == Some(name));
            let texts: Vec<&str> = own.map(|object| object.text.as_str()).collect();
            (name, format!("{HEAD}{}", texts.join("---\n")))
        })
        .into()
}

fn current(files: &[(&str, String)]) -> Result<()> {
    let folder = folder();
    for (name, text) in files {
        let there = fs::read_to_string(folder.join(name)).unwrap_or_default();
        ensure!(
            there == *text,
            "deploy/kubernetes/{name} is not what the chart renders: run `cargo xtask manifests`"
        );
    }
    let count = fs::read_dir(&folder)?.count();
    ensure!(
        count == files.len(),
        "deploy/kubernetes has {count} files, and the chart renders {}: run `cargo xtask manifests`",
        files.len()
    );
    Ok(())
}

/// Renders each documented set of values alone, each pair of them, and all together, and validates what comes out.
fn combinations(plain: Vec<Rendered>) -> Result<()> {
    let sets = chart::value_sets()?;
    let mut rendered = plain;
    chart::lint(&[])?;
    let mut count = 1;
    for (at, first) in sets.iter().enumerate() {
        chart::lint(&[first])?;
        rendered.extend(chart::render(&[first])?);
        for second in &sets[at + 1..] {
            rendered.extend(chart::render(&[first, second])?);
            count += 1;
        }
        count += 1;
    }
    let every: Vec<&PathBuf> = sets.iter().collect();
    rendered.extend(chart::render(&every)?);
    count += 1;
    // Most objects are the same in most combinations.
    let objects: BTreeSet<&str> = rendered
        .iter()
        .map(|object| object.text.as_str())
        .filter(|text| !text.lines().any(|line| line.starts_with(FOREIGN)))
        .collect();
    let objects: Vec<&str> = objects.into_iter().collect();
    all([
        validate(&objects),
        selector::check(&objects),
        istio::check(&objects),
    ])?;
    eprintln!(
        "manifests: {count} combinations of values, {} different objects, all valid",
        objects.len()
    );
    Ok(())
}

/// Fails if an object has a field that the API does not have, or a kind that the validator does not know.
fn validate(objects: &[&str]) -> Result<()> {
    let dir = crate::workspace::target().join("manifests");
    fs::create_dir_all(&dir)?;
    let file = dir.join("objects.yaml");
    fs::write(&file, objects.join("---\n"))?;
    let output = Command::new(tools::validator()?)
        .args(["--quiet", "--strict", "-k", API])
        .arg(&file)
        .output()
        .context("cannot run the validator")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !said.is_empty() {
        bail!("kubernetes-validate: {}{errors}", said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(source: &str, text: &str) -> Rendered {
        Rendered {
            source: source.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_folder_is_applied_in_the_order_of_its_files() {
        let rendered = [
            object("namespace.yaml", "a\n"),
            object("serviceaccount.yaml", "b\n"),
            object("config.yaml", "c\n"),
            object("daemonset.yaml", "d\n"),
            object("tests/ready.yaml", "e\n"),
        ];
        let files = files(&rendered);
        let texts = files.map_texts();
        assert_eq!(texts, ["a\n", "c\n", "b\n---\nd\n"]);
    }

    trait Texts {
        fn map_texts(&self) -> Vec<&str>;
    }

    impl Texts for Vec<(&'static str, String)> {
        fn map_texts(&self) -> Vec<&str> {
            self.iter()
                .map(|(_, text)| text.strip_prefix(HEAD).unwrap())
                .collect()
        }
    }
}
