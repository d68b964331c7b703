//! The lab: a node with clients and the agent, an outside with hosts, and nothing else.
//!
//! Owns the arrangement and its addresses:
//!
//! ```text
//! namespace "node": workloads/client, agent   203.0.113.1      2001:db8:1::1
//!        │ veth, the only way out
//! namespace "outside": all of                 198.51.100.0/24  2001:db8:2::/64
//!     .10 httpbin.org   .20 www.google.com   .30 echo.example   .53 DNS   .99 a bystander
//! ```
//!
//! The tests have the expectations.

mod options;

pub use options::{Family, LabOptions};

use crate::agent::{self, Agent};
use crate::bpffs::BpfFs;
use crate::cgroup::Cgroup;
use crate::client::{self, Finished, Reply};
use crate::folder::folder;
use crate::hosts::{Authority, Dns, Echo, Origin, World};
use crate::netns::NetNs;
use crate::place::{Place, ResolverFiles};
use crate::probe::{self, Answer};
use crate::wait::wait_until;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long a running agent may take to answer `status`.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// The lab without its agent: what [`Lab`] adds is the running process.
pub struct Lab {
    // Dropped in this order: first the agent, then what it uses.
    agent: Option<Agent>,
    /// The agent's binary.
    binary: PathBuf,
    world: World,
    /// `httpbin.org`, HTTP at port 80.
    pub httpbin: Origin,
    /// `www.google.com`, TLS at port 443.
    pub google: Origin,
    /// HTTP at port 80 and TLS at port 443 of an address that no rule of the lab lists.
    pub bystander: Origin,
    /// `echo.example`, TCP and UDP at port 7.
    pub echo: Echo,
    /// The zone of all names.
    pub dns: Dns,
    authority: Authority,
    resolver: ResolverFiles,
    rules: TempDir,
    bpffs: BpfFs,
    client: Cgroup,
    workloads: Cgroup,
    agent_cgroup: Cgroup,
    _base: Cgroup,
    node: NetNs,
    outside: NetNs,
    options: LabOptions,
}

/// The address of a host of the outside, by its last number.
pub fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, last).into()
}

/// The same host in IPv6: the number is written in decimal, `.10` is `::10`.
pub fn v6(last: u8) -> IpAddr {
    let digits = u16::from_str_radix(&last.to_string(), 16).unwrap_or_default();
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, digits).into()
}

/// The last numbers of the hosts' addresses.
pub mod host {
    /// `httpbin.org`
    pub const HTTPBIN: u8 = 10;
    /// `www.google.com`
    pub const GOOGLE: u8 = 20;
    /// `echo.example`
    pub const ECHO: u8 = 30;
    /// The DNS server.
    pub const DNS: u8 = 53;
    /// The bystander.
    pub const BYSTANDER: u8 = 99;
}

impl Lab {
    /// Starts everything, with an agent without rules, so the gate is closed.
    pub fn start() -> Result<Self> {
        Self::start_with(LabOptions::default())
    }

    /// The same with options.
    pub fn start_with(options: LabOptions) -> Result<Self> {
        let mut lab = Self::without_agent(options)?;
        lab.start_agent()?;
        Ok(lab)
    }

    /// Starts everything except the agent, so nothing is enforced.
    pub fn without_agent(options: LabOptions) -> Result<Self> {
        let (node, outside) = networks()?;
        let world = World::start(&outside)?;
        let authority = Authority::new()?;
        let both = |last| [v4(last), v6(last)];
        let google_names = ["www.google.com", "bystander.example"];
        let bystander = world.https(&both(host::BYSTANDER), 443, &authority, &google_names)?;
        world.http_as(&bystander, &both(host::BYSTANDER), 80)?;
        let dns = world.dns(&both(host::DNS))?;
        let addresses = |last| match options.family {
            Family::V4 => vec![v4(last)],
            Family::V6 => vec![v6(last)],
            Family::Dual => both(last).to_vec(),
        };
        for (name, last) in [
            ("httpbin.org", host::HTTPBIN),
            ("www.google.com", host::GOOGLE),
            ("echo.example", host::ECHO),
            ("bystander.example", host::BYSTANDER),
        ] {
            dns.set(name, &addresses(last), options.ttl);
        }
        let base = Cgroup::new()?;
        let workloads = base.child("workloads")?;
        let servers = match options.family {
            Family::V6 => vec![v6(host::DNS)],
            Family::V4 | Family::Dual => vec![v4(host::DNS)],
        };
        Ok(Self {
            agent: None,
            binary: match &options.binary {
                Some(other) => other.clone(),
                None => agent::binary()?,
            },
            httpbin: world.http(&both(host::HTTPBIN), 80)?,
            google: world.https(&both(host::GOOGLE), 443, &authority, &google_names)?,
            bystander,
            echo: world.echo(&both(host::ECHO), 7)?,
            world,
            dns,
            authority,
            resolver: ResolverFiles::new(&servers)?,
            rules: folder("rules")?,
            bpffs: BpfFs::mount()?,
            client: workloads.child("client")?,
            agent_cgroup: base.child("agent")?,
            workloads,
            _base: base,
            node,
            outside,
            options,
        })
    }

