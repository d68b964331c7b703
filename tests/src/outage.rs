//! The API server is away for long: workloads go on with listed and unlisted traffic, the rules change on the server
//! meanwhile, and the server comes back.
//!
//! Owns the arrangement and the figures. A bench runs it for an hour, a test for seconds; both judge the figures.

use crate::agent::beside;
use crate::api::{FakeApi, Fault};
use crate::background::Background;
use crate::lab::{Lab, LabOptions, host, v4};
use crate::load::Counts;
use crate::pods::cluster::NODE;
use crate::steady;
use crate::wait::interrupted;
use crate::watcher::{Watcher, now};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Hosts whose entry is created and deleted while the server is away.
const CREATED: u8 = 31;
const DELETED: u8 = 32;
const PORT: u16 = 7;

/// How the server is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It refuses connections.
    Refuses,
    /// It accepts connections and requests, and answers nothing.
    Hangs,
}

/// What an outage needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Another agent than the one that was built with the tests.
    pub binary: Option<PathBuf>,
    /// How long the server is away, in parts. It is away in another way in each part, without a moment in between.
    pub parts: Vec<(Way, Duration)>,
    /// The pause between two tries of each kind of traffic.
    pub pause: Duration,
    /// The time between two looks at the agent's resources.
    pub look: Duration,
}

/// What came of a part.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// How the server was away.
    pub way: Way,
    /// For how long.
    pub time: Duration,
    /// Connections that the server refused.
    pub refused: u64,
    /// Requests that it did not answer.
    pub unanswered: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The parts in their order.
    pub parts: Vec<Part>,
    /// From the server's return until the rules that changed meanwhile were in force: an entry that was created, and one
    /// that was deleted.
    pub in_force: [Duration; 2],
    /// The results of direct, redirected and unlisted flows (`bin/load.rs`).
    pub flows: Counts,
    /// The results of HTTP requests (`bin/prober.rs`).
    pub http: Value,
    /// Connections and datagrams that arrived at hosts that no rule in force listed.
    pub leaked: usize,
    /// The agent's processor time while the server was away.
    pub cpu: Duration,
    /// The agent's resident bytes: before, at each look, and after the return.
    pub resident: Vec<u64>,
}

impl Outcome {
    /// Flows of listed destinations that failed.
    pub fn failed(&self) -> u64 {
        let flow = |name: &String| {
            let listed = !name.starts_with("unlisted");
            listed && result(name) != "ok"
        };
        let flows = self.flows.iter().filter(|(name, _)| flow(name));
        let http = |pointer: &str| self.http.pointer(pointer).and_then(Value::as_u64);
        let kept = ["closed", "crossed", "cut"].map(|what| http(&format!("/kept/{what}")));
        let fresh = self
            .http
            .pointer("/fresh/failed")
            .and_then(Value::as_object);
        let fresh = fresh.into_iter().flatten();
        flows.map(|(_, count)| *count).sum::<u64>()
            + kept.into_iter().flatten().sum::<u64>()
            + fresh.filter_map(|(_, count)| count.as_u64()).sum::<u64>()
    }

    /// Listed flows that went through.
    pub fn passed(&self) -> u64 {
        let flows = self.flows.iter().filter(|(name, _)| result(name) == "ok");
        let http = ["/fresh/ok", "/kept/ok"].map(|at| self.http.pointer(at)?.as_u64());
        flows.map(|(_, count)| *count).sum::<u64>() + http.into_iter().flatten().sum::<u64>()
    }

    /// Unlisted flows that the gate denied.
    pub fn denied(&self) -> u64 {
        let denied = |name: &String| name.starts_with("unlisted") && result(name) == "eperm";
        let flows = self.flows.iter().filter(|(name, _)| denied(name));
        flows.map(|(_, count)| *count).sum()
    }

    /// Unlisted flows that the gate did not deny, by their own account or by that of the hosts.
    pub fn leaks(&self) -> u64 {
        let unlisted = self
            .flows
            .iter()
            .filter(|(name, _)| name.starts_with("unlisted"));
        let all: u64 = unlisted.map(|(_, count)| *count).sum();
        (all - self.denied()).max(self.leaked as u64)
    }
}

/// The result in the name of a count, `WHAT.RESULT`.
fn result(name: &str) -> &str {
    name.split_once('.').map_or("", |(_, result)| result)
}

