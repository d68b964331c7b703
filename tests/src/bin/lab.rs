//! The lab as a program: walks through it over IPv4 and IPv6, or keeps it running.
//!
//! Owns the output and the exit code. `walk` has the steps.

use anyhow::{Result, bail};
use clap::Parser;
use egress_tests::lab::{Family, Lab, LabOptions};
use egress_tests::wait::{end_waits_on_signals, interrupted};
use egress_tests::wait_until;
use egress_tests::walk::{Row, walk};
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Walk through the lab, with the real agent, the real kernel and hosts of its own.
#[derive(Parser)]
struct Cli {
    /// Keep the lab running until Ctrl-C, and print the lines to paste in another terminal.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    // Ctrl-C ends the waits, not the process, so that the guards can clean up.
    end_waits_on_signals();
    let cli = Cli::parse();
    match if cli.keep { keep() } else { walk_both() } {
        Ok(()) => ExitCode::SUCCESS,
        // Ctrl-C also reaches curl, which may report it first.
        Err(_) if interrupted() => {
            eprintln!("lab: interrupted");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn walk_both() -> Result<()> {
    let start = Instant::now();
    let (mut agreed, mut all) = (0, 0);
    for (name, family) in [("IPv4", Family::V4), ("IPv6", Family::V6)] {
        println!(
            "\n{name}\n{:<4} {:<33} {:<61} {:<8} seen",
            "step", "what", "expected", "passed"
        );
        for row in walk(family, &mut print)? {
            all += 1;
            agreed += usize::from(row.agreed);
        }
    }
    println!(
        "\n{agreed} of {all} steps passed in {:.1} s",
        start.elapsed().as_secs_f32()
    );
    if agreed != all {
        bail!("{} of the lab's steps failed", all - agreed);
    }
    Ok(())
}

fn print(row: &Row) {
    let agreed = if row.agreed { "yes" } else { "NO" };
    println!(
        "{:<4} {:<33} {:<61} {agreed:<8} {}",
        row.step, row.action, row.expected, row.seen
    );
    let _ = std::io::stdout().flush();
}

fn keep() -> Result<()> {
    let mut lab = Lab::start_with(LabOptions {
        family: Family::Dual,
        ..LabOptions::default()
    })?;
    let etc = lab.resolver().path().display().to_string();
    println!(
        "The lab is up; nothing is listed yet. Ctrl-C here removes it. In another terminal, as root:\n"
    );
    println!("# a shell whose traffic the gate judges");
    println!(
        "unshare --mount sh -c 'for f in resolv.conf nsswitch.conf; do mount --bind {etc}/$f /etc/$f; done; \
         echo $$ > {}/client/cgroup.procs; export CURL_CA_BUNDLE={}; exec nsenter --net={} bash'",
        lab.workloads().path().display(),
        lab.authority().path().display(),
        lab.node().path().display(),
    );
    println!("\n# in it, before and after the rules");
    println!(
        "curl http://httpbin.org/headers; curl https://www.google.com; curl -w '%{{http_code}}\\n' http://httpbin.org/delay/5"
    );
    println!("\n# the rules: copy, edit or remove");
    println!(
        "cp examples/httpbin-serviceentry.yaml examples/google.yaml examples/httpbin-timeout.yaml {}/",
        lab.rules_dir().display()
    );
    println!("\nThe agent's log:");
    let mut seen = 0;
    while !interrupted() {
        let agent = lab.agent()?;
        for line in agent.log_since(seen) {
            println!("{line}");
            seen += 1;
        }
        if !agent.is_running() {
            bail!("the agent ended:\n{}", agent.tail());
        }
        // Waits for a line of the log or Ctrl-C. The limit lets the loop check that the agent still runs.
        let _ = wait_until("another line", Duration::from_secs(1), || {
            (agent.mark() > seen).then_some(())
        });
    }
    Ok(())
}
