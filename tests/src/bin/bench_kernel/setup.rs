//! The places that are compared, and their tables.

use crate::work::{Call, PORT, address};
use crate::worker::{Config, Worker};
use anyhow::{Context as _, Result, bail};
use egress_agent::config::DEFAULT_MAX_NETWORKS;
use egress_agent::kernel::{self, Kernel, Pins, Tables};
use egress_core::policy::diff::{Desired, Planner};
use egress_core::policy::tables::{Action, Table, Target, Transport};
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_tests::bpffs::BpfFs;
use egress_tests::cgroup::Cgroup;
use egress_tests::netns::NetNs;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

/// The kind of entries that list the destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Single addresses.
    Addresses,
    /// Networks of two.
    Networks,
    /// Networks of twelve lengths, and each destination in one of the shortest of them.
    Mixed,
}

impl Kind {
    /// Its name in the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Addresses => "Single addresses",
            Self::Networks => "Networks of two",
            Self::Mixed => "Networks of 12 lengths",
        }
    }
}

/// Prefix lengths of [`Kind::Mixed`] besides [`SHORTEST`]. These networks contain no destination.
const LONGER: std::ops::RangeInclusive<u8> = 21..=31;
/// The prefix length of the networks with the destinations.
const SHORTEST: u32 = 20;

/// Places of the three configurations.
pub struct Setup {
    hooked: Cgroup,
    plain: Cgroup,
    _agent: Cgroup,
    open: NetNs,
    governed: NetNs,
    nft: Option<NetNs>,
    _kernel: Kernel,
    pub tables: Tables,
    planner: Planner,
    _pins: BpfFs,
}

/// A network namespace in which every destination is local.
pub fn namespace() -> Result<NetNs> {
    let netns = NetNs::new()?;
    netns.ip("route add local 20.0.0.0/8 dev lo")?;
    Ok(netns)
}

impl Setup {
    /// Makes them, with the hooks attached to one.
    pub fn new(nft: bool) -> Result<Self> {
        let pins = BpfFs::mount()?;
        let (hooked, plain, agent) = (Cgroup::new()?, Cgroup::new()?, Cgroup::new()?);
        let mut kernel = Kernel::load(Pins::mount(pins.path())?, DEFAULT_MAX_NETWORKS)?;
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

    /// Fills the tables with `entries` entries. Returns the number of listed destinations.
    pub fn fill(&mut self, kind: Kind, entries: u32) -> Result<u32> {
        // Each destination takes two entries, one for each transport.
        let destinations = (entries / 2).max(1);
        let mut table = Table::new();
        for transport in [Transport::Tcp, Transport::Udp] {
            let mut list = |net: String| -> Result<()> {
                let targets = Target::network(net.parse()?, PORT, transport);
                for target in targets {
                    table.insert(target, Action::Allow);
                }
                Ok(())
            };
            match kind {
                Kind::Addresses => {
                    for n in 0..destinations {
                        let target = Target::address(IpAddr::V4(address(n)), PORT, transport);
                        table.insert(target, Action::Allow);
                    }
                }
                Kind::Networks => {
                    for n in 0..destinations {
                        list(format!("{}/31", address(n)))?;
                    }
                }
                Kind::Mixed => {
                    let end = u32::from(address(destinations - 1)) >> (32 - SHORTEST);
                    let first = u32::from(address(0)) >> (32 - SHORTEST);
                    for n in first..=end {
                        let net = Ipv4Addr::from_bits(n << (32 - SHORTEST));
                        list(format!("{net}/{SHORTEST}"))?;
                    }
                    // The rest of the entries, at addresses of their own.
                    let holding = end - first + 1;
                    let lengths: Vec<u8> = LONGER.collect();
                    for n in 0..destinations.saturating_sub(holding) {
                        let length = lengths[n as usize % lengths.len()];
                        let at = n / lengths.len() as u32;
                        let start = 0x4000_0000 + u32::from(length - *LONGER.start()) * 0x0400_0000;
                        let net = Ipv4Addr::from_bits(start.wrapping_add(at << (32 - length)));
                        list(format!("{net}/{length}"))?;
                    }
                }
            }
        }
        // An empty table comes first, so that there is room for the largest.
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
    pub fn worker(&self, call: Call, spread: u32, config: Config) -> Result<Worker> {
        let netns = match config {
            Config::None => &self.open,
            Config::Hooks => &self.governed,
            Config::Nft => self.nft.as_ref().context("nft was left out")?,
        };
        let cgroup = match config {
            Config::Hooks => &self.hooked,
            Config::None | Config::Nft => &self.plain,
        };
        Worker::below(netns, cgroup, call, spread)
    }
}

/// Makes an nft set of the same destinations, and a rule that drops other destinations.
fn nft(netns: &NetNs, kind: Kind, destinations: u32) -> Result<()> {
    // Only the destinations, because other entries do not affect nft's trees.
    let flags = if kind == Kind::Addresses {
        ""
    } else {
        "flags interval;"
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
            let length = if kind == Kind::Addresses { "" } else { "/31" };
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
