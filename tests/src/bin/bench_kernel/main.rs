//! What the hooks cost: the same calls with and without them, interleaved, beside nft sets of the
//! same size.
//!
//! Owns the measuring. `cargo xtask bench kernel` runs it. Times are of the calls alone, so the
//! profile that this program is built in does not matter; the BPF programs are optimised always.

mod work;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use egress_agent::kernel::{self, Kernel, Tables};
use egress_core::policy::diff::{Desired, Planner};
use egress_core::policy::tables::{Action, Table, Target, Transport};
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_tests::bpffs::BpfFs;
use egress_tests::cgroup::Cgroup;
use egress_tests::client::run;
use egress_tests::netns::NetNs;
use egress_tests::place::Place;
use work::{CALLS, Call, PORT, address, measure};

#[derive(Parser)]
struct Cli {
    /// Rounds of each configuration; medians are of them.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Sizes of the tables.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,100000,1000000")]
    entries: Vec<u32>,
    /// Say what each program takes, by the kernel's own account.
    #[arg(long)]
    programs: bool,
    /// Only these calls.
    #[arg(long, value_delimiter = ',', default_values_t = CALLS)]
    calls: Vec<Call>,
    /// Leave out nft.
    #[arg(long)]
    no_nft: bool,
    /// Measure in this process: what its parent starts it for.
    #[arg(long, hide = true, requires = "spread")]
    measure: Option<Call>,
    /// Destinations.
    #[arg(long, hide = true)]
    spread: Option<u32>,
    /// Cgroup that the measured sockets are made in.
    #[arg(long, hide = true)]
    join: Option<PathBuf>,
}

/// What lists the destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Single addresses.
    Hash,
    /// Networks of two.
    Lpm,
}

/// Nanoseconds of one call.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Sample {
    wall: f64,
    cpu: f64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match (cli.measure, cli.spread) {
        (Some(call), Some(spread)) => measure(call, spread, cli.join.as_deref()),
        _ => bench(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Places of the three configurations.
struct Setup {
    hooked: Cgroup,
    plain: Cgroup,
    _agent: Cgroup,
    open: NetNs,
    nft: Option<NetNs>,
    _kernel: Kernel,
    tables: Tables,
    planner: Planner,
    _pins: BpfFs,
}

fn namespace() -> Result<NetNs> {
    let netns = NetNs::new()?;
    netns.ip("route add local 20.0.0.0/8 dev lo")?;
    Ok(netns)
}

impl Setup {
    fn new(nft: bool) -> Result<Self> {
        let pins = BpfFs::mount()?;
        let (hooked, plain, agent) = (Cgroup::new()?, Cgroup::new()?, Cgroup::new()?);
        let mut kernel = Kernel::load(pins.path())?;
        let tables = kernel.tables()?;
        kernel::attach(&mut kernel, agent.path(), &[hooked.path().to_path_buf()])?;
        Ok(Self {
            hooked,
            plain,
            _agent: agent,
            open: namespace()?,
            nft: nft.then(namespace).transpose()?,
            _kernel: kernel,
            tables,
            planner: Planner::default(),
            _pins: pins,
        })
    }

    /// Fills the tables so that `entries` stand in them; returns how many destinations that lists.
    fn fill(&mut self, kind: Kind, entries: u32) -> Result<u32> {
        // Each destination takes two entries, one for each transport.
        let destinations = (entries / 2).max(1);
        let mut table = Table::new();
        for n in 0..destinations {
            for transport in [Transport::Tcp, Transport::Udp] {
                match kind {
                    Kind::Hash => {
                        let target = Target::address(IpAddr::V4(address(n)), PORT, transport);
                        table.insert(target, Action::Allow);
                    }
                    Kind::Lpm => {
                        let net = format!("{}/31", address(n)).parse()?;
                        let targets = Target::network(net, PORT, transport);
                        table.extend(targets.into_iter().map(|t| (t, Action::Allow)));
                    }
                }
            }
        }
        // Through an empty table, so that there is room for the largest.
        for table in [Table::new(), table] {
            let desired = Desired {
                table,
                ..Desired::default()
            };
            let ops = self
                .planner
                .replace(BTreeMap::from([(DEFAULT_POLICY, desired)]));
            self.tables.fits(&ops)?;
            self.tables.apply(&ops)?;
        }
        if let Some(netns) = &self.nft {
            nft(netns, kind, destinations)?;
        }
        Ok(destinations)
    }

    fn sample(&self, call: Call, spread: u32, hooks: bool, nft: bool) -> Result<Sample> {
        let place = Place {
            cgroup: None,
            netns: Some(match &self.nft {
                Some(netns) if nft => netns,
                _ => &self.open,
            }),
            resolver: None,
        };
        let mut command = place.command(env::current_exe()?)?;
        let name = call.to_possible_value().context("a call has a name")?;
        command.args([
            "--measure",
            name.get_name(),
            "--spread",
            &spread.to_string(),
        ]);
        let cgroup = if hooks { &self.hooked } else { &self.plain };
        command.arg("--join").arg(cgroup.path());
        let ended = run(command, Duration::from_mins(2))?;
        let mut numbers = ended.stdout.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(wall)), Some(Ok(cpu))) => Ok(Sample { wall, cpu }),
            _ => bail!("{} failed: {}{}", call.name(), ended.stdout, ended.stderr),
        }
    }
}

