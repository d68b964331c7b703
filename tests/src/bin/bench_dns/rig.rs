//! What the parts are measured with: the agents in labs, the peers beside them, the name server, and the ways to it.
//!
//! Owns the arrangement. The clients of an agent are gated and ask an address where no server is; those of peers are not
//! gated and ask the peer. Agents and peers run on processor 1, everything else on processor 0.

use super::Ways;
use super::load;
use super::peers;
use super::upstream::{HOST, Upstream};
use anyhow::{Context as _, Result};
use egress_tests::bench::{cpu_of, pin, pin_here};
use egress_tests::cgroup::Cgroup;
use egress_tests::child::Guarded;
use egress_tests::lab::v4;
use egress_tests::place::Place;
use egress_tests::wait::wait_until;
use egress_tests::{Lab, LabOptions};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);
const OTHERS: usize = 0;
const SERVERS: usize = 1;
/// The lab's node.
const NODE: &str = "203.0.113.1";
/// Names of each kind.
pub const NAMES: u32 = 500;
/// Where gated clients ask.
const ASKED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), 53);

/// A way to the name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// An agent, by the place of its lab.
    Agent(usize),
    /// A peer, by its place.
    Peer(usize, &'static str),
    Direct,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent(0) => "agent",
            Self::Agent(_) => "before",
            Self::Peer(_, name) => name,
            Self::Direct => "direct",
        }
    }
}

/// A server that is not the agent, once with a cache and once without one.
struct Peer {
    name: &'static str,
    keeping: Running,
    asking: Running,
}

struct Running {
    child: Guarded,
    at: SocketAddr,
}

/// A lab with an agent, and a second workload.
pub struct Site {
    // Dropped in this order.
    pub upstream: Upstream,
    pub lab: Lab,
    pub neighbour: Cgroup,
}

/// See the module.
pub struct Rig {
    // Ended in this order.
    peers: Vec<Peer>,
    pub sites: Vec<Site>,
    folder: TempDir,
}

impl Rig {
    /// Starts everything. `against`: another agent.
    pub fn start(against: Option<PathBuf>) -> Result<Self> {
        pin(std::process::id(), OTHERS)?;
        let folder = tempfile::tempdir()?;
        for letter in ['c', 'u', 'x'] {
            load::names(folder.path(), letter, NAMES)?;
        }
        let mut sites = vec![site(None)?];
        if let Some(binary) = against {
            sites.push(site(Some(binary))?);
        }
        let node: IpAddr = NODE.parse()?;
        let place = Place {
            netns: Some(sites[0].lab.node()),
            ..Place::default()
        };
        let [mut keeping, mut asking] = [Vec::new(), Vec::new()];
        for (keeps, port, all) in [(true, 5300, &mut keeping), (false, 5310, &mut asking)] {
            let base = SocketAddr::new(node, port);
            for (n, peer) in (0..).zip(peers::all(folder.path(), base, v4(HOST), keeps)?) {
                let at = SocketAddr::new(node, port + n);
                let child = start(&place, &peer, folder.path(), at)?;
                all.push((peer.name, Running { child, at }));
            }
        }
        let peers = keeping.into_iter().zip(asking);
        let peers = peers.map(|((name, keeping), (_, asking))| Peer {
            name,
            keeping,
            asking,
        });
        Ok(Self {
            peers: peers.collect(),
            sites,
            folder,
        })
    }

    /// The ways of a part.
    pub fn ways(&self, which: Ways) -> Vec<Way> {
        let mut ways: Vec<Way> = (0..self.sites.len()).rev().map(Way::Agent).collect();
        if which != Ways::Agents {
            let peers = self.peers.iter().enumerate();
            ways.extend(peers.map(|(at, peer)| Way::Peer(at, peer.name)));
        }
        if which == Ways::All {
            ways.push(Way::Direct);
        }
        ways
    }

