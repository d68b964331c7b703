//! Processor time of the agent alone: a request on a kept connection, one on a new connection, a megabyte of HTTP and of
//! TLS up and down.
//!
//! Owns the measurement. With another agent, both are measured in alternating rounds.

use crate::Cli;
use anyhow::{Context as _, Result, bail};
use egress_tests::agent::beside;
use egress_tests::lab::{host, v4};
use egress_tests::rules::each_way;
use egress_tests::{Lab, LabOptions, client};
use std::net::SocketAddr;
use std::time::Duration;

const LIMIT: Duration = Duration::from_mins(5);

/// The agents that are measured, each in a lab of its own.
struct Labs {
    /// The other one first.
    all: Vec<(&'static str, Lab)>,
    rounds: usize,
}

/// Measures, and prints a line for each agent and kind.
pub(crate) fn bench(cli: &Cli) -> Result<()> {
    let other = cli.against.clone().map(|binary| ("against", Some(binary)));
    let mut all = Vec::new();
    for (name, binary) in other.into_iter().chain([("this", None)]) {
        let options = LabOptions {
            binary,
            ..LabOptions::default()
        };
        let lab = Lab::start_with(options)?;
        lab.rules("rules.yaml", &each_way())?;
        all.push((name, lab));
    }
    let mut labs = Labs {
        all,
        rounds: cli.rounds,
    };
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!(
        "median of {} (min to max), load {}",
        cli.rounds,
        load.trim()
    );
    let target = SocketAddr::new(v4(host::HTTPBIN), 80).to_string();
    for (name, verb) in [
        ("request, kept connection", "requests"),
        ("request, fresh connection", "hammer"),
    ] {
        let count = cli.requests.to_string();
        let arguments = [
            verb,
            "--host",
            "httpbin.org",
            "--count",
            &count,
            "--threads",
            "8",
            &target,
        ];
        let unit = cli.requests.into();
        labs.measure(name, unit, |lab| {
            let mut command = lab.command(beside("busy")?.to_str().context("a path")?)?;
            command.args(arguments);
            let ended = client::run(command, LIMIT)?;
            let report: serde_json::Value = serde_json::from_str(&ended.stdout)?;
            if report["failed"] != 0 {
                bail!("{report}");
            }
            Ok(())
        })?;
    }
    let bytes = u64::from(cli.megabytes) << 20;
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(bytes)?;
    let path = file.path().to_str().context("a path")?;
    let down = format!("/bytes/{bytes}");
    for (name, url, way) in [
        ("MB of HTTP, up", "http://httpbin.org", None),
        ("MB of HTTP, down", "http://httpbin.org", Some(&down)),
        ("MB of TLS, up", "https://www.google.com", None),
        ("MB of TLS, down", "https://www.google.com", Some(&down)),
    ] {
        labs.measure(name, cli.megabytes.into(), |lab| {
            let mut arguments = vec!["--fail", "-o", "/dev/null"];
            let authority = lab.authority().path().to_owned();
            let authority = authority.to_str().context("a path")?;
            arguments.extend(["--cacert", authority]);
            let url = if let Some(down) = way {
                format!("{url}{down}")
            } else {
                arguments.extend(["-H", "Expect:", "-T", path]);
                format!("{url}/sink")
            };
            arguments.push(&url);
            let reply = lab.curl(&arguments)?;
            if reply.code != 200 {
                bail!("{url}: {reply:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

impl Labs {
    /// Prints microseconds of each agent for each of `units`.
    fn measure(
        &mut self,
        what: &str,
        units: f64,
        mut run: impl FnMut(&mut Lab) -> Result<()>,
    ) -> Result<()> {
        let mut times = vec![Vec::new(); self.all.len()];
        for round in 0..self.rounds {
            let mut order: Vec<usize> = (0..self.all.len()).collect();
            order.rotate_left(round % self.all.len());
            for at in order {
                let lab = &mut self.all[at].1;
                let before = lab.agent()?.cpu()?;
                run(lab)?;
                let took = lab.agent()?.cpu()?.saturating_sub(before);
                times[at].push(took.as_secs_f64() * 1e6 / units);
            }
        }
        for ((name, _), mut all) in self.all.iter().zip(times) {
            all.sort_by(f64::total_cmp);
            let median = all.get(all.len() / 2);
            if let (Some(min), Some(median), Some(max)) = (all.first(), median, all.last()) {
                println!("  {what:<26} {name:<7} {median:8.1} µs ({min:.1} to {max:.1})");
            }
        }
        Ok(())
    }
}