/// A set of the same destinations, and a rule that drops what is not in it.
fn nft(netns: &NetNs, kind: Kind, destinations: u32) -> Result<()> {
    let flags = if kind == Kind::Lpm {
        "flags interval;"
    } else {
        ""
    };
    let mut script = format!(
        "flush ruleset\ntable inet bench {{\n set listed {{ type ipv4_addr . inet_proto . inet_service; {flags} }}\n \
         chain out {{ type filter hook output priority 0; policy drop;\n  tcp sport {PORT} accept\n  \
         ip daddr . ip protocol . th dport @listed accept\n }}\n}}\n"
    );
    let numbers: Vec<u32> = (0..destinations).collect();
    for chunk in numbers.chunks(5000) {
        script.push_str("add element inet bench listed {");
        for n in chunk {
            let length = if kind == Kind::Lpm { "/31" } else { "" };
            for protocol in ["tcp", "udp"] {
                write!(script, "{}{length} . {protocol} . {PORT},", address(*n))?;
            }
        }
        script.push_str("}\n");
    }
    let path = netns.path();
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", path.display()))
        .args(["nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run nft: install nftables, or use --no-nft")?;
    let mut stdin = child.stdin.take().context("nft has a pipe")?;
    stdin.write_all(script.as_bytes())?;
    drop(stdin);
    if !child.wait()?.success() {
        bail!("nft refused the set");
    }
    Ok(())
}

fn bench(cli: &Cli) -> Result<()> {
    let mut setup = Setup::new(!cli.no_nft)?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!(
        "kernel {}, load {}",
        rustix::system::uname().release().to_string_lossy(),
        load.trim()
    );
    println!(
        "ns of one call: median (min to max) wall, median cpu; {} rounds, interleaved",
        cli.rounds
    );
    for kind in [Kind::Hash, Kind::Lpm] {
        let limit = match kind {
            Kind::Hash => setup.tables.room().0.limit,
            Kind::Lpm => setup.tables.room().1.limit,
        };
        for entries in &cli.entries {
            let entries = (*entries).min(u32::try_from(limit)?);
            let spread = setup.fill(kind, entries)?;
            println!("\n{kind:?}, {entries} entries");
            for call in &cli.calls {
                compare(&setup, *call, spread, cli)?;
            }
        }
    }
    Ok(())
}

fn compare(setup: &Setup, call: Call, spread: u32, cli: &Cli) -> Result<()> {
    let (mut none, mut hooks, mut nft) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..cli.rounds {
        none.push(setup.sample(call, spread, false, false)?);
        hooks.push(setup.sample(call, spread, true, false)?);
        if !cli.no_nft {
            nft.push(setup.sample(call, spread, false, true)?);
        }
    }
    let mut line = format!("  {:<20} none {}", call.name(), shown(&none));
    for (name, samples) in [("hooks", &hooks), ("nft", &nft)] {
        if !samples.is_empty() {
            let added = |of: fn(&[Sample]) -> f64| (of(samples) - of(&none), of(&none));
            let (middle, least) = (added(|s| median(s).cpu), added(least_cpu));
            write!(
                line,
                "\n  {:<20} {name:<5}{}  cpu {:+.0} ns ({:+.1} %), at least {:+.0} ns ({:+.1} %)",
                "",
                shown(samples),
                middle.0,
                100.0 * middle.0 / middle.1,
                least.0,
                100.0 * least.0 / least.1,
            )?;
        }
    }
    println!("{line}");
    if cli.programs {
        programs(setup, call, spread)?;
    }
    Ok(())
}

/// Runs and time of each program in one more sample (`kernel.bpf_stats_enabled`).
fn programs(setup: &Setup, call: Call, spread: u32) -> Result<()> {
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    let read = || -> Result<BTreeMap<u32, (String, u64, Duration)>> {
        let mut all = BTreeMap::new();
        for info in aya::programs::loaded_programs() {
            let info = info?;
            let name = info.name_as_str().unwrap_or_default().to_owned();
            all.insert(info.id(), (name, info.run_count(), info.run_time()));
        }
        Ok(all)
    };
    let before = read()?;
    setup.sample(call, spread, true, false)?;
    for (id, (name, runs, time)) in read()? {
        let (runs_before, time_before) = before
            .get(&id)
            .map_or((0, Duration::ZERO), |(_, r, t)| (*r, *t));
        let runs = runs - runs_before;
        // Programs of other gates on this machine run too, but not as often.
        if runs >= u64::from(call.times()) {
            let each = time.saturating_sub(time_before).as_nanos() / u128::from(runs);
            println!("  {:<20}   {name}: {runs} runs of {each} ns", "");
        }
    }
    Ok(())
}

/// The medians of each column on its own.
fn median(samples: &[Sample]) -> Sample {
    let middle = |of: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Sample {
        wall: middle(|s| s.wall),
        cpu: middle(|s| s.cpu),
    }
}

/// The least of all samples: what the work takes when nothing comes in between.
fn least_cpu(samples: &[Sample]) -> f64 {
    samples.iter().map(|s| s.cpu).fold(f64::MAX, f64::min)
}

fn shown(samples: &[Sample]) -> String {
    let Sample { wall, cpu } = median(samples);
    let walls = || samples.iter().map(|s| s.wall);
    let (min, max) = (
        walls().fold(f64::MAX, f64::min),
        walls().fold(0.0, f64::max),
    );
    let least = least_cpu(samples);
    format!("{wall:>7.0} ({min:.0} to {max:.0}), cpu {cpu:>6.0} (from {least:.0})")
}
