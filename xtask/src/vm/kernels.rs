//! Debian's kernels, downloaded by apt and unpacked, never installed.
//!
//! Owns the list and the cache. Each kernel has its own package lists, so the machine's apt sources stay unchanged and
//! may be of another release.

use crate::progress::{step, step_fn};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The purpose of booting a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The gate must load and the escape suite must agree.
    Suite,
    /// Too old: the agent must say so and end.
    Refusal,
}

/// A kernel to boot.
#[derive(Debug)]
pub struct Kernel {
    /// Its version, for people.
    pub name: &'static str,
    /// Its purpose.
    pub role: Role,
    /// The Debian release that has it.
    suite: &'static str,
    /// The package that depends on the newest image.
    package: &'static str,
}

/// A kernel's files.
pub struct Files {
    /// The compressed image that QEMU boots.
    pub image: PathBuf,
    /// The folder that holds `lib/modules`.
    pub root: PathBuf,
    /// The output of `uname -r`.
    pub release: String,
}

/// Oldest supported, a newer one, and one that is too old.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "6.1",
        role: Role::Suite,
        suite: "bookworm",
        package: "linux-image-cloud-amd64",
    },
    Kernel {
        name: "6.12",
        role: Role::Suite,
        suite: "bookworm",
        package: "linux-image-6.12-cloud-amd64",
    },
    Kernel {
        name: "5.10",
        role: Role::Refusal,
        suite: "bullseye",
        package: "linux-image-cloud-amd64",
    },
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The files of a kernel, which are downloaded if they are missing. Remove the folder to get a newer kernel.
pub fn fetch(kernel: &Kernel, cache: &Path) -> Result<Files> {
    let dir = cache.join(kernel.name);
    let root = dir.join("root");
    if !root.is_dir() {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("lists/partial"))?;
        fs::create_dir_all(dir.join("archives/partial"))?;
        download(kernel, &dir)?;
        let unpacked = dir.join("unpacking");
        step_fn(&format!("unpacking Linux {}", kernel.name), || {
            unpack(&dir, &unpacked)
        })?;
        fs::rename(&unpacked, &root)?;
    }
    let modules = root.join("lib/modules");
    let release = fs::read_dir(&modules)?
        .next()
        .context("a kernel has modules")??
        .file_name()
        .to_string_lossy()
        .into_owned();
    Ok(Files {
        image: root.join("boot").join(format!("vmlinuz-{release}")),
        root,
        release,
    })
}

fn download(kernel: &Kernel, dir: &Path) -> Result<()> {
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: install debian-archive-keyring");
    }
    let suite = kernel.suite;
    let line = |address: &str, suite: &str| {
        format!("deb [arch=amd64 signed-by={KEYRING}] {address} {suite} main\n")
    };
    fs::write(
        dir.join("sources.list"),
        line("http://deb.debian.org/debian", suite)
            + &line(
                "http://deb.debian.org/debian-security",
                &format!("{suite}-security"),
            ),
    )?;
    let name = kernel.name;
    step(&format!("package lists for Linux {name}"), {
        let mut update = apt("apt-get", dir);
        update.arg("update");
        update
    })?;
    let output = apt("apt-cache", dir)
        .args(["depends", "--important", kernel.package])
        .stderr(Stdio::null())
        .output()
        .context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let image = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("Depends: "))
        .filter(|image| image.starts_with("linux-image-"))
        .with_context(|| format!("Debian {suite} has no {}", kernel.package))?;
    let mut get = apt("apt-get", dir);
    get.args(["download", image]).current_dir(dir);
    step(&format!("downloading {image}"), get)
}

/// An apt that uses this folder only.
fn apt(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    for (key, file) in [
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::State::lists", "lists"),
        ("Dir::Cache", "archives"),
        ("Dir::Cache::archives", "archives"),
    ] {
        command.arg(format!("--option={key}={}", dir.join(file).display()));
    }
    command
        .arg("--option=Dir::Etc::sourceparts=/dev/null")
        .arg("--option=APT::Architecture=amd64")
        // The files belong to the present user.
        .arg("--option=APT::Sandbox::User=")
        .stdin(Stdio::null());
    command
}

fn unpack(dir: &Path, to: &Path) -> Result<()> {
    let package = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("no package was downloaded")?;
    let mut command = Command::new("dpkg-deb");
    run(command.arg("-x").arg(&package).arg(to))?;
    fs::remove_file(package)?;
    Ok(())
}

/// Runs a command, and shows its output only if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{} failed: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr).trim()
    )
}
