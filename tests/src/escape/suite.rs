//! Tries every path of the table on the running kernel: outside the gate, where it must get out
//! (else the trial would prove nothing), then inside, and looks at what arrives on the cable.
//!
//! Owns the arrangement and the judging. What is tried stands in `table` and the probes.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::capture::{Capture, Frame};
use super::forged::SERVER_PORT;
pub use super::held::result_line;
use super::held::{Held, arguments, binary, read_result};
use super::sock::{Step, Stop};
use super::table::{Between, Control, Expect, Path, TARGET_PORT, Trial, paths};
use super::{Aim, table};
use crate::cgroup::Cgroup;
use crate::client;
use crate::lab::{Lab, LabOptions, host, v4, v6};
use crate::place::Place;

/// The proxy's port in this lab.
pub(super) const PROXY_PORT: u16 = 15001;
/// The node's addresses on the cable, and the far end's.
const OWN: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
/// Ranges that hold the node's addresses and not the far end's, listed as a cluster's would be.
const OWN_RANGES: [&str; 2] = ["203.0.113.0/31", "2001:db8:1::/127"];
const ROUTER: [&str; 2] = ["203.0.113.254", "2001:db8:1::fe"];
/// Longer than any probe waits.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// What is listed: an echo straight through, over TCP and UDP, and an HTTP host by the proxy.
const RULES: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 7, name: tcp-echo, protocol: TCP}]
  endpoints: [{address: 198.51.100.30}, {address: \"2001:db8:2::30\"}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo-datagrams}
spec:
  hosts: [datagrams.echo.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 7, name: udp-echo, protocol: UDP}]
  endpoints: [{address: 198.51.100.30}, {address: \"2001:db8:2::30\"}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin}
spec:
  hosts: [httpbin.org]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 198.51.100.10}, {address: \"2001:db8:2::10\"}]
";

/// What was seen of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing left.
    Closed,
    /// Something left.
    Open,
    /// This kernel has no such path.
    Missing,
    /// Not tried.
    Untried,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Missing => "not in this kernel",
            Self::Untried => "not tried",
        })
    }
}

/// One cell of the matrix.
#[derive(Debug, Clone)]
pub struct Cell {
    /// [`Path::name`].
    pub path: &'static str,
    /// `IPv4`, `IPv6`, or `-`.
    pub family: &'static str,
    /// What was seen.
    pub seen: Seen,
    /// Whether that is what the table says.
    pub agreed: bool,
    /// How the probe ended, or what went wrong.
    pub detail: String,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<27} {:<5} {:<19} {:<9} {}",
            self.path,
            self.family,
            self.seen,
            if self.agreed { "agreed" } else { "NOT SO" },
            self.detail
        )
    }
}

/// Tries all paths whose name contains `filter`; `show` gets each cell as soon as it is known.
pub fn run(filter: &str, show: &mut dyn FnMut(&Cell)) -> Result<Vec<Cell>> {
    let mut bench = Bench::set_up(filter)?;
    let mut cells = Vec::new();
    // What kills the agent comes last in the table.
    for path in paths().filter(|p| p.name.contains(filter)) {
        for over_v6 in path.families() {
            let cell = bench.cell(path, *over_v6);
            show(&cell);
            cells.push(cell);
        }
    }
    Ok(cells)
}

pub(super) struct Bench {
    pub(super) lab: Lab,
    capture: Capture,
    /// A cgroup that is not behind the gate.
    outside_gate: Cgroup,
    /// Probes that began before the attach.
    held: Vec<(&'static str, bool, Held)>,
    lsm: bool,
    pub(super) killed: bool,
}

/// How a probe ended, and what arrived meanwhile.
pub(super) struct Run {
    pub(super) result: Step,
    pub(super) escaped: Vec<Frame>,
    pub(super) listed: usize,
}

impl Run {
    pub(super) fn words(&self) -> String {
        let how = match &self.result {
            Ok(()) => "call succeeds".to_owned(),
            Err(stop) => format!("{}: {}", stop.call, errno_name(stop.errno)),
        };
        match self.escaped.first() {
            Some(frame) => format!("{how}; {} frames, {frame}", self.escaped.len()),
            None => how,
        }
    }
}

impl Bench {
    fn set_up(filter: &str) -> Result<Self> {
        let mut agent = vec![format!("--proxy-port={PROXY_PORT}")];
        for range in OWN_RANGES {
            agent.push(format!("--internal={range}"));
        }
        let lab = Lab::without_agent(LabOptions {
            agent,
            ..LabOptions::default()
        })?;
        // A way to everywhere, so that a path is not closed by want of a route.
        lab.node().ip(&format!(
            "route add default via {}\nroute add default via {}",
            ROUTER[0], ROUTER[1]
        ))?;
        lab.node().sysctl("ipv4/ping_group_range", "0 2147483647")?;
        lab.outside().ip("addr add fe80::fe/64 dev node0 nodad")?;
        lab.write_rules("rules.yaml", RULES)?;
        let capture = Capture::start(lab.outside())?;
        let mut bench = Self {
            lab,
            capture,
            outside_gate: Cgroup::new()?,
            held: Vec::new(),
            lsm: false,
            killed: false,
        };
        for path in paths().filter(|p| p.name.contains(filter)) {
            if matches!(path.trial, Trial::Staged(_, Between::Attach)) {
                for over_v6 in path.families() {
                    let aim = aim(*over_v6);
                    let held = Held::start(&bench.lab.client_place(), path.name, &aim)?;
                    bench.held.push((path.name, *over_v6, held));
                }
            }
        }
        bench.lab.start_agent()?;
        bench.lsm = pinned(bench.lab.bpf_dir(), table::LSM_PROGRAM).is_some();
        bench.settle(0)?;
        Ok(bench)
    }

