//! A node of the bench: workloads in cgroups of their own, each in a namespace of its own, one agent
//! that governs them, and a DNS server.
//!
//! Owns the setup. It only uses flags that older agents have too.

use crate::nameserver::{self, Nameserver};
use crate::rules::Ports;
use crate::{LONG, Size, rules};
use anyhow::{Context as _, Result};
use egress_tests::Agent;
use egress_tests::bench::settled;
use egress_tests::bpffs::BpfFs;
use egress_tests::cgroup::Cgroup;
use egress_tests::netns::NetNs;
use egress_tests::place::Place;
use egress_tests::prober::{Dialer, Watch, Watched, now};
use egress_tests::wait_until;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The pause between two connects of a watch.
const EVERY: Duration = Duration::from_millis(5);
/// Names in one rules file.
const NAMES_IN_A_FILE: usize = 2_000;

/// See the module.
pub struct Site {
    // Dropped in this order: first the agent, then what it uses.
    agent: Option<Agent>,
    binary: PathBuf,
    workloads: Vec<Cgroup>,
    /// Destinations that [`Self::watch`] watches too.
    watched: Vec<SocketAddr>,
    rules: TempDir,
    root: Cgroup,
    own: Cgroup,
    nameserver: Nameserver,
    netns: NetNs,
    pins: BpfFs,
}

impl Site {
    /// Workloads and rules, and no agent yet.
    pub fn new(binary: &Path, scale: Size, answers: u32) -> Result<Self> {
        Self::with_ports(binary, scale, Ports::Two, answers)
    }

    /// The same, with this number of ports of each service.
    pub fn with_ports(binary: &Path, scale: Size, ports: Ports, answers: u32) -> Result<Self> {
        let (netns, pins) = (NetNs::new()?, BpfFs::mount()?);
        netns.ip("route add local 20.0.0.0/8 dev lo")?;
        let (root, own) = (Cgroup::new()?, Cgroup::new()?);
        let workloads = (0..scale.views).map(|n| root.child(&format!("w{n}")));
        let site = Self {
            agent: None,
            binary: binary.to_owned(),
            workloads: workloads.collect::<Result<_>>()?,
            watched: Vec::new(),
            rules: tempfile::tempdir()?,
            nameserver: Nameserver::start(&netns, answers)?,
            root,
            own,
            netns,
            pins,
        };
        for (name, text) in rules::all(scale.views, scale.services, ports) {
            site.write(&name, &text)?;
        }
        Ok(site)
    }

    /// The same with an agent that has applied everything.
    pub fn running(binary: &Path, scale: Size, answers: u32) -> Result<Self> {
        let mut site = Self::new(binary, scale, answers)?;
        site.start()?;
        site.in_force()?;
        site.rested()?;
        Ok(site)
    }

    /// Starts the agent and waits until it says that it is ready. Returns the time that took.
    pub fn start(&mut self) -> Result<Duration> {
        let begin = self.start_only()?;
        self.agent()?.wait_ready_for(LONG)?;
        Ok(begin.elapsed())
    }

    /// Starts the agent. Returns when that was.
    pub fn start_only(&mut self) -> Result<Instant> {
        let begin = Instant::now();
        self.agent = None;
        self.agent = Some(self.spawn()?);
        Ok(begin)
    }

    fn spawn(&self) -> Result<Agent> {
        let place = Place {
            cgroup: Some(&self.own),
            netns: Some(&self.netns),
            resolver: None,
        };
        Agent::spawn(&place, &self.binary, &self.arguments())
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["run".into()];
        let mut flag = |name: &str, value: &Path| arguments.extend([name.into(), value.into()]);
        flag("--rules", self.rules.path());
        flag("--cgroup", self.root.path());
        flag("--agent-cgroup", self.own.path());
        flag("--bpf-dir", self.pins.path());
        // Its name begins with a dot, so that it is not read as a rule.
        flag("--admin-socket", &self.rules.path().join(".admin.sock"));
        flag("--dns-server", Path::new(nameserver::AT));
        for n in 0..self.workloads.len() {
            let namespace = rules::namespace(n);
            let entry = format!("{{cgroup: w{n}, namespace: {namespace}}}");
            flag("--workload", Path::new(&entry));
        }
        arguments
    }