/// Runs the whole.
pub fn run(options: &Options) -> Result<Outcome> {
    let mut site = Site::start(options)?;
    let (created, deleted) = (
        SocketAddr::new(v4(CREATED), PORT),
        SocketAddr::new(v4(DELETED), PORT),
    );
    let strangers = [CREATED, DELETED].map(|last| site.lab.world().echo(&[v4(last)], PORT));
    let [stranger, former] = strangers;
    let (stranger, former) = (stranger?, former?);
    let load = steady::slow_load(&site.lab.client_place(), options.pause)?;
    let http = site.http(options.pause)?;
    let before = site.lab.agent()?.cpu()?;
    let mut resident = vec![site.lab.agent()?.resident()?];
    let mut parts = Vec::new();
    for (number, (way, time)) in options.parts.iter().enumerate() {
        let (refused, asked) = (site.refused()?, site.api.all_requests());
        site.away(*way)?;
        // Meanwhile the rules change.
        if number == 0 {
            site.api.apply(&entry("created", CREATED))?;
            site.api.unapply(&entry("deleted", DELETED))?;
        }
        site.api.apply(&entry(&format!("other-{number}"), 40))?;
        let began = Instant::now();
        let mut looked = began;
        while began.elapsed() < *time {
            ensure!(!interrupted(), "interrupted");
            if looked.elapsed() >= options.look {
                looked = Instant::now();
                resident.push(site.lab.agent()?.resident()?);
            }
            std::thread::sleep(Duration::from_millis(20).min(*time));
        }
        ensure!(
            site.lab.attempt("tcp", created)?.denied(),
            "a rule that the server could not announce is in force"
        );
        ensure!(
            site.lab.attempt("tcp", deleted)?.passed(),
            "a rule ended while the server was away"
        );
        parts.push(Part {
            way: *way,
            time: began.elapsed(),
            refused: site.refused()? - refused,
            unanswered: (site.api.all_requests() - asked) as u64,
        });
    }
    let cpu = site.lab.agent()?.cpu()?.saturating_sub(before);
    let [appears, ends] = [created, deleted].map(|to| Watcher::start(&site.lab, to));
    let (appears, ends) = (appears?, ends?);
    appears.denied(0)?;
    ends.connected(0)?;
    ensure!(stranger.connections() == 0, "a leak");
    let back = now();
    site.back()?;
    let at = [appears.connected(back)?, ends.denied(back)?];
    resident.push(site.lab.agent()?.resident()?);
    appears.end()?;
    ends.end()?;
    let arrived = former.connections();
    ensure!(
        site.lab.attempt("tcp", deleted)?.denied(),
        "a deleted rule is in force"
    );
    let leaked = site.lab.bystander.connections() + former.connections() - arrived;
    Ok(Outcome {
        parts,
        in_force: at.map(|at| Duration::from_micros(at - back)),
        flows: load.stop()?,
        http: http.end()?,
        leaked,
        cpu,
        resident,
    })
}

/// The lab and the server. The agent ends first.
struct Site {
    lab: Lab,
    api: FakeApi,
    stopped: bool,
}

impl Site {
    /// An agent that has everything from the API: rules, identities and ranges.
    fn start(options: &Options) -> Result<Self> {
        let mut lab = Lab::without_agent(LabOptions {
            files: false,
            binary: options.binary.clone(),
            ..LabOptions::default()
        })?;
        let api = FakeApi::start_in(lab.node())?;
        let kubeconfig = api.kubeconfig()?.display().to_string();
        lab.add_flags(&[
            "--kubernetes-rules",
            "--kubernetes-node",
            NODE,
            "--kubeconfig",
            &kubeconfig,
        ]);
        api.install_istio();
        api.install_ranges();
        api.install_service_ranges();
        api.put(
            "servicecidrs",
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}),
        )?;
        api.put("nodes", json!({
            "metadata": {"name": NODE}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "203.0.113.251"}]},
        }))?;
        steady::prepare(&lab)?;
        for (_, text) in steady::LISTED {
            api.apply(text)?;
        }
        api.apply(&entry("deleted", DELETED))?;
        lab.start_agent()?;
        Ok(Self {
            lab,
            api,
            stopped: false,
        })
    }

    fn http(&self, pause: Duration) -> Result<Background> {
        let mut command = self.lab.command(&beside("prober")?.to_string_lossy())?;
        let to = SocketAddr::new(v4(host::HTTPBIN), 80).to_string();
        // The origin keeps a record of each request.
        let pause = (pause * 5).as_millis().to_string();
        command.args([&to, "httpbin.org", &pause]);
        Background::start(command)
    }

    fn away(&mut self, way: Way) -> Result<()> {
        match way {
            Way::Refuses => {
                self.api.stop()?;
                self.stopped = true;
            }
            Way::Hangs => {
                self.api.fault(|_| Some(Fault::Hang));
                if std::mem::take(&mut self.stopped) {
                    self.api.start_again()?;
                }
                self.api.cut();
            }
        }
        Ok(())
    }

    /// The server is back. One that hung is replaced: its connections break.
    fn back(&mut self) -> Result<()> {
        self.api.no_fault();
        if std::mem::take(&mut self.stopped) {
            self.api.start_again()?;
        }
        self.api.cut();
        Ok(())
    }

    /// Connections of this node that were refused so far: `AttemptFails` of RFC 4022. Denied connects are not counted,
    /// because they fail before the SYN.
    fn refused(&self) -> Result<u64> {
        let text = self
            .lab
            .node()
            .run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (
            lines.next().context("names")?,
            lines.next().context("values")?,
        );
        let mut pairs = names.split(' ').zip(values.split(' '));
        let (_, value) = pairs
            .find(|(name, _)| *name == "AttemptFails")
            .context("AttemptFails")?;
        Ok(value.parse()?)
    }
}

/// One listed port of one address.
fn entry(name: &str, last: u8) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.example]
  ports: [{{number: {PORT}, name: tcp, protocol: TCP}}]
  resolution: STATIC
  endpoints: [{{address: {}}}]
",
        v4(last)
    )
}
