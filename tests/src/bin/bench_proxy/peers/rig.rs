//! What the parts are measured with: the agents in labs, the peers beside them, the origins, and the ways from a client
//! to an origin.
//!
//! Owns the arrangement. The client of an agent is gated and dials the origin's address; the clients of peers are not
//! gated and dial the peer. Agents and peers run on processor 1, everything else on processor 0.

use super::config::{self, Port};
use anyhow::{Context as _, Result, ensure};
use egress_tests::agent::beside;
use egress_tests::background::Background;
use egress_tests::bench::{cpu_of, pin, pin_here};
use egress_tests::child::Guarded;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::wait::wait_until;
use egress_tests::{Lab, LabOptions, client};
use rustix::process::Signal;
use std::cell::RefCell;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub(super) const LIMIT: Duration = Duration::from_mins(5);
const SOON: Duration = Duration::from_secs(20);
const OTHERS: usize = 0;
const PROXIES: usize = 1;

/// A way to the origin.
pub(super) struct Way {
    pub(super) name: &'static str,
    /// The agent's lab. Peers have one too, in whose node they run.
    lab: usize,
    /// The process in between.
    pub(super) pid: Option<u32>,
    /// Where its ports are. `None`: at the origin.
    address: Option<(IpAddr, u16)>,
    /// Of an agent.
    gated: bool,
    /// The access log.
    log: Log,
}

/// The access log of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    Off,
    Text,
    Json,
}

/// See the module.
pub(super) struct Rig {
    ways: Vec<Way>,
    // Ended in this order.
    peers: Vec<Guarded>,
    origins: Vec<Background>,
    servers: Vec<Guarded>,
    labs: Vec<RefCell<Lab>>,
    folder: TempDir,
}

impl Rig {
    /// Starts everything. `against`: another agent.
    pub(super) fn start(against: Option<PathBuf>) -> Result<Self> {
        // Everything that is started from here on, too.
        pin(std::process::id(), OTHERS)?;
        let folder = tempfile::tempdir()?;
        let mut rig = Self {
            ways: Vec::new(),
            peers: Vec::new(),
            origins: Vec::new(),
            servers: Vec::new(),
            labs: Vec::new(),
            folder,
        };
        let names = [["before", "before, text log", "before, JSON log"]];
        let other = against.map(|binary| (names[0], Some(binary)));
        let this = (["agent", "agent, text log", "agent, JSON log"], None);
        for (names, binary) in other.into_iter().chain([this]) {
            rig.agent(names, binary)?;
        }
        let origin = v4(host::ECHO);
        let node: IpAddr = config::NODE.parse()?;
        let folder = rig.folder.path().to_owned();
        let envoy = envoy()?;
        let programs = [
            (
                "nginx",
                "nginx".into(),
                config::nginx(&folder, origin)?,
                9000,
            ),
            (
                "haproxy",
                "haproxy".into(),
                config::haproxy(&folder, origin)?,
                9100,
            ),
            ("Envoy", envoy, config::envoy(&folder, origin)?, 9200),
        ];
        let lab = rig.labs.len() - 1;
        for (name, program, arguments, base) in programs {
            let peer = rig.peer(&program, &arguments, SocketAddr::new(node, base))?;
            let logs = [(name, Log::Off)].into_iter().chain(
                [
                    ("Envoy, text log", Log::Text),
                    ("Envoy, JSON log", Log::Json),
                ]
                .into_iter()
                .filter(|_| name == "Envoy"),
            );
            for (at, (name, log)) in (0_u16..).zip(logs) {
                rig.ways.push(Way {
                    name,
                    lab,
                    pid: Some(peer.id()),
                    address: Some((node, base + 10 * at)),
                    gated: false,
                    log,
                });
            }
            rig.peers.push(peer);
        }
        rig.ways.push(Way {
            name: "direct",
            lab,
            pid: None,
            address: None,
            gated: false,
            log: Log::Off,
        });
        Ok(rig)
    }

