//! `release`: builds the agent without symbols, and a file with its symbols.
//!
//! Owns the two files. `deploy/image/rootfs.sh` has the image's layout.

use crate::progress::step;
use crate::tasks::bpf_object;
use crate::workspace::{cargo, show, target};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Builds `target/dist/egress-agent` and `target/dist/egress-agent.debug`. The first contains the name of the second. A
/// debugger looks for it in the same folder and below `/usr/lib/debug`.
///
/// The program is static: it runs in an image without libraries and on a node with other ones. With a target (such as
/// `aarch64-unknown-linux-gnu`), it is built for another processor, into `target/TARGET/dist`.
pub fn run(triple: Option<&str>) -> Result<()> {
    bpf_object()?;
    let bin = ["--package", "egress-agent", "--bin", "egress-agent"];
    let mut build = cargo(&["rustc", "--locked", "--profile", "dist"]);
    build.args(bin);
    let mut dir = target();
    let mut tools = String::new();
    if let Some(triple) = triple {
        build.args(["--target", triple]);
        dir = dir.join(triple);
        tools = prefix(triple)?;
        let linker = format!("{tools}gcc");
        let of_cargo = triple.to_uppercase().replace('-', "_");
        build
            .env(format!("CARGO_TARGET_{of_cargo}_LINKER"), &linker)
            .env(format!("CC_{}", triple.replace('-', "_")), &linker);
        if triple.starts_with("aarch64") {
            // The page size is part of jemalloc. Some kernels for this processor have pages of 64 KiB; a larger number than
            // the kernel's is valid.
            build.env("JEMALLOC_SYS_WITH_LG_PAGE", "16");
        }
    }
    // Only for the program: build scripts and macros run on this machine as ever.
    show(build.args(["--", "-C", "target-feature=+crt-static"]))?;
    let dir = dir.join("dist");
    let (program, symbols) = (dir.join("egress-agent"), dir.join("egress-agent.debug"));
    split(&format!("{tools}objcopy"), &program, &symbols)?;
    let size = |path: &Path| -> Result<String> {
        let bytes = fs::metadata(path)?.len();
        Ok(format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10))
    };
    println!("{}: {}", program.display(), size(&program)?);
    println!("{}: {}", symbols.display(), size(&symbols)?);
    Ok(())
}

/// How the names of the compiler and of binutils for a target begin, as Debian names them.
fn prefix(triple: &str) -> Result<String> {
    let (processor, rest) = triple.split_once('-').context("want a target triple")?;
    match rest {
        "unknown-linux-gnu" => Ok(format!("{processor}-linux-gnu-")),
        _ => bail!("{triple}: want a target with glibc, such as aarch64-unknown-linux-gnu"),
    }
}

/// Moves the symbols of `program` to `symbols`. Cargo then links the changed file again in its next build.
fn split(tool: &str, program: &Path, symbols: &Path) -> Result<()> {
    let objcopy = |arguments: &[&str], files: &[&Path]| {
        let mut command = Command::new(tool);
        command.args(arguments).args(files);
        step(&format!("{tool} {}", arguments[0]), command)
            .context("cannot split the symbols off: install binutils")
    };
    objcopy(&["--only-keep-debug"], &[program, symbols])?;
    let link = format!("--add-gnu-debuglink={}", symbols.display());
    objcopy(&["--strip-all", &link], &[program])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_of_a_target_are_those_of_debians_cross_compilers() {
        assert_eq!(
            prefix("aarch64-unknown-linux-gnu").unwrap(),
            "aarch64-linux-gnu-"
        );
        assert_eq!(
            prefix("x86_64-unknown-linux-gnu").unwrap(),
            "x86_64-linux-gnu-"
        );
        assert!(prefix("aarch64-unknown-linux-musl").is_err());
    }

    /// The test's own program stands for the agent.
    #[test]
    fn the_symbols_of_a_program_go_to_a_file_that_it_names() {
        let dir = target().join(format!("release-test-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (program, symbols) = (dir.join("program"), dir.join("program.debug"));
        let copied = std::env::current_exe().and_then(|own| fs::copy(own, &program));
        let split = copied
            .context("cannot copy")
            .and_then(|_| split("objcopy", &program, &symbols));
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
