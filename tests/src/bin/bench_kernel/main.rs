//! What the hooks cost: the same calls with and without them, interleaved, beside nft sets of the
//! same size.
//!
//! Owns the measuring. `cargo xtask bench kernel` runs it. Times are of the calls alone, so the
//! profile that this program is built in does not matter; the BPF programs are optimised always.

mod work;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use egress_agent::config::DEFAULT_MAX_NETWORKS;
use egress_agent::kernel::{self, Kernel, Tables};
use egress_core::policy::diff::{Desired, Planner};
use egress_core::policy::tables::{Action, Table, Target, Transport};
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_tests::bpffs::BpfFs;
use egress_tests::cgroup::Cgroup;
use egress_tests::netns::NetNs;
use egress_tests::place::Place;
use work::{CALLS, Call, PORT, address, serve};

#[derive(Parser)]
struct Cli {
    /// Rounds: in each, every configuration has one batch of calls. Medians are of them.
    #[arg(long, default_value_t = 61)]
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
        (Some(call), Some(spread)) => serve(call, spread, cli.join.as_deref()),
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
    governed: NetNs,
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
        let mut kernel = Kernel::load(pins.path(), DEFAULT_MAX_NETWORKS)?;
        let tables = kernel.tables()?;
        kernel::attach(&mut kernel, agent.path(), &[hooked.path().to_path_buf()])?;
        Ok(Self {
            hooked,
            plain,
            _agent: agent,
            open: namespace()?,
            governed: namespace()?,
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

    /// A process that makes calls in the place of one configuration.
    fn worker(&self, call: Call, spread: u32, config: Config) -> Result<Worker> {
        let netns = match config {
            Config::None => &self.open,
            Config::Hooks => &self.governed,
            Config::Nft => self.nft.as_ref().context("nft was left out")?,
        };
        let place = Place {
            cgroup: None,
            netns: Some(netns),
            resolver: None,
        };
        let name = call.to_possible_value().context("a call has a name")?;
        let cgroup = match config {
            Config::Hooks => &self.hooked,
            Config::None | Config::Nft => &self.plain,
        };
        let mut child = place
            .command(env::current_exe()?)?
            .args(["--measure", name.get_name()])
            .args(["--spread", &spread.to_string()])
            .arg("--join")
            .arg(cgroup.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("a worker has an input")?;
        let stdout = child.stdout.take().context("a worker has an output")?;
        let mut worker = Worker {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        // To warm up.
        worker.batch()?;
        Ok(worker)
    }
}

/// What stands between the calls and the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Config {
    None,
    Hooks,
    Nft,
}

impl Config {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hooks => "hooks",
            Self::Nft => "nft",
        }
    }
}

/// A process that makes a batch of calls when it is told to.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn batch(&mut self) -> Result<Sample> {
        self.stdin.write_all(b"\n")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(wall)), Some(Ok(cpu))) => Ok(Sample { wall, cpu }),
            _ => bail!("a worker ended early; it says why above"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
        "ns of one call: median cpu (min to max), median wall; then what is added to it, pair by \
         pair: median (middle half), share; {} rounds, interleaved",
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
    let configs = [Config::None, Config::Hooks, Config::Nft];
    let configs = &configs[..if cli.no_nft { 2 } else { 3 }];
    let mut workers = Vec::new();
    for config in configs {
        workers.push((setup.worker(call, spread, *config)?, Vec::new()));
    }
    for round in 0..cli.rounds {
        // Each goes first as often as the others: what one leaves to be freed, the next may pay.
        for turn in 0..configs.len() {
            let (worker, samples) = &mut workers[(round + turn) % configs.len()];
            samples.push(worker.batch()?);
        }
    }
    let none = workers[0].1.clone();
    for (config, (_, samples)) in configs.iter().zip(&workers) {
        let name = match config {
            Config::None => call.name(),
            Config::Hooks | Config::Nft => "",
        };
        let mut line = format!("  {name:<20} {:<5} {}", config.name(), shown(samples));
        if *config != Config::None {
            let pairs = || samples.iter().zip(&none);
            let added = Spread::of(pairs().map(|(s, n)| s.cpu - n.cpu));
            let share = Spread::of(pairs().map(|(s, n)| 100.0 * (s.cpu - n.cpu) / n.cpu));
            write!(
                line,
                "  cpu {:+.0} ns ({:+.0} to {:+.0}), {:+.1} %",
                added.median, added.low, added.high, share.median
            )?;
        }
        println!("{line}");
    }
    drop(workers);
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
    let mut worker = setup.worker(call, spread, Config::Hooks)?;
    let before = read()?;
    worker.batch()?;
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

/// A middle value, and between what the middle half lies.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
        Self {
            low: at(1),
            median: at(2),
            high: at(3),
        }
    }
}

fn shown(samples: &[Sample]) -> String {
    let cpu = Spread::of(samples.iter().map(|s| s.cpu));
    let wall = Spread::of(samples.iter().map(|s| s.wall));
    let bounds = samples.iter().fold((f64::MAX, 0.0_f64), |(min, max), s| {
        (min.min(s.cpu), max.max(s.cpu))
    });
    format!(
        "{:>7.0} ({:.0} to {:.0}), wall {:>7.0}",
        cpu.median, bounds.0, bounds.1, wall.median
    )
}