    /// The running agent.
    pub fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("the agent was not started")
    }

    /// Where a workload runs.
    pub fn workload(&self, n: usize) -> Place<'_> {
        Place {
            cgroup: self.workloads.get(n),
            netns: Some(&self.netns),
            resolver: None,
        }
    }

    /// The first workload, one in the middle and the last, or as many as there are.
    pub fn some(&self) -> Vec<usize> {
        let last = self.workloads.len() - 1;
        let mut some = vec![0, last / 2, last];
        some.dedup();
        some
    }

    /// The workload in the middle, whose namespace has the edited objects.
    pub fn middle(&self) -> usize {
        (self.workloads.len() - 1) / 2
    }

    /// Waits until each of [`Self::some`] reaches its own service, so that the agent governs all.
    pub fn in_force(&self) -> Result<()> {
        for n in self.some() {
            let mut dialer = Dialer::start(&self.workload(n))?;
            dialer.until_allowed(rules::own(n), 1)?;
            dialer.at(LONG).context("its own service")?;
            // Without a policy of its own it would have the root's, which has no such service.
            dialer.until_denied(rules::own(n + 1), 1)?;
            dialer.at(LONG).context("another's service")?;
        }
        Ok(())
    }

    /// Watches a service for all and its own one, in each of [`Self::some`].
    pub fn watch(&self) -> Result<Vec<Watch>> {
        let some = self.some().into_iter();
        some.map(|n| {
            let mut to = vec![rules::service(0), rules::own(n)];
            to.extend(&self.watched);
            self.watch_in(n, &to)
        })
        .collect()
    }

    /// Sets the destinations that [`Self::watch`] watches too. Every workload lists them.
    pub fn also_watch(&mut self, to: &[SocketAddr]) {
        self.watched = to.to_vec();
    }

    /// Watches listed destinations in one workload.
    pub fn watch_in(&self, n: usize, to: &[SocketAddr]) -> Result<Watch> {
        Watch::start(&self.workload(n), EVERY, to)
    }

    /// Puts a rules file in place atomically. Returns the time, by [`now`].
    pub fn write(&self, name: &str, text: &str) -> Result<Duration> {
        let hidden = self.rules.path().join(format!(".{name}"));
        fs::write(&hidden, text)?;
        let at = now();
        fs::rename(hidden, self.rules.path().join(name))?;
        Ok(at)
    }

    /// Writes rules for `count` names, in several files.
    pub fn write_names(&self, count: usize) -> Result<()> {
        self.write_names_as(count, "tcp")
    }

    /// The same, with this name of their port.
    pub fn write_names_as(&self, count: usize, port: &str) -> Result<()> {
        for from in (0..count).step_by(NAMES_IN_A_FILE) {
            let to = count.min(from + NAMES_IN_A_FILE);
            self.write(&format!("names-{from}.yaml"), &rules::named(from, to, port))?;
        }
        Ok(())
    }

    /// Removes a rules file, and waits until the agent has nothing to do.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        fs::remove_file(self.rules.path().join(name))?;
        self.rested()?;
        Ok(())
    }

    /// Waits until the agent has nothing to do. Returns the CPU time that it used so far.
    pub fn rested(&mut self) -> Result<Duration> {
        let agent = self.agent()?;
        let mut last = agent.cpu()?;
        let mut still = 0;
        wait_until("the agent rests", LONG, || {
            thread::sleep(Duration::from_millis(200));
            let spent = agent.cpu().ok()?;
            let rests = spent.saturating_sub(last) <= Duration::from_millis(10);
            still = if rests { still + 1 } else { 0 };
            last = spent;
            (still == 2).then_some(spent)
        })
    }

    /// The DNS server.
    pub fn nameserver(&self) -> &Nameserver {
        &self.nameserver
    }

    /// Resident memory of the agent, in bytes.
    pub fn resident(&mut self) -> Result<u64> {
        self.agent()?.resident()
    }

    /// The same, once it no longer falls.
    pub fn settled(&mut self) -> Result<u64> {
        settled(self.agent()?.pid(), LONG)
    }
}

/// Ends watches. Returns their counts together.
pub fn seen(watches: Vec<Watch>) -> Result<Watched> {
    let mut all = Watched::default();
    for watch in watches {
        all = all.and(watch.end()?);
    }
    Ok(all)
}
