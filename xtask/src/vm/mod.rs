//! `cargo xtask vm`: the gate, the escape suite and the packets on which kernel and host must agree, on other kernels,
//! in QEMU.
//!
//! Owns the list of kernels, the programs that run in them and the expected results. `kernels`
//! provides the kernels, `guest` the machine's content.

mod guest;
mod kernels;

use crate::ebpf;
use crate::progress::{step, step_fn};
use crate::provision;
use crate::tasks;
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use kernels::{KERNELS, Kernel, Role};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The programs that the machines need, and Debian's packages of them.
const PROGRAMS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("ip", "iproute2"),
    ("strip", "binutils"),
];

/// How long one machine may run. Without hardware virtualisation it is about ten times slower than the host.
const LIMIT: Duration = Duration::from_mins(8);

/// Boots the kernel `only`, or all kernels, and prints each result.
pub fn run(only: Option<&str>, filter: &str) -> Result<()> {
    provision::programs(&PROGRAMS)?;
    tasks::build()?;
    let programs = guest::Programs {
        folder: workspace::target().join("debug"),
        packets: test_program("escape_decide")?,
    };
    let cache = ebpf::tools_dir()?.join("vm");
    let mut failed = Vec::new();
    for kernel in KERNELS {
        if only.is_some_and(|only| kernel.name != only) {
            continue;
        }
        let start = Instant::now();
        let verdict = boot(kernel, &cache, &programs, filter);
        let seconds = start.elapsed().as_secs();
        match verdict {
            Ok(line) => println!("Linux {}: {line} ({seconds} s)", kernel.name),
            Err(error) => {
                println!("Linux {}: FAILED ({seconds} s)\n{error:#}", kernel.name);
                failed.push(kernel.name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("not as it must be on Linux {}", failed.join(", "))
}

/// Runs one machine to its end, and checks its output.
fn boot(kernel: &Kernel, cache: &Path, programs: &guest::Programs, filter: &str) -> Result<String> {
    let files = kernels::fetch(kernel, cache)?;
    let initramfs = cache.join(format!("{}.cpio", kernel.name));
    step_fn(&format!("guest for Linux {}", kernel.name), || {
        guest::build(kernel, &files, programs, filter, &initramfs)
    })?;
    let console = workspace::target().join(format!("vm-{}.log", kernel.name));
    step(
        &format!("Linux {} in QEMU", kernel.name),
        qemu(&files.image, &initramfs, &console),
    )?;
    let output = std::fs::read_to_string(&console)
        .with_context(|| format!("no console at {}", console.display()))?;
    judge(kernel, &output).with_context(|| format!("its console: {}", console.display()))
}

/// Builds a suite and returns its program.
fn test_program(suite: &str) -> Result<PathBuf> {
    let arguments = ["test", "--no-run", "--package", "egress-tests", "--test"];
    let mut cargo = workspace::cargo(&arguments);
    cargo.args([suite, "--message-format=json-render-diagnostics"]);
    let output = cargo.stderr(Stdio::inherit()).output();
    let output = output.context("cannot run cargo")?;
    let lines = String::from_utf8_lossy(&output.stdout);
    let built = lines.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let of_suite = message["target"]["name"] == suite;
        let program = message["executable"].as_str().filter(|_| of_suite);
        program.map(PathBuf::from)
    });
    built.with_context(|| format!("cargo built no suite {suite}"))
}

fn qemu(image: &Path, initramfs: &Path, console: &Path) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg("--kill-after=5")
        .arg(LIMIT.as_secs().to_string())
        .arg("qemu-system-x86_64")
        // Hardware virtualisation may be offered but fail with stock kernels.
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1536",
        ])
        .args([
            "-nographic",
            "-no-reboot",
            "-nic",
            "none",
            "-monitor",
            "none",
        ])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    command
}

fn judge(kernel: &Kernel, output: &str) -> Result<String> {
    let Some(exit) = output.lines().find_map(|line| {
        line.trim()
            .strip_prefix(guest::END)?
            .trim()
            .parse::<i32>()
            .ok()
    }) else {
        bail!("it did not come to its end:\n{}", tail(output));
    };
    match kernel.role {
        Role::Suite => {
            if exit != 0 {
                bail!("it ended with {exit}:\n{}", wrong(output));
            }
            let said = |what: &str| output.lines().rev().find(|l| l.contains(what));
            let suite = said("as the page says").context("the suite said nothing")?;
            said("test result: ok. 1 passed").context("no packets were judged")?;
            let suite = suite.trim();
            Ok(format!("{suite}; kernel and host agree on 100000 packets"))
        }
        Role::Refusal => {
            let line = output.lines().find(|l| l.contains("the gate needs"));
            let line = line.with_context(|| format!("no clear refusal:\n{}", tail(output)))?;
            if exit != 71 {
                bail!("the agent ended with {exit} and not 71: {line}");
            }
            // The line starts with a control sequence of the console.
            let from = line.find("kernel").unwrap_or_default();
            Ok(format!("refused, exit 71: {}", line[from..].trim()))
        }
    }
}

/// The lines of the output that show errors.
fn wrong(output: &str) -> String {
    let lines: Vec<&str> = output
        .lines()
        .filter(|l| l.contains("NOT SO") || l.contains("escape:") || l.contains("egress-agent:"))
        .collect();
    if lines.is_empty() {
        return tail(output);
    }
    lines.join("\n")
}

fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_judged_by_its_end_and_its_role() {
        let [suite, refusal] = [Role::Suite, Role::Refusal].map(|role| {
            KERNELS
                .iter()
                .find(|k| k.role == role)
                .unwrap_or(&KERNELS[0])
        });
        let ended = |lines: &str, exit: i32| format!("{lines}\r\n{} {exit}\r\n", guest::END);
        let both = "185 of 185 as the page says\ntest result: ok. 1 passed; 0 failed";
        assert!(judge(suite, &ended(both, 0)).is_ok());
        assert!(judge(suite, &ended("185 of 185 as the page says", 0)).is_err());
        assert!(judge(suite, &ended("tcp-connect IPv4 open NOT SO", 1)).is_err());
        assert!(judge(suite, "185 of 185 as the page says\n").is_err());
        assert!(judge(refusal, &ended("kernel 5.10: the gate needs 6.1", 71)).is_ok());
        assert!(judge(refusal, &ended("kernel 5.10: the gate needs 6.1", 0)).is_err());
        assert!(judge(refusal, &ended("panic", 71)).is_err());
    }
}
