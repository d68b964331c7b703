//! Images made by hand: a folder packed as the archive that `docker save` writes. There is no
//! registry to pull from, and nothing is built.

use anyhow::{Context as _, Result, ensure};
use egress_tests::agent;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What pods run: a shell, curl, the probe. Its entrypoint, the pause container's, waits.
pub const POD: &str = "test.invalid/pod:1";
/// The agent, laid out as its image is.
pub const AGENT: &str = "test.invalid/egress-agent:1";

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Packs the pods' image into `dir`.
pub fn pod(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("pod");
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    fs::copy("/bin/busybox", bin.join("busybox")).context("install busybox-static")?;
    for name in ["sh", "sleep", "cat"] {
        symlink("busybox", bin.join(name))?;
    }
    for program in [PathBuf::from("/usr/bin/curl"), agent::beside("probe")?] {
        lay_out(&program, &root, &format!("bin/{}", name(&program)))?;
    }
    archive(&root, dir, POD, &["/bin/sleep", "1000000"])
}

/// Packs the agent's image into `dir`, by the steps of its Dockerfile.
pub fn agent(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("agent");
    lay_out(&agent::binary()?, &root, PLACE)?;
    archive(&root, dir, AGENT, &["/usr/local/bin/egress-agent"])
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Where the script puts the program.
const PLACE: &str = "usr/local/bin/egress-agent";

/// A program with its libraries; `at` is where it is wanted.
fn lay_out(program: &Path, root: &Path, at: &str) -> Result<()> {
    let script = workspace().join("deploy/image/rootfs.sh");
    run(Command::new(script).arg(program).arg(root))?;
    if at != PLACE {
        fs::rename(root.join(PLACE), root.join(at))?;
    }
    Ok(())
}

fn archive(root: &Path, dir: &Path, tag: &str, entrypoint: &[&str]) -> Result<PathBuf> {
    let own = dir.join(format!("{}.image", name(root)));
    fs::create_dir_all(&own)?;
    let layer = own.join("layer.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(root)
        .arg("-cf")
        .arg(&layer)
        .arg("."))?;
    let sum = run(Command::new("sha256sum").arg(&layer))?;
    let digest = sum.split(' ').next().context("a digest")?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": entrypoint, "Env": ["PATH=/usr/local/bin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"] }]);
    fs::write(own.join("config.json"), config.to_string())?;
    fs::write(own.join("manifest.json"), manifest.to_string())?;
    let tar = dir.join(format!("{}.tar", name(root)));
    let files = ["manifest.json", "config.json", "layer.tar"];
    run(Command::new("tar")
        .arg("-C")
        .arg(&own)
        .arg("-cf")
        .arg(&tar)
        .args(files))?;
    Ok(tar)
}

/// Runs a program to its end and returns what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