    fn cell(&mut self, path: &'static Path, over_v6: bool) -> Cell {
        let family = match (path.over, over_v6) {
            (table::Over::Neither, _) => "-",
            (_, false) => "IPv4",
            (_, true) => "IPv6",
        };
        let outcome = match path.trial {
            Trial::Untried => Ok((Seen::Untried, String::new())),
            Trial::Suite(scenario) => self.scenario(scenario, over_v6),
            Trial::Probe(_) | Trial::Staged(..) => self.probe(path, over_v6),
        };
        let (seen, agreed, detail) = match outcome {
            Ok((seen, detail)) => (seen, self.agrees(path.expect, seen), detail),
            Err(error) => (Seen::Open, false, format!("{error:#}")),
        };
        Cell {
            path: path.name,
            family,
            seen,
            agreed,
            detail,
        }
    }

    fn agrees(&self, expect: Expect, seen: Seen) -> bool {
        match (expect, seen) {
            (_, Seen::Missing | Seen::Untried) => true,
            (Expect::Closed(_), seen) => seen == Seen::Closed,
            (Expect::NeedsLsm(_), seen) => self.lsm == (seen == Seen::Closed),
            (Expect::Open(_) | Expect::Works(_), seen) => seen == Seen::Open,
        }
    }

    fn probe(&mut self, path: &'static Path, over_v6: bool) -> Result<(Seen, String)> {
        let mut aim = aim(over_v6);
        if let Some(form) = path.form {
            aim.to = form(aim.to);
        }
        let control = self.try_in(Gate::Outside, path, &aim)?;
        if control.result.as_ref().is_err_and(unavailable) && control.escaped.is_empty() {
            return Ok((Seen::Missing, control.words()));
        }
        if path.control == Control::Leaves && control.escaped.is_empty() {
            bail!("outside the gate nothing leaves: {}", control.words());
        }
        let run = match path.trial {
            Trial::Staged(_, between) => self.between(path, over_v6, between, &aim)?,
            Trial::Probe(_) | Trial::Suite(_) | Trial::Untried => {
                self.try_in(Gate::Behind, path, &aim)?
            }
        };
        let words = run.words();
        let call_counts = matches!(path.control, Control::None(_));
        if !run.escaped.is_empty() || (call_counts && run.result.is_ok()) {
            return Ok((Seen::Open, words));
        }
        if path.listed {
            aim.to = aim.listed;
            let listed = self.try_in(Gate::Behind, path, &aim)?;
            if listed.result.is_err() || listed.listed == 0 {
                bail!(
                    "the same call to a listed destination fails: {}",
                    listed.words()
                );
            }
        }
        Ok((Seen::Closed, words))
    }

    pub(super) fn place(&self, gate: Gate) -> Place<'_> {
        match gate {
            Gate::Behind => self.lab.client_place(),
            Gate::Outside => Place {
                cgroup: Some(&self.outside_gate),
                netns: Some(self.lab.node()),
                resolver: None,
            },
        }
    }

    /// Runs a probe from start to end.
    fn try_in(&mut self, gate: Gate, path: &Path, aim: &Aim) -> Result<Run> {
        let command = self.place(gate).command(binary()?)?;
        self.try_by(command, path.name, path.called, aim)
    }

