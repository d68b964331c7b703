//! The verbs that build and run: setup, build, run, test.
//!
//! Owns the order of their steps and which of them need root. Tools come from `provision`, the
//! BPF object from `ebpf`.

use crate::clients;
use crate::ebpf;
use crate::privilege::{self, Privilege};
use crate::progress::step_fn;
use crate::promtool;
use crate::provision;
use crate::workspace::{all, cargo, root, show, target};
use anyhow::{Context as _, Result, bail};
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Finds or installs the tools, and prints which ones are used.
pub fn setup() -> Result<()> {
    let toolchain = provision::toolchain()?;
    provision::test_programs()?;
    provision::envoy()?;
    promtool::find_or_install()?;
    eprintln!(
        "xtask: BPF compiler: {} ({})",
        toolchain.name,
        toolchain.rustc.display()
    );
    eprintln!("xtask: BPF linker: {}", toolchain.linker.display());
    Ok(())
}

/// Builds everything that `run` and `test` execute.
pub fn build_all() -> Result<()> {
    // First, because it installs the compiler that the next agent needs too.
    bpf_object()?;
    next_agent()?;
    build()
}

/// Builds the agent that the tests upgrade to, beside the ordinary one. Both builds name the same packages, so that
/// they share their dependencies.
fn next_agent() -> Result<()> {
    show(&mut cargo(&[
        "build",
        "--package",
        "egress-agent",
        "--package",
        "egress-tests",
        "--bin",
        "egress-agent",
        "--features",
        "egress-agent/next",
    ]))?;
    let folder = target().join("debug");
    let (built, fresh) = (
        folder.join("egress-agent"),
        folder.join(".egress-agent-next"),
    );
    // A rename, because a running program cannot be overwritten.
    fs::copy(&built, &fresh).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(fs::rename(fresh, folder.join("egress-agent-next"))?)
}

/// Builds the agent and the lab, without programs that only tests run.
pub fn build() -> Result<()> {
    bpf_object()?;
    show(&mut cargo(&[
        "build",
        "--package",
        "egress-agent",
        "--package",
        "egress-tests",
        "--bins",
    ]))
}

/// Builds the BPF object, so that the agent's build script finds it fresh. The agent's other parts need programs too.
pub fn bpf_object() -> Result<()> {
    provision::build_programs()?;
    if env::var_os("EGRESS_BPF_OBJECT").is_some() {
        return Ok(());
    }
    let toolchain = provision::toolchain()?;
    step_fn(&format!("BPF programs with {}", toolchain.name), || {
        ebpf::build(&toolchain, root(), &target(), false)
    })?;
    Ok(())
}

/// Runs the lab, or the agent if there are arguments.
pub fn run(keep: bool, agent: &[String]) -> Result<()> {
    let lab = agent.is_empty();
    if !lab && keep {
        bail!("--keep is the lab's: it takes no arguments for the agent");
    }
    let root_access = root_access()?;
    if lab {
        provision::test_programs()?;
    }
    build()?;
    let binaries = target().join("debug");
    let mut command = root_access.command(
        &binaries
            .join(if lab { "lab" } else { "egress-agent" })
            .to_string_lossy(),
    );
    if lab {
        command.args(keep.then_some("--keep"));
    } else {
        command.arg("run").args(agent);
    }
    // It replaces xtask, so that Ctrl-C and SIGTERM reach the program that cleans up, and the shell waits for it.
    let program = command.get_program().display().to_string();
    Err(command.exec()).with_context(|| format!("cannot run {program}"))
}

