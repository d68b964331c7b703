//! Checks the Kubernetes manifests against the API's own schema, offline.
//!
//! Owns the checker's installation and call. The tests check the content of the manifests.

use crate::progress::step;
use crate::workspace::{root, show};
use crate::{ebpf, provision};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The checker's release, which brings the schemas.
const CHECKER: &str = "kubernetes-validate==1.37.0";
/// The API that the manifests are written for.
const API: &str = "1.34";

/// Fails if a manifest has a field that the API does not have.
pub fn check() -> Result<()> {
    let checker = checker()?;
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("deploy/kubernetes"))
        .context("no deploy/kubernetes")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    let mut command = Command::new(checker);
    command.args(["--quiet", "--strict", "-k", API]).args(paths);
    show(&mut command)
}

/// The checker, in its own Python environment, which is made if it is missing.
fn checker() -> Result<PathBuf> {
    let dir = ebpf::tools_dir()?.join(CHECKER);
    let program = dir.join("bin/kubernetes-validate");
    if program.is_file() {
        return Ok(program);
    }
    provision::python()?;
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv", "--clear"]).arg(&dir);
    step("python environment", environment)?;
    let mut pip = Command::new(dir.join("bin/pip"));
    pip.args(["install", "--disable-pip-version-check", CHECKER]);
    step(&format!("pip install {CHECKER}"), pip)?;
    Ok(program)
}