    /// The lab of a way.
    pub fn site(&mut self, way: Way) -> &mut Site {
        match way {
            Way::Agent(at) => &mut self.sites[at],
            Way::Peer(..) | Way::Direct => &mut self.sites[0],
        }
    }

    fn running(&self, at: usize, keeps: bool) -> &Running {
        let peer = &self.peers[at];
        if keeps { &peer.keeping } else { &peer.asking }
    }

    /// Processor time of the server of a way so far.
    pub fn cpu(&mut self, way: Way, keeps: bool) -> Result<Duration> {
        match way {
            Way::Agent(at) => self.sites[at].lab.agent()?.cpu(),
            Way::Peer(at, _) => cpu_of(self.running(at, keeps).child.id()),
            Way::Direct => Ok(Duration::ZERO),
        }
    }

    /// Where clients of a way ask.
    pub fn to(&self, way: Way, keeps: bool) -> SocketAddr {
        match way {
            Way::Agent(_) => ASKED,
            Way::Peer(at, _) => self.running(at, keeps).at,
            Way::Direct => SocketAddr::new(v4(HOST), 53),
        }
    }

    /// Where clients of a way run.
    pub fn place(&self, way: Way) -> Place<'_> {
        let at = if let Way::Agent(at) = way { at } else { 0 };
        let lab = &self.sites[at].lab;
        let cgroup = lab.client_place().cgroup;
        Place {
            cgroup: cgroup.filter(|_| matches!(way, Way::Agent(_))),
            netns: Some(lab.node()),
            resolver: None,
        }
    }

    /// The file of queries for the names with this letter.
    pub fn names(&self, letter: char) -> PathBuf {
        self.folder.path().join(letter.to_string())
    }
}

fn site(binary: Option<PathBuf>) -> Result<Site> {
    let mut lab = Lab::without_agent(LabOptions {
        binary,
        servers: vec![SocketAddr::new(v4(HOST), 53)],
        ..LabOptions::flags(&["--dns-intercept=auto"])
    })?;
    let upstream = Upstream::start(lab.outside(), v4(HOST))?;
    let neighbour = lab.workloads().child("neighbour")?;
    lab.write_rules("names.yaml", &rules()?)?;
    start_agent(&mut lab)?;
    Ok(Site {
        upstream,
        lab,
        neighbour,
    })
}

/// Its runtime has as many threads as it sees processors.
pub fn start_agent(lab: &mut Lab) -> Result<()> {
    pin_here(SERVERS)?;
    let started = lab.start_agent();
    pin_here(OTHERS)?;
    started
}

fn rules() -> Result<String> {
    let mut text = String::new();
    for letter in ['c', 'u', 'n'] {
        writeln!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: all-{letter}}}\nspec:\n  \
             ports: [{{number: 443, name: tls, protocol: TLS}}]\n  resolution: DNS\n  hosts:"
        )?;
        for n in 0..NAMES {
            writeln!(text, "  - {letter}{n}.example")?;
        }
    }
    Ok(text)
}

fn start(
    place: &Place<'_>,
    peer: &peers::Program,
    folder: &Path,
    at: SocketAddr,
) -> Result<Guarded> {
    let log = folder.join(format!("{}-{}.log", peer.name, at.port()));
    let mut command = place.command(&peer.path)?;
    command
        .args(&peer.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?);
    pin_here(SERVERS)?;
    let child = Guarded::spawn(&mut command);
    pin_here(OTHERS)?;
    let child = child.with_context(|| format!("cannot start {}", peer.name))?;
    let netns = place.netns.context("a namespace")?;
    let question = [
        &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
        b"\x02c0\x07example\0\0\x01\0\x01",
    ]
    .concat();
    wait_until(peer.name, SOON, || {
        netns
            .run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
                socket
                    .set_read_timeout(Some(Duration::from_millis(200)))
                    .ok()?;
                socket.send_to(&question, at).ok()?;
                socket.recv(&mut [0; 512]).ok()
            })
            .ok()?
    })
    .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    Ok(child)
}