    pub(super) fn try_by(
        &mut self,
        mut command: Command,
        name: &str,
        called: bool,
        aim: &Aim,
    ) -> Result<Run> {
        arguments(&mut command, name, aim);
        let stop = AtomicBool::new(false);
        let outside = self.lab.outside();
        let ended = thread::scope(|scope| {
            let writer = called.then(|| scope.spawn(|| outside.run(|| write_to_node(aim, &stop))));
            let ended = client::run(command, PROBE_LIMIT);
            stop.store(true, Ordering::Relaxed);
            if let Some(writer) = writer {
                let _ = writer.join();
            }
            ended
        })?;
        let result = read_result(&ended.stdout).with_context(|| format!("{name}: {ended:?}"))?;
        self.judge(result, aim, called)
    }

    /// Looks at what arrived since the last look.
    fn judge(&mut self, result: Step, aim: &Aim, called: bool) -> Result<Run> {
        let frames = self.settle(usize::from(aim.to.is_ipv6()))?;
        let to = |frame: &Frame, ip: IpAddr| frame.to == Some(ip);
        let is_listed = |frame: &Frame| {
            // Later fragments have no port to look at.
            (to(frame, aim.listed.ip()) && matches!(frame.protocol, 6 | 17 | 44))
                || (to(frame, aim.proxied.ip()) && (frame.protocol, frame.port) == (6, 80))
        };
        // The kernel's own word to a host that was let in or listed, about a socket that is gone.
        let is_courtesy = |frame: &Frame| {
            frame.is_unreachable()
                && (to(frame, aim.listed.ip()) || (called && to(frame, aim.to.ip())))
        };
        let listed = frames.iter().filter(|f| is_listed(f)).count();
        let escaped = frames
            .into_iter()
            .filter(|f| !is_listed(f) && !is_courtesy(f))
            .collect();
        Ok(Run {
            result,
            escaped,
            listed,
        })
    }

    fn settle(&mut self, family: usize) -> Result<Vec<Frame>> {
        self.capture
            .settle(self.lab.node(), ROUTER[family].parse()?)
    }

    fn between(&mut self, path: &Path, over_v6: bool, between: Between, aim: &Aim) -> Result<Run> {
        let held = match between {
            Between::Attach => {
                let at = self
                    .held
                    .iter()
                    .position(|(name, v6, _)| *name == path.name && *v6 == over_v6);
                self.held.remove(at.context("it was begun before")?).2
            }
            Between::MoveIn => {
                let held = Held::start(&self.place(Gate::Outside), path.name, aim)?;
                held.move_to(self.lab.client_place().cgroup.context("a cgroup")?)?;
                held
            }
            Between::MoveOut => {
                let held = Held::start(&self.place(Gate::Behind), path.name, aim)?;
                held.move_to(&self.outside_gate)?;
                held
            }
        };
        // What it did before is not on trial.
        self.settle(usize::from(over_v6))?;
        let result = held.finish()?;
        self.judge(result, aim, false)
    }
}

#[derive(Clone, Copy)]
pub(super) enum Gate {
    Behind,
    Outside,
}

pub(super) fn aim(over_v6: bool) -> Aim {
    let address = if over_v6 { v6 } else { v4 };
    Aim {
        to: SocketAddr::new(address(host::BYSTANDER), TARGET_PORT),
        listed: SocketAddr::new(address(host::ECHO), 7),
        proxied: SocketAddr::new(address(host::HTTPBIN), 80),
        own: OWN[usize::from(over_v6)]
            .parse()
            .unwrap_or(IpAddr::from([0; 4])),
        proxy_port: PROXY_PORT,
    }
}

/// The errors by which a kernel says that it has no such socket.
fn unavailable(stop: &Stop) -> bool {
    matches!(
        stop.errno,
        libc::EAFNOSUPPORT
            | libc::EPROTONOSUPPORT
            | libc::ESOCKTNOSUPPORT
            | libc::ENOPROTOOPT
            | libc::ENOSYS
            | libc::EOPNOTSUPP
    )
}

fn errno_name(errno: i32) -> String {
    if errno == 0 {
        return "refused".to_owned();
    }
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os").next().unwrap_or_default().to_owned()
}

/// The pin of that name, wherever below `dir` it is.
pub(super) fn pinned(dir: &FilePath, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(path);
        }
        entry
            .file_type()
            .ok()?
            .is_dir()
            .then(|| pinned(&path, name))?
    })
}

/// The target writes to the node's server until `stop`.
fn write_to_node(aim: &Aim, stop: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind(aim.to)?;
    while !stop.load(Ordering::Relaxed) {
        // A server that is not there yet shows as an error of the next send.
        let _ = socket.send_to(b"anyone?", SocketAddr::new(aim.own, SERVER_PORT));
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