    /// Starts the agent, or the next one after the last has ended, and waits until it is ready.
    pub fn start_agent(&mut self) -> Result<()> {
        // The old one ends first, because they share the pins and the port.
        self.agent = None;
        let (place, mut arguments) = (self.agent_place(), self.agent_arguments());
        let mut program = self.binary.clone();
        if let Some(count) = self.options.descriptors {
            let limited = format!("ulimit -n {count} && exec \"$0\" \"$@\"");
            let shell = ["-c".into(), limited.into(), program.into_os_string()];
            arguments.splice(0..0, shell);
            program = "/bin/sh".into();
        }
        self.agent = Some(Agent::start(&place, &program, &arguments)?);
        Ok(())
    }

    /// Adds flags for the next start of the agent.
    pub fn add_flags(&mut self, flags: &[&str]) {
        let flags = flags.iter().map(ToString::to_string);
        self.options.agent.extend(flags);
    }

    /// Uses the other build of the agent from the next start on.
    pub fn use_other_build(&mut self) -> Result<()> {
        let (first, next) = (agent::binary()?, agent::next_binary()?);
        self.binary = if self.binary == first { next } else { first };
        Ok(())
    }

    /// Replaces the lab's agent by one that a test started beside it. Returns the former agent.
    pub fn swap_agent(&mut self, next: Agent) -> Result<Agent> {
        self.agent
            .replace(next)
            .context("the lab's agent was not started")
    }

    /// The running agent.
    pub fn agent(&mut self) -> Result<&mut Agent> {
        self.agent
            .as_mut()
            .context("the lab's agent was not started")
    }

