//! This build's hooks against those of another agent's binary, in one run.
//!
//! Owns the two agents, each with pins, admin socket, cgroups and a network namespace of its own, and
//! the comparison. Both get the same rules files, and only flags that older agents know too.

use crate::setup::namespace;
use crate::work::{Call, PORT, address};
use crate::worker::{Sample, Worker};
use crate::{Cli, Spread, introduce, programs, shown};
use anyhow::Result;
use egress_tests::Agent;
use egress_tests::agent;
use egress_tests::bpffs::BpfFs;
use egress_tests::cgroup::Cgroup;
use egress_tests::netns::NetNs;
use egress_tests::place::Place;
use egress_tests::prober::Dialer;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Addresses of one rules file, which agents read up to 4 MiB of.
const PER_FILE: usize = 100_000;
/// In this time, one busy core reads, compiles and writes a million entries.
const READY_WITHIN: Duration = Duration::from_mins(5);

/// An agent that closed the gate around a cgroup, and the namespace of the calls below it.
struct Contender {
    // Dropped in this order: first the agent, then what it uses.
    _agent: Agent,
    client: Cgroup,
    _others: Vec<Cgroup>,
    _rules: TempDir,
    _root: Cgroup,
    _own: Cgroup,
    netns: NetNs,
    _pins: BpfFs,
}

impl Contender {
    /// Starts an agent with this many policies: the root's default, that of the calls, whose rules list this many
    /// destinations for TCP and UDP each, and others that list one destination each. If there is one policy, the calls
    /// have it.
    fn start(binary: &Path, proxy_port: u16, destinations: u32, policies: u32) -> Result<Self> {
        let (netns, pins) = (namespace()?, BpfFs::mount()?);
        let (root, own) = (Cgroup::new()?, Cgroup::new()?);
        // The agent is not ready with a root that has no cgroup below it.
        let client = root.child("client")?;
        let others = (2..policies).map(|n| root.child(&format!("other{n}")));
        let others = others.collect::<Result<Vec<_>>>()?;
        let rules = tempfile::tempdir()?;
        let mut workloads = Vec::new();
        if policies > 1 {
            list(rules.path(), destinations, "  exportTo: ['.']\n")?;
            workloads.push("{cgroup: client, namespace: client}".to_owned());
            workloads.extend(
                (2..policies).map(|n| format!("{{cgroup: other{n}, namespace: other{n}}}")),
            );
            fs::write(rules.path().join("others.yaml"), own_services(policies))?;
        } else {
            list(rules.path(), destinations, "")?;
        }
        let mut arguments = vec!["run".into()];
        let mut flag =
            |name: &str, value: PathBuf| arguments.extend([name.into(), value.into_os_string()]);
        flag("--rules", rules.path().into());
        flag("--cgroup", root.path().into());
        flag("--agent-cgroup", own.path().into());
        flag("--bpf-dir", pins.path().into());
        // Its name begins with a dot, so that it is not read as a rule.
        flag("--admin-socket", rules.path().join(".admin.sock"));
        flag("--proxy-port", proxy_port.to_string().into());
        // No rule has a name that must be resolved.
        flag("--dns-server", "127.0.0.1".into());
        for workload in workloads {
            flag("--workload", workload.into());
        }
        let place = Place {
            cgroup: Some(&own),
            netns: Some(&netns),
            resolver: None,
        };
        let mut agent = Agent::spawn(&place, binary, &arguments)?;
        agent.wait_ready_for(READY_WITHIN)?;
        // The agent finds the workloads after it is ready.
        let mut dialer = Dialer::start(&Place {
            cgroup: Some(&client),
            ..place
        })?;
        let last = SocketAddr::new(address(destinations - 1).into(), PORT);
        dialer.until_allowed(last, 1)?;
        dialer.at(READY_WITHIN)?;
        Ok(Self {
            _agent: agent,
            client,
            _others: others,
            _rules: rules,
            _root: root,
            _own: own,
            netns,
            _pins: pins,
        })
    }
}

/// A service for each policy of [`Contender`] but the first two, in a namespace of its own.
fn own_services(policies: u32) -> String {
    let service = |n: u32| {
        // Outside the destinations of the calls.
        let address = Ipv4Addr::from_bits(0x3000_0000 + n);
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: own, namespace: \
             other{n}}}\nspec:\n  hosts: [own.example]\n  exportTo: ['.']\n  addresses: [{address}]\n  ports: \
             [{{number: {PORT}, name: tcp, protocol: TCP}}]\n  resolution: NONE\n"
        )
    };
    (2..policies).map(service).collect()
}

/// Writes rules for that many destinations. `export` is their `exportTo`.
fn list(folder: &Path, destinations: u32, export: &str) -> Result<()> {
    let all: Vec<u32> = (0..destinations).collect();
    for (part, some) in all.chunks(PER_FILE).enumerate() {
        let some: Vec<String> = some.iter().map(|n| address(*n).to_string()).collect();
        let some = some.join(", ");
        for protocol in ["tcp", "udp"] {
            let name = format!("{protocol}-{part}");
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, \
                 namespace: client}}\nspec:\n  hosts: [{name}.example]\n{export}  addresses: [{some}]\n  ports: [{{number: \
                 {PORT}, name: {protocol}-listed, protocol: {}}}]\n  resolution: NONE\n",
                protocol.to_ascii_uppercase()
            );
            fs::write(folder.join(format!("{name}.yaml")), text)?;
        }
    }
    Ok(())
}

