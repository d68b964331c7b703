//! Tries every path of the table on the running kernel and compares the result with the table.
//!
//! Owns the setup and the comparison. `table` and the probes have the paths, `trial` and `scenarios` run them.

use super::capture::Capture;
pub use super::cell::{Cell, Seen};
use super::claimed::RESOLVER;
use super::held::Held;
pub use super::held::result_line;
use super::table::{Between, Expect, Path, TARGET_PORT, Trial, paths};
use super::{Aim, table};
use crate::cgroup::Cgroup;
use crate::lab::{Lab, LabOptions, host, v4, v6};
use crate::netns::NetNs;
use crate::pinned;
use anyhow::Result;
use std::net::{IpAddr, SocketAddr};

/// The port of DNS servers.
const DNS_PORT: u16 = 53;
/// The proxy's port in this lab.
pub(super) const PROXY_PORT: u16 = 15001;
/// The node's addresses on the cable, and the far end's.
const OWN: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];
/// Ranges with the node's addresses and without the far end's, listed as the ranges of a cluster would be.
const OWN_RANGES: [&str; 2] = ["203.0.113.0/31", "2001:db8:1::/127"];
pub(super) const ROUTER: [&str; 2] = ["203.0.113.254", "2001:db8:1::fe"];

/// The rules: an echo without the proxy, over TCP and UDP, and an HTTP host through the proxy.
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
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: groups}
spec:
  hosts: [groups.example]
  location: MESH_EXTERNAL
  resolution: NONE
  addresses: [203.0.113.255, 224.0.0.1, \"ff02::1\"]
  ports: [{number: 10, name: udp-groups, protocol: UDP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: networks}
spec:
  hosts: [networks.example]
  location: MESH_EXTERNAL
  resolution: NONE
  addresses: [203.0.113.0/24, 128.0.0.0/1, \"8000::/1\"]
  ports: [{number: 11, name: udp-networks, protocol: UDP}]
";

/// Tries all paths whose name contains `filter`; `show` gets each cell as soon as it is known.
pub fn run(filter: &str, show: &mut dyn FnMut(&Cell)) -> Result<Vec<Cell>> {
    // Paths that kill the agent come last in the table.
    run_to(TARGET_PORT, &[], |path| path.name.contains(filter), show)
}

/// Tries the paths that end at a port of a target towards port 53, while the agent answers DNS queries: they are
/// redirected instead of denied, and nothing may reach the target either.
pub fn run_dns(show: &mut dyn FnMut(&Cell)) -> Result<Vec<Cell>> {
    let closed = |path: &Path| {
        let tried = matches!(path.trial, Trial::Probe(_) | Trial::Staged(..));
        // An answer to a client that sends from port 53 is redirected too, as docs/dns.md says.
        tried && path.caller.is_none() && matches!(path.expect, Expect::Closed(_))
    };
    run_to(DNS_PORT, &["--dns-intercept=auto"], closed, show)
}

fn run_to(
    port: u16,
    flags: &[&str],
    tried: impl Fn(&Path) -> bool,
    show: &mut dyn FnMut(&Cell),
) -> Result<Vec<Cell>> {
    let mut bench = Bench::set_up(port, flags, &tried)?;
    let mut cells = Vec::new();
    for path in paths().filter(|path| tried(path)) {
        for over_v6 in path.families() {
            let cell = bench.cell(path, *over_v6);
            show(&cell);
            cells.push(cell);
        }
    }
    Ok(cells)
}

pub(super) struct Bench {
    /// The port of the target.
    pub(super) port: u16,
    pub(super) lab: Lab,
    pub(super) capture: Capture,
    /// A cgroup that is not behind the gate.
    pub(super) outside_gate: Cgroup,
    /// Probes that began before the attach.
    pub(super) held: Vec<(&'static str, bool, Held)>,
    lsm: bool,
    pub(super) killed: bool,
    pub(super) neighbour: Option<NetNs>,
}

impl Bench {
    fn set_up(port: u16, flags: &[&str], tried: &dyn Fn(&Path) -> bool) -> Result<Self> {
        let mut agent = vec![format!("--proxy-port={PROXY_PORT}")];
        agent.extend(flags.iter().map(ToString::to_string));
        for range in OWN_RANGES {
            agent.push(format!("--internal={range}"));
        }
        agent.push(format!("--dns-server={RESOLVER}"));
        let lab = Lab::without_agent(LabOptions {
            agent,
            ..LabOptions::default()
        })?;
        // A default route, so that no path is closed only because there is no route.
        lab.node().ip(&format!(
            "route add default via {}\nroute add default via {}",
            ROUTER[0], ROUTER[1]
        ))?;
        lab.node().sysctl("ipv4/ping_group_range", "0 2147483647")?;
        lab.outside().ip("addr add fe80::fe/64 dev node0 nodad")?;
        lab.write_rules("rules.yaml", RULES)?;
        let capture = Capture::start(lab.outside())?;
        if port == DNS_PORT {
            let target = [v4(host::BYSTANDER), v6(host::BYSTANDER)];
            lab.world().anyone(&target, &[port])?;
        }
        let mut bench = Self {
            port,
            lab,
            capture,
            outside_gate: Cgroup::new()?,
            held: Vec::new(),
            lsm: false,
            killed: false,
            neighbour: None,
        };
        for path in paths().filter(|path| tried(path)) {
            if matches!(path.trial, Trial::Staged(_, Between::Attach)) {
                for over_v6 in path.families() {
                    let aim = aim(*over_v6, port);
                    let held = Held::start(&bench.lab.client_place(), path.name, &aim)?;
                    bench.held.push((path.name, *over_v6, held));
                }
            }
        }
        bench.lab.start_agent()?;
        let attached = pinned::attached(bench.lab.bpf_dir())?;
        let lsm = format!("/{}", table::LSM_PROGRAM);
        bench.lsm = attached.keys().any(|name| name.ends_with(&lsm));
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
}

pub(super) fn aim(over_v6: bool, port: u16) -> Aim {
    let address = if over_v6 { v6 } else { v4 };
    Aim {
        to: SocketAddr::new(address(host::BYSTANDER), port),
        listed: SocketAddr::new(address(host::ECHO), 7),
        proxied: SocketAddr::new(address(host::HTTPBIN), 80),
        own: OWN[usize::from(over_v6)]
            .parse()
            .unwrap_or(IpAddr::from([0; 4])),
        proxy_port: PROXY_PORT,
    }
}