    /// The arguments that the lab's agent is started with.
    pub fn agent_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["run".into()];
        let mut flag =
            |name: &str, value: &Path| arguments.extend([OsString::from(name), value.into()]);
        if self.options.files {
            flag("--rules", self.rules.path());
        }
        flag("--cgroup", self.workloads.path());
        flag("--agent-cgroup", self.agent_cgroup.path());
        flag("--bpf-dir", self.bpffs.path());
        flag("--admin-socket", &self.admin_socket());
        let own = [v4(host::DNS), v6(host::DNS)].map(|ip| SocketAddr::new(ip, 53));
        let servers = match &self.options.servers[..] {
            [] => &own[..],
            servers => servers,
        };
        let mut others = self.options.agent.iter();
        if !others.any(|flag| flag.starts_with("--dns-server")) {
            for server in servers {
                flag("--dns-server", Path::new(&server.to_string()));
            }
        }
        let private = "--allow-private-answers";
        if !self.options.agent.iter().any(|f| f.starts_with(private)) {
            arguments.push(private.into());
        }
        arguments.extend(self.options.agent.iter().map(OsString::from));
        arguments
    }

    /// Where the agent runs.
    pub fn agent_place(&self) -> Place<'_> {
        Place {
            cgroup: Some(&self.agent_cgroup),
            netns: Some(&self.node),
            resolver: None,
        }
    }

    /// Where clients run: below the enforced root.
    pub fn client_place(&self) -> Place<'_> {
        Place {
            cgroup: Some(&self.client),
            netns: Some(&self.node),
            resolver: Some(&self.resolver),
        }
    }

    /// The command of a program that runs as a client.
    pub fn command(&self, program: &str) -> Result<Command> {
        self.client_place().command(program)
    }

    /// Runs a client to its end.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(program)?;
        command.args(arguments);
        client::run(command, Duration::from_mins(1))
    }

    /// Runs curl as a client; it trusts the lab's certificates.
    pub fn curl(&self, arguments: &[&str]) -> Result<Reply> {
        let authority = self.authority.path().to_string_lossy();
        let mut all = vec!["--cacert", authority.as_ref()];
        all.extend_from_slice(arguments);
        client::curl(&self.client_place(), &all)
    }

    /// Tries one way out as a client: `tcp`, `tcp-echo`, `udp` or `udp-connected`.
    pub fn attempt(&self, way: &str, to: SocketAddr) -> Result<Answer> {
        probe::attempt(&self.client_place(), way, to)
    }

    /// Runs another verb of the agent in the agent's place.
    pub fn verb(&self, arguments: &[&str]) -> Result<Finished> {
        client::run(
            agent::verb(&self.agent_place(), arguments)?,
            Duration::from_secs(30),
        )
    }

    /// The `status` of the running agent. It answers shortly after it reports that it is ready.
    pub fn status(&self) -> Result<Value> {
        let socket = self.admin_socket().display().to_string();
        let verb = ["status", "-o", "json", "--admin-socket", &socket];
        let mut last = None;
        let status = wait_until("the agent answers", ANSWERS_WITHIN, || {
            let answer = self.verb(&verb);
            let status = serde_json::from_str(&answer.as_ref().ok()?.stdout).ok();
            last = Some(answer);
            status
        });
        status.with_context(|| format!("status: {last:?}"))
    }

    /// Puts a rules file in place atomically, and waits until the agent has applied it.
    pub fn rules(&self, name: &str, text: &str) -> Result<()> {
        self.applied(|| self.write_rules(name, text))
    }

    /// The same without waiting.
    pub fn write_rules(&self, name: &str, text: &str) -> Result<()> {
        let hidden = self.rules.path().join(format!(".{name}"));
        fs::write(&hidden, text)?;
        Ok(fs::rename(hidden, self.rules.path().join(name))?)
    }

    /// Removes a rules file and waits until the agent has applied that.
    pub fn remove_rules(&self, name: &str) -> Result<()> {
        self.applied(|| Ok(fs::remove_file(self.rules.path().join(name))?))
    }

    /// Makes a change, and waits until the agent, if it runs, has applied it.
    pub fn applied(&self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let mark = self.agent.as_ref().map(Agent::mark);
        change()?;
        match (&self.agent, mark) {
            (Some(agent), Some(mark)) => agent.wait_applied(mark),
            _ => Ok(()),
        }
    }

    /// The folder of the rules.
    pub fn rules_dir(&self) -> &Path {
        self.rules.path()
    }

    /// Where the agent answers `status`.
    pub fn admin_socket(&self) -> PathBuf {
        // Its name begins with a dot, so that it is not read as a rule.
        self.rules.path().join(".admin.sock")
    }

    /// The folder of the pins.
    pub fn bpf_dir(&self) -> &Path {
        self.bpffs.path()
    }

    /// The enforced root.
    pub fn workloads(&self) -> &Cgroup {
        &self.workloads
    }

    /// The namespace of clients and agent.
    pub fn node(&self) -> &NetNs {
        &self.node
    }

    /// The namespace of the hosts.
    pub fn outside(&self) -> &NetNs {
        &self.outside
    }

    /// The hosts, to add more of them.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The file that clients trust.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The resolver configuration of the clients.
    pub fn resolver(&self) -> &ResolverFiles {
        &self.resolver
    }
}

/// The two namespaces and the cable between them.
fn networks() -> Result<(NetNs, NetNs)> {
    let (node, outside) = (NetNs::new()?, NetNs::new()?);
    let near = [("203.0.113.1".parse()?, 24), ("2001:db8:1::1".parse()?, 64)];
    let far = [
        ("203.0.113.254".parse()?, 24),
        ("2001:db8:1::fe".parse()?, 64),
    ];
    node.connect("out0", &near, &outside, "node0", &far)?;
    node.ip(
        "route add 198.51.100.0/24 via 203.0.113.254\nroute add 2001:db8:2::/64 via 2001:db8:1::fe",
    )?;
    // Every address of the two networks belongs to the outside.
    outside.ip("route add local 198.51.100.0/24 dev lo\nroute add local 2001:db8:2::/64 dev lo")?;
    // Otherwise IPv6 does not allow binding to such an address.
    outside.sysctl("ipv6/ip_nonlocal_bind", "1")?;
    Ok((node, outside))
}
