//! The agent's memory for idle connections, and what remains after they are closed.
//!
//! Owns the measurement. Tests and benches decide what is too much.

use crate::agent::beside;
use crate::background::Background;
use crate::bench::settled;
use crate::cgroup::Cgroup;
use crate::lab::{Lab, host, v4};
use crate::place::Place;
use crate::rules::each_way;
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::time::Duration;

/// Workloads among which the connections are divided: each may have a quarter of all.
pub const WORKLOADS: usize = 4;

/// How long the clients may take.
const LIMIT: Duration = Duration::from_mins(10);

/// The protocol of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// One HTTP request each; they are kept alive.
    Http,
    /// One request each over TLS, which the proxy relays.
    Tls,
}

/// Resident memory of the agent, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Connections that were open at the same time.
    pub connections: usize,
    /// Before the first.
    pub before: u64,
    /// While all are idle.
    pub idle: u64,
    /// After the last was closed.
    pub closed: u64,
}

impl Memory {
    /// Bytes of one idle connection, above the smallest memory without connections.
    pub fn of_each(&self) -> u64 {
        let without = self.before.min(self.closed);
        self.idle.saturating_sub(without) / (self.connections as u64).max(1)
    }
}

/// Opens `count` connections of several workloads, or as many as the agent serves, makes one request on each, and
/// closes them.
pub fn measure(lab: &mut Lab, speaks: Speaks, count: usize) -> Result<Memory> {
    raise_descriptors()?;
    lab.rules("each-way.yaml", &each_way())?;
    let workloads: Vec<_> = (0..WORKLOADS)
        .map(|n| lab.workloads().child(&format!("idle-{n}")))
        .collect::<Result<_>>()?;
    // The first connection has costs of its own, which are not part of the measurement.
    end(hold(lab, &workloads, speaks, WORKLOADS)?.0)?;
    let before = settled(lab.agent()?.pid(), LIMIT)?;
    let (clients, connections) = hold(lab, &workloads, speaks, count)?;
    let idle = settled(lab.agent()?.pid(), LIMIT)?;
    end(clients)?;
    Ok(Memory {
        connections,
        before,
        idle,
        closed: settled(lab.agent()?.pid(), LIMIT)?,
    })
}

/// The clients of all workloads, and their number of connections, once each was answered or denied.
fn hold(
    lab: &Lab,
    workloads: &[Cgroup],
    speaks: Speaks,
    count: usize,
) -> Result<(Vec<Background>, usize)> {
    let each = (count / WORKLOADS).to_string();
    let authority = lab.authority().path().to_str().context("a path")?;
    let (last, port, name, more) = match speaks {
        Speaks::Http => (host::HTTPBIN, 80, "httpbin.org", None),
        Speaks::Tls => (host::GOOGLE, 443, "www.google.com", Some(authority)),
    };
    let mut clients = Vec::new();
    for workload in workloads {
        let place = Place {
            cgroup: Some(workload),
            ..lab.client_place()
        };
        let mut command = place.command(beside("idle")?)?;
        command.args(["--count", &each, "--host", name]);
        command.args(more.iter().flat_map(|file| ["--authority", file]));
        command.arg(SocketAddr::new(v4(last), port).to_string());
        clients.push(Background::start(command)?);
    }
    let mut open = 0;
    for client in &clients {
        let line =
            client.wait_line("its connections are open", LIMIT, |l| l["open"].is_number())?;
        let held = line["open"].as_u64().unwrap_or_default();
        ensure!(held > 0, "{line}");
        open += usize::try_from(held)?;
    }
    Ok((clients, open))
}

fn end(clients: Vec<Background>) -> Result<()> {
    clients
        .into_iter()
        .try_for_each(|client| client.end().map(drop))
}

/// The hosts of the lab need a descriptor for each connection.
fn raise_descriptors() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