/// Unit tests as the user, then the suites on the real kernel as root. With a filter: all tests of the suites with that
/// name, or, if there is no such suite, every test with that name.
pub fn test(filter: Option<&str>) -> Result<()> {
    let root_access = root_access()?;
    provision::test_programs()?;
    provision::container_programs()?;
    provision::envoy()?;
    clients::install()?;
    promtool::find_or_install()?;
    build_all()?;
    let suites = |which: &str| {
        let mut cargo = cargo(&["test", "--no-fail-fast", "--workspace", "--test", which]);
        if let Some(runner) = root_access.runner() {
            cargo.env(runner_variable(), runner);
        }
        cargo
    };
    if let Some(name) = filter.filter(|name| is_suite(name)) {
        return show(&mut suites(&format!("*{name}*")));
    }
    let parts = [
        cargo(&["test", "--no-fail-fast", "--workspace", "--lib", "--bins"]),
        cargo(&["test", "--no-fail-fast", "--workspace", "--doc"]),
        suites("*"),
    ];
    // Every part runs, even if an earlier one failed.
    let mut passed = 0;
    all(parts.map(|mut part| {
        passed += show_tests(part.args(filter))?;
        Ok(())
    }))?;
    match filter {
        Some(name) if passed == 0 => bail!("no suite and no test has {name} in its name"),
        _ => Ok(()),
    }
}

/// Whether a suite of the workspace has this in its name.
fn is_suite(part: &str) -> bool {
    ["egress-agent", "egress-agent/core", "tests"]
        .iter()
        .filter_map(|package| fs::read_dir(root().join(package).join("tests")).ok())
        .flat_map(Iterator::flatten)
        .filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()))
        .any(|suite| suite.contains(part))
}

/// [`show`] for a `cargo test`. Returns the number of passed tests.
fn show_tests(command: &mut Command) -> Result<usize> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let output = child.stdout.take().context("a pipe")?;
    let mut passed = 0;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        passed += passed_in(&line).unwrap_or(0);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("tests failed: {status}");
    }
    Ok(passed)
}

/// The number in a line `test result: ok. N passed; ...`.
fn passed_in(line: &str) -> Option<usize> {
    let result = line.strip_prefix("test result: ok. ")?;
    result.split_once(" passed")?.0.parse().ok()
}

/// The pages that are made from tables in the code, and the program with its arguments that prints each.
const PAGES: [(&str, &[&str]); 2] = [
    ("docs/escape-matrix.md", &["escape", "page"]),
    ("docs/metrics.md", &["metrics_page"]),
];

/// Writes these pages, or with `check` compares them.
pub fn docs(check: bool) -> Result<()> {
    all(PAGES.map(|(page, program)| write_page(page, program, check)))
}

fn write_page(page: &str, program: &[&str], check: bool) -> Result<()> {
    let mut cargo = cargo(&["run", "--quiet", "--package", "egress-tests", "--bin"]);
    let (name, arguments) = program.split_first().context("a program")?;
    let made = cargo.arg(name).arg("--").args(arguments).output();
    let made = made.context("cannot run cargo")?;
    if !made.status.success() {
        bail!("{}", String::from_utf8_lossy(&made.stderr));
    }
    let path = root().join(page);
    if check {
        if fs::read(&path).unwrap_or_default() != made.stdout {
            bail!("{page} is not what `cargo xtask docs` writes");
        }
        return Ok(());
    }
    fs::write(&path, made.stdout).with_context(|| format!("cannot write {page}"))
}

fn root_access() -> Result<Privilege> {
    privilege::find().context(
        "this loads BPF programs and makes network namespaces: it needs root, or sudo; it does not skip what it cannot run",
    )
}

/// The name of cargo's variable for the runner of test binaries.
fn runner_variable() -> String {
    format!(
        "CARGO_TARGET_{}_UNKNOWN_LINUX_{}_RUNNER",
        env::consts::ARCH.to_uppercase(),
        if cfg!(target_env = "musl") {
            "MUSL"
        } else {
            "GNU"
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_found_by_a_part_of_its_name() {
        for name in ["hardening", "pods_cont", "escape", "istio_decode"] {
            assert!(is_suite(name), "{name}");
        }
        assert!(!is_suite("no_such_suite"));
    }

    #[test]
    fn what_passed_is_read_from_the_line_that_says_so() {
        let line = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";
        assert_eq!(passed_in(line), Some(12));
        assert_eq!(passed_in("test a_name ... ok"), None);
    }
}
