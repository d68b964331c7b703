//! Installs the clients of the suite `real_clients`: Node, Java, Go, and packages for Python.

use crate::ebpf;
use crate::progress::step;
use crate::provision::{link_in_target, lock, programs, python, virtual_environment};
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
    ])?;
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
