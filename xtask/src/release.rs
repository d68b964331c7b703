//! `release`: builds the agent without symbols, and a file with its symbols.
//!
//! Owns the two files. `deploy/image/rootfs.sh` has the image's layout.

use crate::progress::step;
use crate::tasks::bpf_object;
use crate::workspace::{cargo, show, target};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Builds `target/dist/egress-agent` and `target/dist/egress-agent.debug`. The first contains the name of the second. A
/// debugger looks for it in the same folder and below `/usr/lib/debug`.
pub fn run() -> Result<()> {
    bpf_object()?;
    let bin = ["--package", "egress-agent", "--bin", "egress-agent"];
    show(cargo(&["build", "--locked", "--profile", "dist"]).args(bin))?;
    let dir = target().join("dist");
    let (program, symbols) = (dir.join("egress-agent"), dir.join("egress-agent.debug"));
    split(&program, &symbols)?;
    let size = |path: &Path| -> Result<String> {
        let bytes = fs::metadata(path)?.len();
        Ok(format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10))
    };
    println!("{}: {}", program.display(), size(&program)?);
    println!("{}: {}", symbols.display(), size(&symbols)?);
    Ok(())
}

/// Moves the symbols of `program` to `symbols`. Cargo then links the changed file again in its next build.
fn split(program: &Path, symbols: &Path) -> Result<()> {
    let objcopy = |arguments: &[&str], files: &[&Path]| {
        let mut command = Command::new("objcopy");
        command.args(arguments).args(files);
        step(&format!("objcopy {}", arguments[0]), command)
            .context("cannot split the symbols off: install binutils")
    };
    objcopy(&["--only-keep-debug"], &[program, symbols])?;
    let link = format!("--add-gnu-debuglink={}", symbols.display());
    objcopy(&["--strip-all", &link], &[program])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test's own program stands for the agent.
    #[test]
    fn the_symbols_of_a_program_go_to_a_file_that_it_names() {
        let dir = target().join(format!("release-test-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (program, symbols) = (dir.join("program"), dir.join("program.debug"));
        let copied = std::env::current_exe().and_then(|own| fs::copy(own, &program));
        let split = copied
            .context("cannot copy")
            .and_then(|_| split(&program, &symbols));
        let sections = |path: &Path| {
            let out = Command::new("readelf")
                .args(["--sections", "--wide"])
                .arg(path)
                .output();
            String::from_utf8_lossy(&out.unwrap().stdout).into_owned()
        };
        let (stripped, kept) = (sections(&program), sections(&symbols));
        let runs = Command::new(&program).arg("--list").output();
        fs::remove_dir_all(&dir).unwrap();
        split.unwrap();
        assert!(!stripped.contains(".symtab") && stripped.contains(".gnu_debuglink"));
        assert!(kept.contains(".symtab"), "{kept}");
        assert!(runs.unwrap().status.success());
    }
}