    /// An agent in a lab of its own, with its origins.
    fn agent(&mut self, names: [&'static str; 3], binary: Option<PathBuf>) -> Result<()> {
        let config = self.config(self.labs.len());
        std::fs::write(&config, "mode: enforce\n")?;
        let flag = config.to_str().context("a path")?;
        let mut lab = Lab::without_agent(LabOptions {
            binary,
            ..LabOptions::flags(&["--config", flag])
        })?;
        // Its runtime has as many threads as it sees processors.
        pin_here(PROXIES)?;
        let started = lab.start_agent();
        pin_here(OTHERS)?;
        started?;
        let origin = v4(host::ECHO);
        lab.rules("bench.yaml", &config::rules(origin))?;
        // A client that opens many connections needs more ports than usual.
        for netns in [lab.node(), lab.outside()] {
            netns.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
            netns.sysctl("ipv4/tcp_tw_reuse", "1")?;
        }
        let outside = Place {
            netns: Some(lab.outside()),
            ..Place::default()
        };
        for (verb, port) in [("serve", Port::Tls), ("silent", Port::Silent)] {
            let mut serve = outside.command(beside("passage")?)?;
            serve.args([verb, &SocketAddr::new(origin, port.number()).to_string()]);
            let server = Background::start(serve)?;
            server.wait_line("the origin listens", SOON, |line| {
                line["listening"].is_string()
            })?;
            self.origins.push(server);
        }
        let folder = self
            .folder
            .path()
            .join(format!("origin-{}", self.labs.len()));
        std::fs::create_dir(&folder)?;
        let arguments = config::origin(&folder, origin)?;
        let mut command = outside.command("nginx")?;
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        self.servers
            .push(Guarded::spawn(&mut command).context("cannot start nginx")?);
        let to = SocketAddr::new(origin, Port::Http2.number());
        listens(&outside, to)?;
        let logs = [Log::Off, Log::Text, Log::Json];
        for (name, log) in names.into_iter().zip(logs) {
            self.ways.push(Way {
                name,
                lab: self.labs.len(),
                pid: Some(lab.agent()?.pid()),
                address: None,
                gated: true,
                log,
            });
        }
        self.labs.push(RefCell::new(lab));
        Ok(())
    }

    fn peer(&self, program: &Path, arguments: &[OsString], base: SocketAddr) -> Result<Guarded> {
        let lab = self.labs.last().context("no lab")?.borrow();
        let place = Place {
            netns: Some(lab.node()),
            ..Place::default()
        };
        let log = std::fs::File::create(self.folder.path().join("peers.log"))?;
        let mut command: Command = place.command(program)?;
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        pin_here(PROXIES)?;
        let child = Guarded::spawn(&mut command);
        pin_here(OTHERS)?;
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let to = SocketAddr::new(base.ip(), base.port() + Port::Tls.offset());
        listens(&place, to).with_context(|| {
            let log = std::fs::read_to_string(self.folder.path().join("peers.log"));
            format!("{}: {}", program.display(), log.unwrap_or_default())
        })?;
        Ok(child)
    }

    /// The agents without an access log, these others, and no proxy at all.
    pub(super) fn ways(&self, names: &[&str]) -> impl Iterator<Item = &Way> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.ways.iter().filter(move |way| {
            let asked = names.iter().any(|name| way.name == name);
            let log = way.gated && names.iter().any(|name| name == "logs");
            asked || way.gated && way.log == Log::Off || log
        })
    }

    fn config(&self, lab: usize) -> PathBuf {
        self.folder.path().join(format!("agent-{lab}.yaml"))
    }

