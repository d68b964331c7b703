//! Installs the clients of the suites `real_clients` and `dns_clients`: Node, Java, Go, a C compiler with musl, and
//! packages for Python.

use crate::ebpf;
use crate::progress::step;
use crate::provision::{download, link_in_target, lock, programs, python, virtual_environment};
use crate::workspace::root;
use anyhow::{Context as _, Result};
use std::fs;
use std::process::Command;

/// The clients; the tests find their Python at `target/clients-python`.
pub fn install() -> Result<()> {
    programs(&[
        ("node", "nodejs"),
        ("javac", "openjdk-17-jdk-headless"),
        ("go", "golang-go"),
        ("gcc", "gcc"),
        ("musl-gcc", "musl-tools"),
    ])?;
    resolved()?;
    let wanted = root().join("tests/clients/requirements.txt");
    let list = fs::read(&wanted).with_context(|| format!("cannot read {}", wanted.display()))?;
    let environment = ebpf::tools_dir()?.join("clients-python");
    // The list as it was installed: another checkout may have another one.
    let installed = environment.join("installed.txt");
    let current = || fs::read(&installed).is_ok_and(|text| text == list);
    if !current() {
        python()?;
        let _lock = lock()?;
        if !current() {
            virtual_environment(&environment)?;
            let mut pip = Command::new(environment.join("bin/pip"));
            pip.args(["install", "--disable-pip-version-check", "--no-deps"])
                .args(["--only-binary=:all:", "-r"])
                .arg(&wanted);
            step("pip install the clients' packages", pip)?;
            fs::write(&installed, &list)?;
        }
    }
    link_in_target("clients-python", &environment.join("bin/python"))?;
    Ok(())
}

/// Unpacks systemd-resolved without installing it, since the package changes the machine's resolver. The tests find it at
/// `target/systemd-resolved`.
fn resolved() -> Result<()> {
    let folder = ebpf::tools_dir()?.join("systemd-resolved");
    let program = folder.join("lib/systemd/systemd-resolved");
    if !program.is_file() {
        let _lock = lock()?;
        if !program.is_file() {
            let packages = folder.join("packages");
            fs::create_dir_all(&packages)?;
            // Of one version: the library is private.
            for package in ["systemd-resolved", "libsystemd-shared"] {
                download(package, &packages)?;
            }
            for package in fs::read_dir(&packages)? {
                let mut unpack = Command::new("dpkg-deb");
                unpack.arg("-x").arg(package?.path()).arg(&folder);
                step("unpack systemd-resolved", unpack)?;
            }
            fs::remove_dir_all(packages)?;
        }
    }
    link_in_target("systemd-resolved", &folder)?;
    Ok(())
}
