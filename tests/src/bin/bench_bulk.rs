//! The time of long transfers over one connection with and without the gate, interleaved: direct TCP over lo, a veth
//! and a device with BIG TCP; HTTP and TLS through the proxy, up and down.
//!
//! Owns the measurement. `cargo xtask bench bulk` runs it, with the agent and the hosts in cargo's dev profile. Direct
//! transfers do not pass through these programs, but proxied ones do. A transfer that stalls is an error.

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use egress_tests::agent::beside;
use egress_tests::cgroup::Cgroup;
use egress_tests::lab::{host, v4, v6};
use egress_tests::place::Place;
use egress_tests::rules::each_way;
use egress_tests::{Lab, client};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

const MB: usize = 1 << 20;
/// The client ends earlier if a transfer stalls.
const LIMIT: Duration = Duration::from_mins(5);

#[derive(Parser)]
struct Cli {
    /// Transfers of each kind with the gate, and the same number without it.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Megabytes of each transfer, in each direction if there are two.
    #[arg(long, default_value_t = 200)]
    megabytes: usize,
    /// Leave out transfers through the proxy.
    #[arg(long)]
    straight: bool,
}

/// One kind of transfer.
#[derive(Clone, Copy)]
enum Transfer {
    /// To a server of the workload's own, and back.
    Own(IpAddr),
    /// To the echo host and back at once.
    Echo(IpAddr),
    /// One way through the proxy.
    Proxied {
        url: &'static str,
        at: IpAddr,
        upload: bool,
    },
}

fn main() -> ExitCode {
    egress_tests::bench::end(bench(&Cli::parse()))
}

fn bench(cli: &Cli) -> Result<()> {
    let bench = Bench::new(cli)?;
    println!("{}", egress_tests::bench::machine()?);
    println!(
        "seconds of {} MB: median (min to max) without and with the gate, then the median of the \
         pairs' ratios; {} rounds, interleaved",
        cli.megabytes, cli.rounds
    );
    let home: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for at in home {
        bench.compare("TCP, lo, MTU 65536", Transfer::Own(at))?;
    }
    for (name, size) in [("TCP, veth", 65_536), ("TCP, veth, BIG TCP", 196_608)] {
        bench.segments(size)?;
        for at in [v4(host::ECHO), v6(host::ECHO)] {
            bench.compare(name, Transfer::Echo(at))?;
        }
    }
    bench.segments(65_536)?;
    if cli.straight {
        return Ok(());
    }
    let hosts = [
        ("HTTP", "http://httpbin.org", host::HTTPBIN),
        ("TLS", "https://www.google.com", host::GOOGLE),
    ];
    for (name, url, host) in hosts {
        for (way, upload) in [("up", true), ("down", false)] {
            for at in [v4(host), v6(host)] {
                let transfer = Transfer::Proxied { url, at, upload };
                bench.compare(&format!("{name} by the proxy, {way}"), transfer)?;
            }
        }
    }
    Ok(())
}

struct Bench {
    lab: Lab,
    /// Outside every enforced root.
    plain: Cgroup,
    /// What is uploaded.
    file: tempfile::NamedTempFile,
    rounds: usize,
    bytes: usize,
}

impl Bench {
    fn new(cli: &Cli) -> Result<Self> {
        let lab = Lab::start()?;
        lab.rules("rules.yaml", &each_way())?;
        lab.node().ip("link set lo mtu 65536")?;
        let (file, bytes) = (tempfile::NamedTempFile::new()?, cli.megabytes * MB);
        File::set_len(file.as_file(), bytes as u64)?;
        Ok(Self {
            lab,
            plain: Cgroup::new()?,
            file,
            rounds: cli.rounds,
            bytes,
        })
    }

    /// Sets the largest segment of the cable's devices.
    fn segments(&self, size: u32) -> Result<()> {
        self.lab.node().segments("out0", size)?;
        self.lab.outside().segments("node0", size)
    }