/// Samples of one place, in the order of the rounds.
type Samples = Vec<Sample>;

/// Samples without hooks, with those of this build and with the other's.
type Compared = [Samples; 3];

/// Two agents with the same rules, and a place without hooks.
struct Contest {
    this: Contender,
    that: Contender,
    open: NetNs,
    plain: Cgroup,
    /// Destinations of this build and of the other.
    destinations: [u32; 2],
}

impl Contest {
    fn start(cli: &Cli, other: &Path, entries: u32, policies: u32) -> Result<Self> {
        let destinations = (entries / 2).max(1);
        let this = Contender::start(&agent::binary()?, 15_001, destinations, policies)?;
        // An older agent has less room, or needs too long.
        let fewer = (cli.against_entries.unwrap_or(entries).min(entries) / 2).max(1);
        let that = Contender::start(other, 15_002, fewer, policies.min(cli.against_policies))?;
        Ok(Self {
            this,
            that,
            open: namespace()?,
            plain: Cgroup::new()?,
            destinations: [destinations, fewer],
        })
    }

    /// Adds the samples of all rounds of one call.
    fn measure(&self, cli: &Cli, call: Call, samples: &mut Compared) -> Result<()> {
        let [destinations, fewer] = self.destinations;
        let mut workers = Vec::new();
        for (netns, cgroup, destinations) in [
            (&self.open, &self.plain, destinations),
            (&self.this.netns, &self.this.client, destinations),
            (&self.that.netns, &self.that.client, fewer),
        ] {
            workers.push(Worker::below(netns, cgroup, call, destinations)?);
        }
        for round in 0..cli.rounds {
            // The order changes, so that each goes first, and before each other one, equally often.
            let forward = round / 3 % 2 == 0;
            for turn in 0..3 {
                let turn = if forward { turn } else { 2 - turn };
                let at = (round + turn) % 3;
                samples[at].push(workers[at].batch()?);
            }
        }
        if cli.programs {
            for worker in &mut workers[1..] {
                programs(call, worker)?;
            }
        }
        Ok(())
    }
}

/// Compares the hooks of this build with those of the agent at `other`.
pub fn bench(cli: &Cli, other: &Path) -> Result<()> {
    introduce(cli.rounds)?;
    println!(
        "this build against {}, {} starts of both",
        other.display(),
        cli.starts
    );
    let sizes = cli.policies.iter();
    let sizes =
        sizes.flat_map(|policies| cli.entries.iter().map(move |entries| (policies, entries)));
    for (policies, entries) in sizes {
        println!("\nSingle addresses, {entries} entries, {policies} policies");
        let most = (
            cli.against_entries.unwrap_or(*entries).min(*entries),
            cli.against_policies.min(*policies),
        );
        if most != (*entries, *policies) {
            println!(
                "  (the other agent has {} entries, {} policies)",
                most.0, most.1
            );
        }
        let mut all = vec![Compared::default(); cli.calls.len()];
        for _ in 0..cli.starts {
            let contest = Contest::start(cli, other, *entries, *policies)?;
            for (call, samples) in cli.calls.iter().zip(&mut all) {
                contest.measure(cli, *call, samples)?;
            }
        }
        for (call, samples) in cli.calls.iter().zip(&all) {
            report(cli, *call, samples);
        }
    }
    Ok(())
}

fn report(cli: &Cli, call: Call, [none, this, that]: &Compared) {
    println!("  {:<20} none   {}", call.name(), shown(none));
    let added = |hooks: &[Sample]| -> Vec<(f64, f64)> {
        let pairs = hooks.iter().zip(none).map(|(h, n)| h.cpu - n.cpu);
        pairs
            .zip(none)
            .map(|(ns, none)| (ns, 100.0 * ns / none.cpu))
            .collect()
    };
    let (this_added, that_added) = (added(this), added(that));
    for (name, samples, added) in [("this", this, &this_added), ("other", that, &that_added)] {
        println!(
            "  {:<20} {name:<6} {}  {}",
            "",
            shown(samples),
            difference(added.iter().copied(), "%")
        );
    }
    let pairs = this_added.iter().zip(&that_added);
    let pairs: Vec<(f64, f64)> = pairs
        .map(|(this, that)| (this.0 - that.0, this.1 - that.1))
        .collect();
    println!(
        "  {:<20} this - other: {}",
        "",
        difference(pairs.iter().copied(), "points")
    );
    if cli.starts > 1 {
        let each = pairs.chunks(cli.rounds).map(|start| {
            let ns = Spread::of(start.iter().map(|pair| pair.0)).median;
            format!("{ns:+.1}")
        });
        let each: Vec<String> = each.collect();
        println!("  {:<20} of each start: {} ns", "", each.join(", "));
    }
}

/// Median, middle half and bounds of nanoseconds and of shares.
fn difference(pairs: impl Iterator<Item = (f64, f64)>, unit: &str) -> String {
    let (ns, share): (Vec<f64>, Vec<f64>) = pairs.unzip();
    let mut line = String::from("cpu");
    for (values, unit) in [(ns, "ns"), (share, unit)] {
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| {
            (low.min(*v), high.max(*v))
        });
        let spread = Spread::of(values.into_iter());
        // Writing to a string does not fail.
        let _ = write!(
            line,
            " {:+.1} {unit} ({:+.1} to {:+.1}, all {low:+.0} to {high:+.0})",
            spread.median, spread.low, spread.high
        );
    }
    line
}
