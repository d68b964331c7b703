//! Prometheus' checker `promtool`, for the tests of metrics and alerts: finds it, or takes the one program out of
//! Debian's package. The package itself would start a server and bring web fonts.

use crate::progress::step;
use crate::{ebpf, provision};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program. Tests find it at `target/promtool`.
pub fn find_or_install() -> Result<PathBuf> {
    let program = match ebpf::find_on_path("promtool") {
        Some(program) => program,
        None => from_package()?,
    };
    provision::link_in_target("promtool", &program)
}

fn from_package() -> Result<PathBuf> {
    let folder = ebpf::tools_dir()?.join("prometheus");
    let program = folder.join("usr/bin/promtool");
    if !program.is_file() {
        let _lock = provision::lock()?;
        if !program.is_file() {
            unpack(&folder)?;
        }
    }
    Ok(program)
}

fn unpack(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    provision::download("prometheus", folder)?;
    let package = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|kind| kind == "deb"))
        .context("apt-get download left no package")?;
    let mut unpack = Command::new("sh");
    unpack
        .args([
            "-c",
            "dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\" ./usr/bin/promtool",
            "sh",
        ])
        .args([&package, folder]);
    step("unpack promtool", unpack)?;
    if !folder.join("usr/bin/promtool").is_file() {
        bail!("{} has no promtool", package.display());
    }
    Ok(fs::remove_file(package)?)
}