    fn compare(&self, name: &str, transfer: Transfer) -> Result<()> {
        let gated = self.lab.client_place();
        let open = Place {
            cgroup: Some(&self.plain),
            ..gated
        };
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            // Each goes first equally often.
            for turn in 0..2 {
                if (round + turn) % 2 == 0 {
                    without.push(self.seconds(&open, transfer)?);
                } else {
                    with.push(self.seconds(&gated, transfer)?);
                }
            }
        }
        let ratios = with
            .iter()
            .zip(&without)
            .map(|(with, without)| with / without);
        let ratio = Spread::of(ratios.collect());
        let family = match transfer {
            Transfer::Own(at) | Transfer::Echo(at) | Transfer::Proxied { at, .. } => {
                if at.is_ipv4() { "IPv4" } else { "IPv6" }
            }
        };
        println!(
            "  {name:<24} {family}  {}  {}  ×{}",
            Spread::of(without).shown(),
            Spread::of(with).shown(),
            ratio.shown()
        );
        Ok(())
    }

    /// The time of one transfer. Fails if it stalls.
    fn seconds(&self, place: &Place<'_>, transfer: Transfer) -> Result<f64> {
        match transfer {
            Transfer::Own(at) => self.bulk(place, "own", SocketAddr::new(at, 0)),
            Transfer::Echo(at) => self.bulk(place, "echo", SocketAddr::new(at, 7)),
            Transfer::Proxied { url, at, upload } => self.curl(place, url, at, upload),
        }
    }

    fn bulk(&self, place: &Place<'_>, way: &str, at: SocketAddr) -> Result<f64> {
        let mut command = place.command(beside("bulk")?)?;
        command.args([way, &at.to_string(), &self.bytes.to_string()]);
        let ended = client::run(command, LIMIT)?;
        if ended.exit != 0 {
            bail!("{way} {at}: {}", ended.stderr.trim());
        }
        let report: serde_json::Value = serde_json::from_str(&ended.stdout)?;
        report["seconds"]
            .as_f64()
            .context("the client says how long")
    }

    fn curl(&self, place: &Place<'_>, url: &str, at: IpAddr, upload: bool) -> Result<f64> {
        let mut command = place.command("curl")?;
        // A transfer with less than 1 kB/s for ten seconds stalls.
        command.args([
            "-q",
            "-sS",
            "--noproxy",
            "*",
            "--fail",
            "-Y",
            "1000",
            "-y",
            "10",
        ]);
        command.arg("--cacert").arg(self.lab.authority().path());
        let (host, port) = match url.split_once("://") {
            Some(("https", host)) => (host, 443),
            Some((_, host)) => (host, 80),
            None => bail!("a URL has a scheme"),
        };
        let at = match at {
            IpAddr::V4(at) => at.to_string(),
            IpAddr::V6(at) => format!("[{at}]"),
        };
        command.args(["--resolve", &format!("{host}:{port}:{at}")]);
        command.args(["-o", "/dev/null", "-w"]);
        if upload {
            command.args(["%{time_total} %{size_upload}", "-H", "Expect:", "-T"]);
            command.arg(self.file.path()).arg(format!("{url}/sink"));
        } else {
            command.arg("%{time_total} %{size_download}");
            command.arg(format!("{url}/bytes/{}", self.bytes));
        }
        let ended = client::run(command, LIMIT)?;
        let way = if upload { "upload to" } else { "download from" };
        let mut facts = ended.stdout.split_whitespace();
        match (ended.exit, facts.next(), facts.next()) {
            (0, Some(seconds), Some(moved)) if moved == self.bytes.to_string() => {
                Ok(seconds.parse()?)
            }
            _ => bail!(
                "{way} {url} at {at}: exit {}, {} {}",
                ended.exit,
                ended.stdout.trim(),
                ended.stderr.trim()
            ),
        }
    }
}

struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
        Self {
            min: at(0),
            median: at(values.len() / 2),
            max: at(values.len().saturating_sub(1)),
        }
    }

    fn shown(&self) -> String {
        format!("{:.2} ({:.2} to {:.2})", self.median, self.min, self.max)
    }
}