    /// Lets the agent of a way write the way's access log.
    pub(super) fn set_log(&self, way: &Way) -> Result<()> {
        let file = self.folder.path().join("access.log");
        std::fs::write(&file, "")?;
        if !way.gated {
            return Ok(());
        }
        let encoding = match way.log {
            Log::Off => None,
            Log::Text => Some("TEXT"),
            Log::Json => Some("JSON"),
        };
        let text = encoding.map_or_else(
            || "mode: enforce\n".to_owned(),
            |encoding| {
                let file = file.display();
                format!("accessLogFile: {file}\naccessLogEncoding: {encoding}\n")
            },
        );
        std::fs::write(self.config(way.lab), text)?;
        let mut lab = self.labs[way.lab].borrow_mut();
        let agent = lab.agent()?;
        let mark = agent.mark();
        agent.signal(Signal::HUP)?;
        let applied = |line: &str| line.contains("config applied");
        agent
            .wait_line(mark, SOON, "config applied", applied)
            .map(drop)
    }

    /// Lines of the access log since [`Self::set_log`].
    pub(super) fn log_lines(&self, way: &Way) -> Result<usize> {
        let name = match (way.gated, way.log) {
            (true, _) => "access.log",
            (false, Log::Json) => "envoy.json.log",
            (false, _) => "envoy.log",
        };
        let file = self.folder.path().join(name);
        let text = std::fs::read(&file)?;
        // Envoy goes on writing behind a truncated file's end.
        std::fs::File::options()
            .write(true)
            .open(&file)?
            .set_len(0)?;
        let lines = text.split(|byte| *byte == b'\n').count();
        Ok(lines.saturating_sub(1))
    }

    pub(super) fn lab(&self, way: &Way) -> std::cell::Ref<'_, Lab> {
        self.labs[way.lab].borrow()
    }
}

impl Way {
    pub(super) fn cpu(&self) -> Result<Duration> {
        self.pid.map_or(Ok(Duration::ZERO), cpu_of)
    }

    /// Processor time since `before` for each of `units`, in parts of a second of which `scale` are one.
    pub(super) fn cpu_each(&self, before: Duration, scale: f64, units: f64) -> Result<Option<f64>> {
        let cpu = self.cpu()?.saturating_sub(before);
        Ok(self.pid.map(|_| cpu.as_secs_f64() * scale / units))
    }

    /// Where a client connects to.
    pub(super) fn to(&self, port: Port) -> SocketAddr {
        match self.address {
            None => SocketAddr::new(v4(host::ECHO), port.number()),
            Some((address, base)) => SocketAddr::new(address, base + port.offset()),
        }
    }

    pub(super) fn is_gated(&self) -> bool {
        self.gated
    }

    /// Where its clients run.
    pub(super) fn place<'a>(&self, lab: &'a Lab) -> Place<'a> {
        let cgroup = lab.client_place().cgroup.filter(|_| self.gated);
        Place {
            cgroup,
            netns: Some(lab.node()),
            resolver: None,
        }
    }

    /// Runs a client to its end and returns what it prints.
    pub(super) fn run(&self, rig: &Rig, program: &Path, arguments: &[String]) -> Result<String> {
        let lab = rig.lab(self);
        let mut command = self.place(&lab).command(program)?;
        command.args(arguments);
        let ended = client::run(command, LIMIT)?;
        ensure!(
            ended.exit == 0,
            "{} {arguments:?}: {}{}",
            program.display(),
            ended.stdout,
            ended.stderr
        );
        Ok(ended.stdout)
    }
}

fn listens(place: &Place<'_>, to: SocketAddr) -> Result<()> {
    let netns = place.netns.context("a namespace")?;
    wait_until("the server listens", SOON, || {
        netns.run(|| std::net::TcpStream::connect(to).ok()).ok()?
    })
    .map(drop)
}

/// `cargo xtask bench proxy` links it beside the build's folders.
fn envoy() -> Result<PathBuf> {
    match std::env::var_os("EGRESS_ENVOY") {
        Some(path) => Ok(path.into()),
        None => beside("envoy"),
    }
}
