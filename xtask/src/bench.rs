//! The verb `bench`: builds a bench and runs it as root.
//!
//! Owns the list of benches. `tests/src/bin/bench_*.rs` measure.

use crate::{privilege, provision, tasks, workspace};
use anyhow::{Context as _, Result};
use clap::ValueEnum;

/// A bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Cost of the hooks, compared with no hooks, nft sets or another agent's hooks.
    Kernel,
    /// Time of long transfers with the gate and without it.
    Bulk,
    /// The agent's processor time for traffic through the proxy, in release builds.
    Proxy,
    /// Cost of denials and of a changed object with many rules, in release builds.
    Rules,
    /// Millions of requests of all kinds while the rules change every second, in release builds.
    Soak,
    /// Changes in the Kubernetes API with many objects and pods, in release builds.
    Api,
    /// The API server is away for an hour, in release builds.
    Outage,
    /// The agent's DNS server beside dnsdist, dnsmasq and unbound, in release builds.
    Dns,
    /// Cost of edits, starts, restarts and names with many policies, in release builds.
    Scale,
}

/// Runs a bench with these arguments.
pub fn run(bench: Bench, arguments: &[String]) -> Result<()> {
    let root = privilege::find().context("a bench loads BPF programs: it needs root, or sudo")?;
    let program = match bench {
        Bench::Kernel => {
            let without =
                |argument: &String| argument == "--no-nft" || argument.starts_with("--against");
            if !arguments.iter().any(without) {
                provision::programs(&[("nft", "nftables")])?;
            }
            "bench_kernel"
        }
        Bench::Bulk => "bench_bulk",
        Bench::Proxy => {
            if arguments.iter().any(|argument| argument == "--peers") {
                provision::programs(&[
                    ("h2load", "nghttp2-client"),
                    ("haproxy", "haproxy"),
                    ("nginx", "nginx"),
                    (
                        "/usr/lib/nginx/modules/ngx_stream_module.so",
                        "libnginx-mod-stream",
                    ),
                ])?;
                provision::envoy()?;
            }
            "bench_proxy"
        }
        Bench::Rules => "bench_rules",
        Bench::Api => "bench_api",
        Bench::Outage => "bench_outage",
        Bench::Dns => {
            provision::programs(&[
                ("dnsperf", "dnsperf"),
                ("dnsdist", "dnsdist"),
                ("dnsmasq", "dnsmasq-base"),
                ("unbound", "unbound"),
            ])?;
            "bench_dns"
        }
        Bench::Scale => "bench_scale",
        Bench::Soak => "bench_soak",
    };
    tasks::build()?;
    let mut profile = "debug";
    if !matches!(bench, Bench::Kernel | Bench::Bulk) {
        // The bench measures the agent's own code.
        workspace::show(&mut workspace::cargo(&["build", "--release", "--bins"]))?;
        profile = "release";
    }
    let program = workspace::target().join(profile).join(program);
    let mut command = root.command(&program.to_string_lossy());
    command.args(arguments);
    workspace::show(&mut command)
}
